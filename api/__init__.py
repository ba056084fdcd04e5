"""The REST API over `allocator`. Never imports torch: it starts fast and stays small."""
