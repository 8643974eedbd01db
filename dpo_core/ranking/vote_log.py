"""An append-only file of JSON lines that survives power loss and many writers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .durable_file import sync_folder
from .vote import Vote, encode_record

LOCK_WAIT_SECONDS = 10.0
_LOCK_POLL_SECONDS = 0.005


class LogLockedError(OSError):
    """Another program kept the log locked for LOCK_WAIT_SECONDS."""


class LogReading(NamedTuple):
    """What a log held at one moment.

    Attributes:
        generation: another number means another file: earlier readings were of something else.
        records: all records, in order; of equal ids the first.
        damaged: how many lines were passed over.
        digest: hex digest of all lines.
    """

    generation: int
    records: list[Vote]
    damaged: int
    digest: str


class VoteLog:
    """The records of one `votes.jsonl`, in order, each id once.

    A line counts once its line break is on the disk. What a crash leaves behind is never taken for
    a vote and never removed: the next append closes it with a line break, and readers pass over
    lines that are no JSON object. Any number of threads and processes may append; each object
    reads only what was added since it last looked.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._folder_is_synced = False
        self._generation = 0
        self._forget()

    def read(self) -> LogReading:
        """What is in the log now. A missing file is an empty log."""
        with self._lock:
            self._refresh()
            digest = self._hasher.copy().hexdigest()
            return LogReading(self._generation, list(self._records), self._damaged, digest)

    def append(
        self, record: Vote, check: Callable[[VoteLog], None] = lambda log: None
    ) -> tuple[Vote, bool]:
        """Adds a record; it is on the disk before this returns.

        Args:
            record: has an `id`; stored as it is, with `at` set where it has none.
            check: is called with this log, up to date and locked against all other writers,
                before a new record is written; what it raises is passed on and nothing is written.

        Returns:
            The stored record, and whether it is new: False if the id was there before.

        Raises:
            VoteError: not JSON, or too large.
            LogLockedError: another program holds the lock.
            OSError: no room, no permission. Append again with the same id: it counts once.
        """
        line = encode_record({"at": time.time_ns() // 1_000_000, **record})
        with self._lock, self._locked_for_writing() as descriptor:
            self._refresh()
            known = self._by_id.get(record["id"])
            if known is None:
                check(self)
                self._write(descriptor, line)
                self._refresh()
            # Also for a known one: its writer may have died before it got this far.
            self._sync(descriptor)
            return self._by_id[record["id"]], known is None

    def get(self, record_id: str) -> Vote | None:
        """A record by its id, of those read so far."""
        return self._by_id.get(record_id)

    def _refresh(self) -> None:
        try:
            with open(self.path, "rb") as file:
                self._take_in(file)
        except FileNotFoundError:
            if self._offset:
                self._forget()

    def _forget(self) -> None:
        self._generation += 1
        self._records: list[Vote] = []
        self._damaged = 0
        self._by_id: dict[str, Vote] = {}
        self._offset = 0
        self._identity: tuple[int, int] | None = None
        self._hasher = hashlib.blake2b(digest_size=16)

    def _take_in(self, file: Any) -> None:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        if identity != self._identity or status.st_size < self._offset:
            if self._identity is not None:
                self._forget()  # another file: restored from a backup, or taken away and begun anew
            self._identity = identity
        if status.st_size == self._offset:
            return
        file.seek(self._offset)
        data: bytes = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # the rest is being written, or was torn
        self._offset += len(whole)
        self._hasher.update(whole)
        for line in whole.split(b"\n"):
            if line:
                self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            self._damaged += 1
        elif record["id"] not in self._by_id:
            self._by_id[record["id"]] = record
            self._records.append(record)

    def _write(self, descriptor: int, line: bytes) -> None:
        size = os.fstat(descriptor).st_size
        if size and self._last_byte(size) != b"\n":
            line = b"\n" + line
        while line:
            line = line[os.write(descriptor, line) :]

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        if not self._folder_is_synced:
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)
            self._folder_is_synced = True

    def _last_byte(self, size: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(size - 1)
            return file.read(1)

    @contextmanager
    def _locked_for_writing(self) -> Iterator[int]:
        # A file of its own, since Windows would keep readers out of a locked one.
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _acquire(lock)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                descriptor = os.open(self.path, flags, 0o666)
                try:
                    yield descriptor
                finally:
                    os.close(descriptor)
            finally:
                _release(lock)
        finally:
            os.close(lock)


def _acquire(lock: int) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            _try_lock(lock)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LogLockedError(
                    "Another program is writing to this session and does not let go of it. "
                    "Close the other program, then choose again."
                ) from error
            time.sleep(_LOCK_POLL_SECONDS)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(lock: int) -> None:
        os.lseek(lock, 0, os.SEEK_SET)
        msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)

    def _release(lock: int) -> None:
        os.lseek(lock, 0, os.SEEK_SET)
        msvcrt.locking(lock, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(lock: int) -> None:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(lock: int) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
