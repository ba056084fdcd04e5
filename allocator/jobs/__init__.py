"""Jobs: requests become items, workers execute them, and what is lost is found again."""
