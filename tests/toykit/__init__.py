"""A tiny flow model and pairs for it: a small but complete implementation of the core's ports."""
