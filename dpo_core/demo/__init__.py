"""A tiny trained denoiser and its world of drawn pictures, so that everything runs without a host."""
