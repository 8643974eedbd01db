"""Preference training for image denoisers, independent of any host program."""
