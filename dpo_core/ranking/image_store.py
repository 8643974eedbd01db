"""A session's images: each stored once under the hash of its pixels, as PNG with its metadata."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metadata.image_metadata import PROMPT_KEY
from .durable_file import sync_folder, write_durably
from .png_file import write_png
from .thumbnails import Thumbnails
from .vote import DIGEST, Candidate

MAX_METADATA_CHARS = 4_000_000
MAX_SIDE = 16_384
_MAX_THREADS = 16
_STRIPE_ROWS = 64  # few enough that what is worked out on the way stays in the processor's cache


@dataclass(frozen=True)
class NewImage:
    """An image to be stored.

    Attributes:
        pixels: (height, width, 3), either uint8, or floats in 0..1, which are clipped and rounded.
        metadata: text chunks to keep in the file, such as ComfyUI's `prompt` and `workflow`, or
            seed, sampler and checkpoint; names of 1 to 79 printable ASCII characters.
        id: what `identified_images` said of these pixels; empty if it was not asked.
    """

    pixels: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


def identified_images(images: Sequence[Any]) -> list[tuple[str, NDArray[np.uint8]]]:
    """The ids images are stored under, and their pixels as they are stored.

    Args:
        images: each as `pixels` of NewImage.

    Raises:
        ValueError: one is no image.
    """
    with ThreadPoolExecutor(_threads()) as pool:  # what takes its time lets go of the lock
        return list(pool.map(_identified, images))


class ImageStore:
    """The folder `images/` of a session, and `thumbnails/` beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thumbnails = Thumbnails(folder.parent / "thumbnails", self.path)

    def add(self, images: Sequence[NewImage], prompt: str) -> list[Candidate]:
        """Stores images that are not there yet, durably; the candidates in the same order.

        Raises:
            ValueError: not pixels of an image, or metadata that a PNG cannot hold.
            OSError: no room, no permission.
        """
        texts = [_texts(image.metadata, prompt) for image in images]
        unknown = iter(identified_images([image.pixels for image in images if not image.id]))
        found = [(image.id, image.pixels) if image.id else next(unknown) for image in images]
        new: dict[Path, partial[None]] = {}
        for (image_id, pixels), chunks in zip(found, texts, strict=True):
            path = self.path(image_id)
            if path not in new and not path.exists():
                new[path] = partial(write_png, pixels=pixels, texts=chunks)
        with ThreadPoolExecutor(_threads()) as pool:
            write_durably(new, pool)
            sync_folder(self.folder)  # also if nothing is new: its writer may have died before
            list(pool.map(lambda one: self.thumbnails.make(*one), dict(found).items()))
        return [
            Candidate(image_id, pixels.shape[1], pixels.shape[0]) for image_id, pixels in found
        ]

    def path(self, image_id: str) -> Path:
        """Where an image lies, or would. Raises ValueError for what is no image id."""
        if not DIGEST.fullmatch(image_id):
            raise ValueError(f"{ascii(image_id)[:60]} is not an image of a session")
        return self.folder / f"{image_id}.png"

    def present(self) -> set[str]:
        """The ids of all images that are there."""
        if not self.folder.is_dir():
            return set()
        paths = (Path(entry.name) for entry in self.folder.iterdir())
        return {
            path.stem for path in paths if path.suffix == ".png" and DIGEST.fullmatch(path.stem)
        }


def _eight_bit(pixels: Any) -> NDArray[np.uint8]:
    """The pixels as they are stored, `pixels` as in NewImage. Raises ValueError."""
    array = np.asarray(pixels)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size or max(array.shape) > MAX_SIDE:
        raise ValueError(
            f"an image to rank needs the shape (height, width, 3), not {array.shape}, and sides "
            f"of at most {MAX_SIDE} pixels"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    stored = np.empty(array.shape, np.uint8)
    for top in range(0, len(array), _STRIPE_ROWS):
        rows = array[top : top + _STRIPE_ROWS]
        if array.dtype.kind != "f" or not np.isfinite(rows).all():
            raise ValueError("an image to rank needs bytes, or finite numbers in 0..1")
        scaled = np.clip(rows, 0, 1)
        scaled *= 255
        stored[top : top + _STRIPE_ROWS] = np.rint(scaled, out=scaled)
    return stored


def _identified(pixels: Any) -> tuple[str, NDArray[np.uint8]]:
    stored = _eight_bit(pixels)
    return _pixel_digest(stored), stored


def _pixel_digest(pixels: NDArray[np.uint8]) -> str:
    hasher = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    hasher.update(pixels.data)
    return hasher.hexdigest()


def _texts(metadata: Mapping[str, str], prompt: str) -> dict[str, str]:
    """The text chunks of a PNG. Raises ValueError."""
    if sum(len(text) for text in metadata.values()) > MAX_METADATA_CHARS:
        raise ValueError(f"an image's metadata is longer than {MAX_METADATA_CHARS} characters")
    texts = {**metadata, **({PROMPT_KEY: prompt} if prompt else {})}
    for name in texts:
        if not (1 <= len(name) <= 79 and all(" " <= c <= "~" for c in name)):
            raise ValueError(f"{ascii(name)[:60]} cannot be the name of a PNG text chunk")
    return {
        name: text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
        for name, text in texts.items()
    }


def _threads() -> int:
    """As many as there are processors to use: packing the images is what takes the time."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    return min(os.cpu_count() or 1, _MAX_THREADS)
