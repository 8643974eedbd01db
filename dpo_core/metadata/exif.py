"""The few texts of an EXIF block that programs write prompts into.

Read by hand, because a hostile block whose thousands of tags all point at the same megabytes makes
general readers copy them once for each tag.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_TAGS = 256
_EXIF_IFD = 0x8769
_NAMES = {
    0x010C: "Tag010C", 0x010D: "DocumentName", 0x010E: "ImageDescription", 0x010F: "Make",
    0x0110: "Model", 0x0131: "Software", 0x927C: "MakerNote", 0x9286: "UserComment",
    0x9C9C: "XPComment",
}  # fmt: skip
_ONE_BYTE = (1, 2, 7)
"""Types whose count is their size: BYTE, ASCII, UNDEFINED."""
_CODES = {
    b"UNICODE\0": ("utf-16-be", "utf-16-le", "utf-8"),
    b"ASCII\0\0\0": ("utf-8", "latin-1"),
    b"\0\0\0\0\0\0\0\0": ("utf-8", "utf-16-be", "utf-16-le"),
}


def exif_texts(block: bytes) -> Iterator[tuple[str, str]]:
    """Tag name and text, each name once; nothing of what is broken."""
    start = 6 if block[:6] == b"Exif\0\0" else 0
    block = block[start:]
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
    if order is None:
        return
    seen: set[str] = set()
    directories = [_number(block[4:8], order)]
    for at in directories:
        for tag, kind, count, value in _entries(block, at, order):
            if tag == _EXIF_IFD and len(directories) == 1:
                directories.append(_number(value[:4], order))
            name = _NAMES.get(tag)
            if name is None or name in seen or kind not in _ONE_BYTE:
                continue
            seen.add(name)
            where = 0 if count <= 4 else _number(value, order)
            data = value[:count] if count <= 4 else block[where : where + count]
            yield name, _text(name, data)


def _entries(block: bytes, at: int, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count and the four bytes of value or offset."""
    for i in range(min(_number(block[at : at + 2], order), MAX_TAGS)):
        entry = block[at + 2 + 12 * i : at + 14 + 12 * i]
        if len(entry) < 12:
            return
        numbers = (_number(entry[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8)))
        tag, kind, count = numbers
        yield tag, kind, count, entry[8:]


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "little" else "big")


def _text(name: str, data: bytes) -> str:
    if name == "XPComment":
        return data.decode("utf-16-le", "replace").rstrip("\0")
    if name == "UserComment":
        return comment_text(data)
    return plain_text(data)


def plain_text(data: bytes) -> str:
    """UTF-8, else Latin-1: what programs write where the standards want Latin-1 or ASCII."""
    try:
        return data.decode("utf-8").rstrip("\0")
    except UnicodeDecodeError:
        return data.decode("latin-1").rstrip("\0")


def comment_text(data: bytes) -> str:
    """A UserComment: an 8-byte character code, then text.

    Writers disagree on the byte order, and some write UTF-8 under any code: the reading with the
    most ASCII characters is the one that was meant, for settings are written in them.
    """
    codecs = _CODES.get(data[:8])
    body = data if codecs is None else data[8:]
    readings = []
    for codec in codecs or ("utf-8", "latin-1"):
        even = len(body) // 2 * 2 if codec.startswith("utf-16") else len(body)
        try:
            readings.append(body[:even].decode(codec).strip("\0\ufeff"))
        except UnicodeDecodeError:
            continue
    return max(readings, key=_ascii_characters, default="")


def _ascii_characters(text: str) -> int:
    written = text.encode("ascii", "ignore")
    return len(written) - 2 * written.count(0)
