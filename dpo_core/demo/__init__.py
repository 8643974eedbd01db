"""A tiny trained denoiser and its world of drawn pictures, so that all runs without a host."""
