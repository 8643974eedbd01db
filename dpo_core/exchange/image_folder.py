"""Images that came inside other files, laid down once each, under the name of their content."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ..pairs.image_file import file_digest, open_image, oriented_size
from ..pairs.problem import PairError, PairProblem, printable
from ..pairs.record import Picture
from .image_bytes import KNOWN, suffix_of

MAX_IMAGE_BYTES = 256 << 20
LEAVE_FREE = 1 << 30
"""Bytes of the disk that are not filled."""
LOOK_EVERY = 64 << 20
"""Bytes after which the room on the disk is looked at again."""


class NoRoom(PairError):
    """The disk is nearly full: no further image is worth trying."""


@dataclass
class ImageFolder:
    """A folder of images by content. Images already in it are not written again."""

    path: Path
    digests: set[str] = field(default_factory=set)
    """Of all images asked for."""
    size: int = 0
    """Bytes of all images asked for, each counted once."""
    _since_looked: int = LOOK_EVERY
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, data: bytes, name: str) -> Picture:
        """The picture in `data`, checked, and its file written if it is not there yet.

        `name` is how messages call it. Raises PairError for what is no whole PNG, JPEG or WebP
        image, is too large, or has too many pixels; NoRoom for a disk with less than LEAVE_FREE
        bytes left; OSError.
        """
        suffix = suffix_of(data)
        if suffix is None:
            fix = f"Leave it out; only {KNOWN} files are read from a dataset."
            raise PairError([PairProblem(f"This is no {KNOWN} image", name, fix)])
        if len(data) > MAX_IMAGE_BYTES:
            what = f"Image file is larger than {MAX_IMAGE_BYTES >> 20} MB"
            raise PairError([PairProblem(what, name, "Leave it out, or make it smaller.")])
        with open_image(data, name) as image:
            size = oriented_size(image)
            if image.format == "PNG":
                image.verify()
            else:
                image.load()
        digest = file_digest(data)
        path = self.path / f"{digest}{suffix}"
        self._count(digest, len(data))
        if not _holds(path, len(data)):
            self._write(path, data)
        return Picture.from_file(path, size=size, digest=digest)

    def _count(self, digest: str, size: int) -> None:
        with self._lock:
            if digest not in self.digests:
                self.digests.add(digest)
                self.size += size

    def _write(self, path: Path, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._since_looked += len(data)
            if self._since_looked >= LOOK_EVERY:
                self._require_room(len(data))
                self._since_looked = 0
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _require_room(self, needed: int) -> None:
        if shutil.disk_usage(self.path).free - needed < LEAVE_FREE:
            what = f"There is less than {LEAVE_FREE >> 30} GB of room left on this disk"
            fix = "Make room, or read only a part of the dataset (limit)."
            raise NoRoom([PairProblem(what, printable(str(self.path)), fix)])


def _holds(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size and not path.is_symlink()
    except OSError:
        return False
