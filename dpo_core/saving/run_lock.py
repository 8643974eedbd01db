"""One training at a time in a run's folder, also between programs."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

NAME = "lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_FAR = 1 << 30
"""Where Windows locks a byte: it would let nobody read what is locked."""


class RunBusy(RuntimeError):
    """Somebody else is training in the run's folder; the message says who."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Inside, nobody else trains in ``folder``. However the program ends, the lock ends with it.

    On file systems that know no locks it does nothing.

    Args:
        folder: of the run; it exists.

    Raises:
        RunBusy: another holds it.
        OSError: the folder cannot be written.
    """
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _locked(descriptor):
            raise RunBusy(_holder(folder))
        _note(descriptor, {
            "process": os.getpid(),
            "machine": platform.node(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        })
        try:
            yield
        finally:
            _note(descriptor, {})
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str:
    """Who trains in the folder just now; empty if nobody does."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return ""
    try:
        return "" if _locked(descriptor) else _holder(folder)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Takes the lock, until the file is closed; False if another has it."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _UNSUPPORTED
    return True


def _note(descriptor: int, facts: dict[str, object]) -> None:
    """Writes down who holds it: only for people, so a full disk does not matter."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(facts).encode() if facts else b"")


def _holder(folder: Path) -> str:
    try:
        facts = json.loads((folder / NAME).read_bytes())
        return f"process {facts['process']} on {facts['machine']}, since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another program"
