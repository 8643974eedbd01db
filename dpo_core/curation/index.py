"""What a scan has read of a folder's images, on disk: a line of JSON each, only ever added to.

Derived from the images: lost lines are read again. Of several lines on one file the last counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from .found_image import FoundImage, read_record

VERSION = 1
_KEEP_LINES = 1000


class Index:
    """The file `index.jsonl` of a scanned folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0

    def load(self) -> dict[str, FoundImage]:
        """The images by name; none if there is no index, or not of this version."""
        found: dict[str, FoundImage] = {}
        self._lines = 0
        try:
            with open(self.path, "rb") as file:
                for line in file:
                    self._lines += 1
                    image = _read(line)
                    if image is not None:
                        found[image.name] = image
        except OSError:
            return found
        return found

    def add(self, images: Iterable[FoundImage]) -> None:
        """Adds lines, as one. Raises OSError."""
        lines = [_line(image) for image in images]
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o666)
        try:
            # Begins with a line break: what a killed process left of its last line ends there.
            data = b"\n" + b"".join(lines)
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
        self._lines += len(lines) + 1

    def tidy(self, images: Iterable[FoundImage]) -> None:
        """Writes the index anew where most of it is of files that are gone. Raises OSError."""
        kept = list(images)
        if self._lines <= 2 * len(kept) + _KEEP_LINES:
            return
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(b"".join(_line(image) for image in kept))
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._lines = len(kept)


def _line(image: FoundImage) -> bytes:
    return json.dumps({"v": VERSION, **image.record()}, separators=(",", ":")).encode() + b"\n"


def _read(line: bytes) -> FoundImage | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return read_record(record) if isinstance(record, dict) and record.get("v") == VERSION else None
