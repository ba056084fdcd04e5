"""Writes all tables."""

from api.reference.pages import main

main()
