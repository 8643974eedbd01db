"""Rounds of online training on the host's model."""
