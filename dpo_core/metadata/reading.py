"""Reads what an image file tells of how the picture was made."""

from __future__ import annotations

from pathlib import Path

from .image_metadata import ImageMetadata
from .prompt_metadata import read_prompt


def read_metadata(path: Path) -> ImageMetadata:
    """What the metadata of a PNG, JPEG or WebP file tells; empty for any other file.

    Never raises; reads only as far as the pixels begin.
    """
    return ImageMetadata(prompt=read_prompt(path))
