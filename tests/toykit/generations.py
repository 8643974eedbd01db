"""Small images as programs leave them in an output folder: PNG, JPEG and WebP with metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin


def graph(prompt: str, seed: int, negative: str = "blurry") -> dict[str, Any]:
    """A ComfyUI prompt graph: checkpoint, two texts, a sampler, a saved picture."""
    nodes = {
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "toy.safetensors"}),
        "6": ("CLIPTextEncode", {"text": prompt, "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": negative, "clip": ["4", 1]}),
        "5": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "3": ("KSampler", {"seed": seed, "steps": 20, "cfg": 8, "sampler_name": "euler",
                           "scheduler": "normal", "denoise": 1, "model": ["4", 0],
                           "positive": ["6", 0], "negative": ["7", 0],
                           "latent_image": ["5", 0]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "ComfyUI"}),
    }  # fmt: skip
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def picture(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Noise of (width, height), another for each seed."""
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def write_generation(
    path: Path,
    prompt: str | None,
    seed: int,
    size: tuple[int, int] = (24, 16),
    *,
    at: float | None = None,
    image: Image.Image | None = None,
    orientation: int = 1,
) -> Path:
    """An image with the graph that ComfyUI would write, or none without a prompt.

    `at` is the file's time in seconds; `image` replaces the noise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(seed, size) if image is None else image
    text = None if prompt is None else json.dumps(graph(prompt, seed))
    exif = image.getexif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = orientation
    if path.suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        if text is not None:
            chunks.add_text("prompt", text)
        image.save(path, pnginfo=chunks, exif=exif)
    else:
        if text is not None:
            exif[ExifTags.Base.Model] = f"prompt:{text}"
        image.save(path, exif=exif)
    if at is not None:
        os.utime(path, (at, at))
    return path
