"""Encoded images and prompts on disk, so that a later program need not encode them again.

A cache: any file of it may be missing, cut off, damaged or somebody else's at any time, and the
whole folder may be deleted, or made unwritable, while it is in use. Nothing of that is an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .atomic import sweep, write_atomically
from .tensor_file import DamagedFile
from .value_file import NotPlain, value_bytes, value_of

LIMIT_BYTES = 10 * 1024**3
"""Room on disk for all entries together, at most a quarter of what there is for them."""
MAX_ENTRY = 1 << 28
"""Bytes. Nothing that is encoded is as large; what is larger is neither kept nor read."""
_SUFFIX = ".safetensors"
_NAME = re.compile(rf"[0-9a-f]{{32}}{re.escape(_SUFFIX)}")
_DEPLETED = 0.9
"""Room is made down to this share of the limit, so that it is not made for every entry."""
# Links are not followed, and a pipe that nobody writes to is not waited for.
_OPEN = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC")
)


def entry_key(*parts: str | int) -> str:
    """The key of what these decide, in this order."""
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


class EncodingStore:
    """The folder as one run of a node uses it: `<key>.safetensors`, one file for each entry.

    Several programs may use it at once. Entries appear whole or not at all; the one not used the
    longest goes first, and what this run has used stays.

    Args:
        folder: is made when something is kept; deleting it is safe at any time.
        limit: bytes of all entries, see :data:`LIMIT_BYTES`.
        tell: is given one sentence, once, if nothing more can be kept.
    """

    def __init__(
        self,
        folder: Path,
        limit: int = LIMIT_BYTES,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._limit, self._tell = folder, limit, tell
        self._mine: set[str] = set()
        self._used: int | None = None
        self._open = True

    def get(self, key: str) -> Any | None:
        """What was kept under this key; None if there is nothing, or nothing that is whole."""
        path = self._path(key)
        data = _read(path)
        if data is None:
            return None
        try:
            value = value_of(data)
        except DamagedFile:
            return None
        self._mine.add(path.name)
        with suppress(OSError):
            os.utime(path)
        return value

    def put(self, key: str, value: Any) -> None:
        """Keeps a value, in place of what was there; does nothing if it cannot be kept."""
        if not self._open:
            return
        try:
            data = value_bytes(value)
        except NotPlain:
            return
        if len(data) > MAX_ENTRY:
            return
        path = self._path(key)
        try:
            if self._room_for(len(data)):
                write_atomically(path, lambda part: _write(part, data), durable=False)
                self._mine.add(path.name)
        except FileNotFoundError:  # the folder is being deleted; the next entry makes it anew
            return
        except OSError as error:
            self._close(f"cannot be written ({error.strerror or type(error).__name__})")

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _close(self, why: str) -> None:
        self._open = False
        self._tell(f"The folder of encoded images {why}. Encoding goes on without it.")

    def _room_for(self, size: int) -> bool:
        if self._used is None:
            sweep(self._folder)
            self._used = sum(entry.st_size for _, entry in self._entries())
            self._limit = min(self._limit, (self._used + self._free()) // 4)
        if self._used + size > self._limit:
            self._used = self._make_room(int(self._limit * _DEPLETED) - size)
        if self._used + size > self._limit:
            self._close(f"is full: it may take {self._limit / 1024**3:.1f} GB, all in use now")
            return False
        self._used += size
        return True

    def _make_room(self, most: int) -> int:
        """Deletes what was not used the longest until no more than so many bytes are left."""
        # Too large a file was not made here and is never read: it goes before all others.
        entries = sorted(
            self._entries(), key=lambda one: (one[1].st_size <= MAX_ENTRY, one[1].st_mtime_ns)
        )
        left = sum(entry.st_size for _, entry in entries)
        for path, entry in entries:
            if left <= most:
                break
            if path.name in self._mine:
                continue
            with suppress(OSError):  # another has been faster, or is reading it
                path.unlink()
                left -= entry.st_size
        return left

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Our own files alone: whatever else lies there is left alone."""
        try:
            with os.scandir(self._folder) as found:
                for entry in found:
                    with suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if _NAME.fullmatch(entry.name) and stat.S_ISREG(status.st_mode):
                            yield Path(entry.path), status
        except OSError:
            return

    def _free(self) -> int:
        folder = self._folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_ENTRY:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_ENTRY)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
