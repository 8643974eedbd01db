"""The kit with which `tests/web` drives ComfyUI's own page in a browser."""
