"""Profiles and plans: what is stored, written to files and answered over REST, each one frozen pydantic class."""
