"""ComfyUI nodes: thin schemas over the core and the host bridge."""
