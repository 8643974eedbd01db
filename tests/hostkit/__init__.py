"""The kit with which `tests/host` drives a real ComfyUI checkout."""
