"""Files appear under their final name complete or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

PART = ".part"
"""How the names of unfinished files end."""
LEFT_BEHIND = 3600.0
"""Seconds after which an unfinished file that nobody has written to counts as left behind."""


def write_atomically(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """Has ``write`` make a file beside ``path``, then renames it.

    The data is on the disk before the name is. A failure leaves what was there before, and no
    half-written file.

    Args:
        path: the final name; its folder is made.
        write: is given the temporary path, on the same file system.
        durable: False saves the waiting for the disk. After a power cut the file may then hold
            anything, so this is for those that are checked when they are read.

    Raises:
        OSError: no room, no permission.
    """
    if durable:
        _make_folder(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        # Writers may make files for their owner alone; ours are as open as any new file here.
        temporary.chmod(mode)
        if durable:
            sync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Returns when what the file holds would outlast a power cut."""
    with open(path, "rb+") as file:
        sync(file.fileno())


def sync(descriptor: int) -> None:
    """As :func:`sync_file`, of an open file."""
    try:
        import fcntl

        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS leaves it in the drive's own memory else
        if full is not None:
            fcntl.fcntl(descriptor, full)
            return
    except (ImportError, OSError):
        pass
    os.fsync(descriptor)


def sweep(folder: Path, older: float = LEFT_BEHIND) -> None:
    """Removes unfinished files that a killed program has left in a folder.

    Args:
        folder: need not exist; folders inside are not looked into.
        older: seconds since they were last written to. 0 where nobody else can be writing.
    """
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if not (entry.name.startswith(".") and entry.name.endswith(PART)):
            continue
        try:
            if older <= 0 or time.time() - entry.stat().st_mtime > older:
                entry.unlink()
        except OSError:  # another has been faster, or may not: it only takes room
            continue


def _make_folder(folder: Path) -> None:
    """Makes it and what is above it; their names are on the disk, too."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        _sync_folder(one.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open folders, and renames durably by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
