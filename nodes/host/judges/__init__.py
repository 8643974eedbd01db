"""Judges that need the host: its CLIP, its vision models, its language models, its card."""
