"""A picture as the bytes of an image file: a file's own, or a PNG of pixels in memory."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from ..metadata.image_metadata import PROMPT_KEY
from ..metadata.prompt_text import tidy_prompt
from .image_file import IMAGE_SUFFIXES, read_image_bytes
from .problem import PairError, PairProblem
from .record import Picture


def picture_suffix(picture: Picture) -> str:
    """How the name of its file ends: ".png" for pixels in memory."""
    suffix = "" if picture.path is None else picture.path.suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ".png"


def save_picture(picture: Picture, path: Path, prompt: str) -> None:
    """Write a picture's file; one of pixels in memory, 8 bit, holds its prompt.

    Raises PairError when the picture's own file cannot be read; OSError for no room.
    """
    if picture.path is None:
        with path.open("wb") as file:
            _write_png(picture, file, prompt)
        return
    try:
        with picture.path.open("rb"):
            pass
    except OSError as error:
        what = f"Image cannot be opened ({error.strerror})"
        fix = "Check that it exists and may be read."
        raise PairError([PairProblem(what, picture.name, fix)]) from error
    shutil.copyfile(picture.path, path)


def picture_bytes(picture: Picture, prompt: str) -> bytes:
    """The bytes that `save_picture` would write. Raises PairError."""
    if picture.path is not None:
        return read_image_bytes(picture.path, picture.name)
    file = BytesIO()
    _write_png(picture, file, prompt)
    return file.getvalue()


def png_bytes(picture: Picture, prompt: str) -> bytes:
    """A PNG of the picture, whatever its own file is. Raises PairError."""
    file = BytesIO()
    _write_png(picture, file, prompt)
    return file.getvalue()


def _write_png(picture: Picture, file: BinaryIO, prompt: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    if prompt:
        chunks.add_itxt(PROMPT_KEY, tidy_prompt(prompt))
    pixels = np.rint(picture.pixels() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=chunks)
