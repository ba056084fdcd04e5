"""Metrics: what ranks cost. One file each, and a registry that everything else is made from."""
