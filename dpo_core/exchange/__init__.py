"""Preferences to and from other programs: OneTrainer's folders and HuggingFace's datasets."""
