"""The bridge to ComfyUI: the only place that knows how its models are loaded and called."""
