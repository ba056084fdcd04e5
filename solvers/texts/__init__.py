"""Texts as windows of token ids: files, records, conversations, and tokenizers that nobody vouches for."""
