"""The texts that an image file carries beside its pixels: PNG chunks, EXIF, XMP, comments."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from .exif import comment_text, exif_texts, plain_text
from .xmp import xmp_texts

MAX_TEXT_BYTES = 4_000_000
MAX_ALL_BYTES = 8_000_000
MAX_BLOCKS = 2_000
"""PNG chunks, JPEG segments or WebP chunks looked at in one file."""

MAX_AVIF_BYTES = 64_000_000
"""Pillow reads the whole of such a file to find its texts."""

_PNG = b"\x89PNG\r\n\x1a\n"
_XMP_IN_PNG = "XML:com.adobe.xmp"
_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_GRAPHS = ("prompt", "workflow")

Found = Iterator[tuple[str, str]]


def texts_of_path(path: Path) -> dict[str, str]:
    """`texts_of_file` of the file at a path; empty if it is not a file that can be opened."""
    # Not blocking: opening a pipe that nobody writes to would otherwise wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        return texts_of_file(file) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else {}


def texts_of_file(file: BinaryIO) -> dict[str, str]:
    """The texts of a PNG, JPEG, WebP or AVIF file, pixels left alone; empty for any other.

    PNG texts go by their keyword, EXIF tags and XMP properties by `exif:` or `xmp:` and their
    name, a JPEG's comment by `Comment`. A ComfyUI graph found in an EXIF tag ("prompt:{...}") goes
    by `prompt` or `workflow`, as in a PNG. Of several texts of one name the first counts.

    Raises OSError only; what is damaged or too large is left out.
    """
    found: dict[str, str] = {}
    size = 0
    for name, text in _texts(file):
        head, colon, rest = text.partition(":")
        if name.startswith(("exif:", "xmp:")) and colon and head.lower() in _GRAPHS:
            name, text = head.lower(), rest
        size += len(text)
        if size > MAX_ALL_BYTES:
            break
        found.setdefault(name, text)
    return found


def _texts(file: BinaryIO) -> Found:
    start = file.read(12)
    for matches, read in _READERS:
        if matches(start):
            file.seek(0)
            yield from read(file)
            return


def _png_texts(file: BinaryIO) -> Found:
    file.seek(len(_PNG))
    for _ in range(MAX_BLOCKS):
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind in (b"IDAT", b"IEND"):
            return
        if kind not in _CHUNKS or size > MAX_TEXT_BYTES:
            file.seek(size + 4, 1)
            continue
        data = file.read(size)
        if len(data) < size:
            return
        file.seek(4, 1)
        yield from _CHUNKS[kind](data)


def _plain_chunk(data: bytes) -> Found:
    keyword, _, text = data.partition(b"\0")
    yield plain_text(keyword), plain_text(text)


def _packed_chunk(data: bytes) -> Found:
    keyword, _, packed = data.partition(b"\0")
    text = _unpacked(packed[1:])
    if packed[:1] == b"\0" and text is not None:
        yield plain_text(keyword), plain_text(text)


def _international_chunk(data: bytes) -> Found:
    keyword, _, rest = data.partition(b"\0")
    _, _, rest_text = rest[2:].partition(b"\0")
    _, _, text = rest_text.partition(b"\0")
    whole = _unpacked(text) if rest[:1] == b"\1" else text
    if whole is None:
        return
    if keyword.decode("latin-1") == _XMP_IN_PNG:
        yield from _named("xmp", xmp_texts(whole))
    else:
        yield plain_text(keyword), whole.decode("utf-8", "replace")


def _unpacked(data: bytes) -> bytes | None:
    """Inflated data; None if it is damaged or grows larger than any real text."""
    try:
        text = zlib.decompressobj().decompress(data, MAX_TEXT_BYTES + 1)
    except zlib.error:
        return None
    return text if len(text) <= MAX_TEXT_BYTES else None


def _jpeg_texts(file: BinaryIO) -> Found:
    file.seek(2)
    exif = b""
    for _ in range(MAX_BLOCKS):
        head = file.read(2)
        while head[1:] == b"\xff":  # fill bytes
            head = head[1:] + file.read(1)
        size = int.from_bytes(file.read(2), "big") - 2
        # From SOS on there are pixels only.
        if head[:1] != b"\xff" or head[1:] in (b"\xd9", b"\xda") or size < 0:
            break
        if head[1:] not in (b"\xe1", b"\xfe"):
            file.seek(size, 1)
            continue
        data = file.read(size)
        if head[1:] == b"\xfe":
            yield "Comment", comment_text(data)
        elif data.startswith(b"Exif\0\0"):
            # Blocks over 64 KB are written as several segments.
            exif += data[6:] if len(exif) < MAX_TEXT_BYTES else b""
        elif data.startswith(_XMP_IN_JPEG):
            yield from _named("xmp", xmp_texts(data[len(_XMP_IN_JPEG) :]))
    yield from _exif(exif)


def _webp_texts(file: BinaryIO) -> Found:
    file.seek(12)
    for _ in range(MAX_BLOCKS):
        head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        if len(head) < 8:
            return
        if head[:4] not in (b"EXIF", b"XMP ") or size > MAX_TEXT_BYTES:
            file.seek(size + size % 2, 1)
            continue
        data = file.read(size)
        file.seek(size % 2, 1)
        yield from _exif(data) if head[:4] == b"EXIF" else _named("xmp", xmp_texts(data))


def _avif_texts(file: BinaryIO) -> Found:
    Image.init()
    if "AVIF" not in Image.OPEN or file.seek(0, 2) > MAX_AVIF_BYTES:
        return
    file.seek(0)
    with Image.open(file, formats=["AVIF"]) as image:  # its pixels stay as they are
        exif, xmp = image.info.get("exif"), image.info.get("xmp")
    if isinstance(exif, bytes):
        yield from _exif(exif)
    if isinstance(xmp, bytes) and len(xmp) <= MAX_TEXT_BYTES:
        yield from _named("xmp", xmp_texts(xmp))


def _exif(block: bytes) -> Found:
    yield from _named("exif", exif_texts(block))


def _named(prefix: str, texts: Found) -> Found:
    for name, text in texts:
        yield f"{prefix}:{name}", text


_CHUNKS: dict[bytes, Callable[[bytes], Found]] = {
    b"tEXt": _plain_chunk,
    b"zTXt": _packed_chunk,
    b"iTXt": _international_chunk,
    b"eXIf": _exif,
}
_READERS: list[tuple[Callable[[bytes], bool], Callable[[BinaryIO], Found]]] = [
    (lambda start: start.startswith(_PNG), _png_texts),
    (lambda start: start.startswith(b"\xff\xd8\xff"), _jpeg_texts),
    (lambda start: start[:4] == b"RIFF" and start[8:] == b"WEBP", _webp_texts),
    (lambda start: start[4:] in (b"ftypavif", b"ftypavis"), _avif_texts),
]
