"""Small copies of a session's images, which a page shows at once: derived, and made again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ..pairs.image_file import open_image
from ..pairs.problem import PairError
from .durable_file import whole_file
from .vote import Candidate

MAX_SIDE = 384
"""Pixels of a thumbnail's longer side."""
_SUFFIX = ".webp"
_QUALITY = 80
_METHOD = 1  # a third faster than the default, for a tenth more bytes


class Thumbnails:
    """The folder `thumbnails/` of a session: `<image id>.webp` of every image larger than that.

    Args:
        image_path: where an image lies, by its id. Raises ValueError for what is no image id.
    """

    def __init__(self, folder: Path, image_path: Callable[[str], Path]) -> None:
        self.folder = folder
        self._image_path = image_path
        self._at_work = threading.Lock()

    def path(self, image_id: str) -> Path:
        """Where a thumbnail lies, or would. Raises ValueError for what is no image id."""
        return self.folder / self._image_path(image_id).with_suffix(_SUFFIX).name

    @staticmethod
    def is_wanted(image: Candidate) -> bool:
        """False for an image that is no larger than its thumbnail would be."""
        return max(image.width, image.height) > MAX_SIDE

    def has(self, image_id: str) -> bool:
        """Asked for every image with every answer to a page: so without building paths."""
        try:
            # Not synced when it was made: a power cut may have left it empty.
            return os.stat(os.path.join(self.folder, image_id + _SUFFIX)).st_size > 0
        except OSError:
            return False

    def make(self, image_id: str, pixels: NDArray[np.uint8]) -> None:
        """Makes a thumbnail of pixels (height, width, 3), unless it is there or not wanted.

        Where it cannot be written there is none: the image itself is shown then.
        """
        if max(pixels.shape[:2]) > MAX_SIDE and not self.has(image_id):
            try:
                self._write(image_id, Image.fromarray(pixels))
            except OSError:
                return

    def missing(self, images: Iterable[Candidate]) -> list[str]:
        """The ids of those images that should have a thumbnail and have none."""
        return [one.id for one in images if self.is_wanted(one) and not self.has(one.id)]

    def make_later(self, image_ids: Iterable[str]) -> None:
        """Makes thumbnails of stored images beside what else goes on.

        Does nothing while it is still at it from before: whoever misses some asks again.
        """
        if self._at_work.acquire(blocking=False):
            work = threading.Thread(target=self._make_all, args=(list(image_ids),), daemon=True)
            work.start()

    def _make_all(self, image_ids: Iterable[str]) -> None:
        try:
            for image_id in image_ids:
                path = self._image_path(image_id)
                try:
                    with open_image(path, path.name) as image:
                        self._write(image_id, image.convert("RGB"))
                except (PairError, OSError):
                    continue  # the image is gone or damaged, or there is no room
        finally:
            self._at_work.release()

    def _write(self, image_id: str, image: Image.Image) -> None:
        if self.folder.is_symlink():  # that may lead elsewhere
            return
        self.folder.mkdir(exist_ok=True)
        write_thumbnail(image, self.path(image_id))


def write_thumbnail(image: Image.Image, path: Path) -> None:
    """Writes a small copy of an RGB image, which is changed; nothing where WebP is not known.

    Raises OSError.
    """
    if not features.check("webp"):
        return
    image.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=1.0)  # halves the time, looks the same
    with whole_file(path) as file:
        image.save(file, format="WEBP", quality=_QUALITY, method=_METHOD)
