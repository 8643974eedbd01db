"""Preference records: what was preferred to what, under which prompt, and where it came from."""
