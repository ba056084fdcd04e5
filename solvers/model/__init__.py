"""A loaded model that layers of mixed ranks are put into, run in pieces and looked into."""
