"""Pictures as bytes in a dataset: the formats every reader knows, going out and coming in."""

from __future__ import annotations

from collections.abc import Mapping

from ..pairs.problem import PairError, PairProblem
from ..pairs.record import Picture
from ..pairs.saved_picture import picture_bytes, png_bytes

KNOWN = "PNG, JPEG and WebP"


def suffix_of(data: bytes) -> str | None:
    """How the name of a file with these bytes would end; None for what is none of `KNOWN`."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if data.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return None


def portable_bytes(pictures: Mapping[str, Picture], prompt: str) -> dict[str, bytes]:
    """Each picture's own file, byte for byte; a PNG of one in memory or in another format.

    Raises PairError naming every picture that cannot be read.
    """
    found: dict[str, bytes] = {}
    problems: list[PairProblem] = []
    for name, picture in pictures.items():
        try:
            data = picture_bytes(picture, prompt)
            found[name] = data if suffix_of(data) else png_bytes(picture, prompt)
        except PairError as error:
            problems += error.problems
    if problems:
        raise PairError(problems)
    return found
