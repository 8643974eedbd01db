"""A session's images: each stored once under the hash of its pixels, as PNG with its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ..pairs.prompt_metadata import PROMPT_KEY
from .durable_file import sync_folder, write_durably
from .vote import DIGEST, Candidate

MAX_METADATA_CHARS = 4_000_000
MAX_SIDE = 16_384
_COMPRESS_LEVEL = 1  # a third of the default's time for a tenth more bytes
_MAX_THREADS = 4


@dataclass(frozen=True)
class NewImage:
    """An image to be stored.

    Attributes:
        pixels: (height, width, 3), either uint8, or floats in 0..1, which are clipped and rounded.
        metadata: text chunks to keep in the file, such as ComfyUI's `prompt` and `workflow`, or
            seed, sampler and checkpoint; names of 1 to 79 Latin-1 characters.
    """

    pixels: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def image_id(pixels: Any) -> str:
    """The id an image is stored under, `pixels` as in NewImage. Raises ValueError."""
    return _pixel_digest(eight_bit(pixels))


class ImageStore:
    """The folder `images/` of a session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, images: Sequence[NewImage], prompt: str) -> list[Candidate]:
        """Stores images that are not there yet, durably; the candidates in the same order.

        Raises:
            ValueError: not pixels of an image, or metadata that a PNG cannot hold.
            OSError: no room, no permission.
        """
        pixels = [eight_bit(image.pixels) for image in images]
        chunks = [_text_chunks(image.metadata, prompt) for image in images]
        with ThreadPoolExecutor(_MAX_THREADS) as pool:  # hashing and deflate release the lock
            ids = list(pool.map(_pixel_digest, pixels))
            new = [i for i, one in enumerate(ids) if ids.index(one) == i and self._lacks(one)]
            list(pool.map(lambda i: self._write(ids[i], pixels[i], chunks[i]), new))
        sync_folder(self.folder)  # another writer may have died between a rename and this
        return [
            Candidate(image_id, array.shape[1], array.shape[0])
            for image_id, array in zip(ids, pixels, strict=True)
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

    def _lacks(self, image_id: str) -> bool:
        return not self.path(image_id).exists()

    def _write(
        self, image_id: str, pixels: NDArray[np.uint8], chunks: PngImagePlugin.PngInfo
    ) -> None:
        image = Image.fromarray(pixels)
        write_durably(
            self.path(image_id),
            lambda part: image.save(
                part, format="PNG", pnginfo=chunks, compress_level=_COMPRESS_LEVEL
            ),
        )


def eight_bit(pixels: Any) -> NDArray[np.uint8]:
    """The pixels as they are stored, `pixels` as in NewImage. Raises ValueError."""
    array = np.asarray(pixels)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size or max(array.shape) > MAX_SIDE:
        raise ValueError(
            f"an image to rank needs the shape (height, width, 3), not {array.shape}, and sides "
            f"of at most {MAX_SIDE} pixels"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError("an image to rank needs bytes, or finite numbers in 0..1")
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8, order="C")


def _pixel_digest(pixels: NDArray[np.uint8]) -> str:
    hasher = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    hasher.update(pixels.data)
    return hasher.hexdigest()


def _text_chunks(metadata: Mapping[str, str], prompt: str) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    if sum(len(text) for text in metadata.values()) > MAX_METADATA_CHARS:
        raise ValueError(f"an image's metadata is longer than {MAX_METADATA_CHARS} characters")
    for name, text in {**metadata, **({PROMPT_KEY: prompt} if prompt else {})}.items():
        if not (1 <= len(name) <= 79 and all(" " <= c <= "~" for c in name)):
            raise ValueError(f"{ascii(name)[:60]} cannot be the name of a PNG text chunk")
        text = text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
        if text.isascii():
            chunks.add_text(name, text)
        else:
            chunks.add_itxt(name, text)
    return chunks
