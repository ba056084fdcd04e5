"""Engines that serve a checkpoint: which ranks each can hold, and what cache it allocates for them."""
