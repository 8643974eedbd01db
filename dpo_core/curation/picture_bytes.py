"""The bytes of a file that make its picture, without its metadata: what exact copies share.

The same pixels saved twice by the same program differ in the metadata alone. No pixel is decoded,
and near-duplicates are never taken for copies.

PNG 1.2 (W3C REC-PNG-20031110), JPEG (ITU-T T.81, annex B), WebP (RFC 9649).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

DIGEST_BYTES = 16
HINT_BYTES = 4096
_BLOCK = 1 << 18
_PNG_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}
_WEBP_PICTURE = {b"VP8 ", b"VP8L", b"ALPH", b"ANMF"}
_ADOBE = 0xEE
"""The JPEG segment that says how colours are stored."""


def picture_hint(path: Path, kind: str) -> str:
    """Hex digest of the first bytes: pictures of different hints are different.

    Args:
        kind: "PNG", "JPEG" or "WEBP".

    Raises OSError, ValueError for a damaged file.
    """
    return _digest(path, kind, HINT_BYTES)


def picture_digest(path: Path, kind: str) -> str:
    """Hex digest of all of them: pictures of one digest are exact copies. As `picture_hint`."""
    return _digest(path, kind, None)


def _digest(path: Path, kind: str, most: int | None) -> str:
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    left = most
    with open(path, "rb") as file:
        for block in _PARTS[kind](file):
            hasher.update(block if left is None else block[:left])
            if left is not None and (left := left - len(block)) <= 0:
                break
    return hasher.hexdigest()


def _of_png(file: BinaryIO) -> Iterator[bytes]:
    file.seek(8)
    while True:
        head = _exactly(file, 8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"IEND":
            return
        if name in _PNG_PICTURE:
            yield from _blocks(file, length)
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)


def _of_jpeg(file: BinaryIO) -> Iterator[bytes]:
    file.seek(2)
    while True:
        marker = _exactly(file, 2)
        while marker[1] == 0xFF:  # padding
            marker = b"\xff" + _exactly(file, 1)
        if marker[0] != 0xFF:
            raise ValueError("a JPEG segment is damaged")
        length = int.from_bytes(_exactly(file, 2), "big") - 2
        if length < 0:
            raise ValueError("a JPEG segment is damaged")
        if marker[1] == 0xDA:  # the pixels follow, up to the end
            file.seek(-4, 1)
            while block := file.read(_BLOCK):
                yield block
            return
        if (0xE0 <= marker[1] <= 0xEF and marker[1] != _ADOBE) or marker[1] == 0xFE:
            file.seek(length, 1)
        else:
            yield marker
            yield from _blocks(file, length)


def _of_webp(file: BinaryIO) -> Iterator[bytes]:
    file.seek(12)
    while head := file.read(8):
        if len(head) < 8:
            raise ValueError("a WebP chunk is damaged")
        length = int.from_bytes(head[4:], "little")
        if head[:4] in _WEBP_PICTURE:
            yield head[:4]
            yield from _blocks(file, length)
            file.seek(length % 2, 1)
        else:
            file.seek(length + length % 2, 1)


_PARTS: Mapping[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    "PNG": _of_png,
    "JPEG": _of_jpeg,
    "WEBP": _of_webp,
}


def _blocks(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0:
        yield (block := _exactly(file, min(length, _BLOCK)))
        length -= len(block)


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise ValueError("the file is cut off")
    return data
