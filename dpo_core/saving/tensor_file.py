"""Safetensors files that are written piece by piece, and know when they are damaged.

The format is the library's own, and so are its readers. Writing is done here because the library
copies everything first and cannot be broken off: a second press of Stop must not wait for
gigabytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .atomic import sync, write_atomically

CHUNK = 1 << 22
"""Bytes written between two looks at whether to go on."""
SYNC_EVERY = 1 << 26
"""Bytes after which what was written is put on the disk, so that the end has little to wait for."""
CHECKSUM = "checksum"
_BLANK = "-" * 8
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


class DamagedFile(OSError):
    """A file does not hold what was written into it."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    poll: Callable[[], None] = lambda: None,
    checked: bool = False,
) -> None:
    """Writes a safetensors file atomically.

    Args:
        path: the final name.
        tensors: contiguous, on the CPU.
        metadata: for the header.
        poll: is called every few megabytes; what it raises breaks the writing off.
        checked: adds a checksum over everything, for :func:`read_tensors`.

    Raises:
        OSError: no room, no permission; nothing is left behind.
    """
    # The widest first, as the library does: every tensor begins where its numbers may.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    notes = dict(metadata or {}) | ({CHECKSUM: _BLANK} if checked else {})
    if notes:
        header["__metadata__"] = notes
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(part: Path) -> None:
        with open(part, "wb", buffering=0) as file:
            writer = _Writer(file, poll)
            writer.write(memoryview(struct.pack("<Q", len(text)) + text))
            for name in names:
                flat: Any = tensors[name].detach().reshape(-1).view(torch.uint8).numpy()
                writer.write(memoryview(flat))
            if checked:
                place = text.index(f'"{CHECKSUM}":"{_BLANK}"'.encode()) + len(CHECKSUM) + 4
                file.seek(8 + place)
                file.write(f"{writer.checksum:08x}".encode())

    write_atomically(path, write)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        DamagedFile: it is no safetensors file, or its checksum is another than when it was
            written. Files without one are taken as they are.
        FileNotFoundError: it is not there.
    """
    try:
        _check(path)
        with safe_open(path, framework="pt") as file:
            # Copies: the library's are views of the file, which must be free to be replaced.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}
            return found, dict(file.metadata() or {})
    except SafetensorError as error:
        raise DamagedFile(f"{path.name} is damaged: {error}") from error


def _check(path: Path) -> None:
    with open(path, "rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        text = file.read(min(length, 1 << 27))
        try:
            expected = json.loads(text)["__metadata__"][CHECKSUM]
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # without one, or not readable at all, which the library says best
        blank = text.replace(
            f'"{CHECKSUM}":"{expected}"'.encode(), f'"{CHECKSUM}":"{_BLANK}"'.encode(), 1
        )
        found = zlib.crc32(blank, zlib.crc32(size))
        while chunk := file.read(CHUNK):
            found = zlib.crc32(chunk, found)
    if f"{found:08x}" != expected:
        raise DamagedFile(f"{path.name} is damaged: it is not what was written")


class _Writer:
    def __init__(self, file: BinaryIO, poll: Callable[[], None]) -> None:
        self._file, self._poll = file, poll
        self._unsynced = 0
        self.checksum = 0

    def write(self, data: memoryview) -> None:
        for begin in range(0, len(data), CHUNK):
            self._poll()
            piece = data[begin : begin + CHUNK]
            self.checksum = zlib.crc32(piece, self.checksum)
            while piece:
                written = self._file.write(piece)
                piece = piece[written:]
                self._unsynced += written
            if self._unsynced >= SYNC_EVERY:
                sync(self._file.fileno())
                self._unsynced = 0
