"""The few texts of an XMP packet that programs write prompts into.

Searched as text, not parsed as XML: nothing is ever expanded or fetched.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_NAMES = ("exif:UserComment", "dc:description", "tiff:ImageDescription")
_TAG = re.compile(r"<[^<>]*>")


def xmp_texts(packet: bytes) -> Iterator[tuple[str, str]]:
    """Property name without its prefix, and text; nothing of a packet that declares entities."""
    text = _decoded(packet)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return
    for name in _NAMES:
        value = _element(text, name) or _attribute(text, name)
        if value:
            yield name.partition(":")[2], value


def _decoded(packet: bytes) -> str:
    for start, codec in (
        (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"),
        (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"),
    ):  # fmt: skip
        if packet.startswith(start):
            return packet[: len(packet) // 2 * 2].decode(codec, "replace")
    return packet.decode("utf-8", "replace")


def _element(text: str, name: str) -> str:
    start = text.find(f"<{name}")
    end = text.find(f"</{name}", start)
    if start < 0 or end < 0:
        return ""
    inside = text[text.find(">", start) + 1 : end]
    return html.unescape(_TAG.sub("", inside)).strip()


def _attribute(text: str, name: str) -> str:
    start = text.find(f'{name}="')
    if start < 0:
        return ""
    start += len(name) + 2
    end = text.find('"', start)
    return html.unescape(text[start:end]) if end > 0 else ""
