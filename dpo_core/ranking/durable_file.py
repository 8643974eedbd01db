"""Files that are whole under their name from the first moment on, whatever stops the machine."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_PART = ".part"
_ABANDONED_SECONDS = 3600.0

Write = Callable[[BinaryIO], object]
"""Fills a file that is open for writing."""


def write_durably(files: Mapping[Path, Write], pool: Executor) -> None:
    """Fills files beside their paths, syncs them, and gives all of them their names.

    The names last once their folder is synced. What a process that was killed has left beside them
    is removed after an hour.

    Raises:
        OSError: no room or no permission; what a write raises. No file has got its name then,
            unless it was the renaming that failed.
    """
    for folder in {path.parent for path in files}:
        _remove_abandoned(folder)
    parts = {path: _beside(path) for path in files}
    try:
        _all_of(pool, _fill, parts.values(), files.values())
        # Only now: while the first files are synced, the system writes the others by itself.
        _all_of(pool, _sync, parts.values())
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends well; not synced, for what can be made again.

    Raises OSError for no room or no permission; `path` is then as it was.
    """
    part = _beside(path)
    try:
        with open(part, "xb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder durable, where the system does not by itself."""
    if os.name != "posix":  # Windows cannot open folders, and renames durably by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")


def _remove_abandoned(folder: Path) -> None:
    with os.scandir(folder) as entries:
        parts = [one for one in entries if one.name.startswith(".") and one.name.endswith(_PART)]
    for part in parts:
        try:
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                os.unlink(part)
        except OSError:
            continue  # another process was faster


def _all_of(pool: Executor, call: Callable[..., object], *arguments: Iterable[Any]) -> None:
    """Waits for every call, so that none is still writing when the first that failed is told."""
    futures = [pool.submit(call, *one) for one in zip(*arguments, strict=True)]
    wait(futures)
    for future in futures:
        future.result()


def _fill(part: Path, write: Write) -> None:
    with open(part, "xb") as file:
        write(file)


def _sync(part: Path) -> None:
    with open(part, "r+b") as file:  # Windows syncs only what may be written to
        os.fsync(file.fileno())
