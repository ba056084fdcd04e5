"""Model folders, read with mistrust and written so that they load elsewhere."""
