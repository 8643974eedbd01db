"""Tiny reward models of the real architectures, and their originals' arithmetic in plain torch."""
