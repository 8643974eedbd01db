"""Patterns such as `chosen/{}` or `{}_good`: which image belongs to which side of which pair."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

from .image_file import IMAGE_SUFFIXES
from .problem import PairError, PairProblem

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val"}
"""Folder names that mark a split, in small letters, and the split they stand for."""

_EXAMPLE = "Write a path below the folder with one {} for the name: chosen/{} or {}_good, say."


@dataclass(frozen=True)
class SidePattern:
    """One side's pattern. `stem` finds what stands at the `{}` in a file's path."""

    text: str
    _matcher: re.Pattern[str]

    @classmethod
    def parse(cls, text: str, side: str) -> SidePattern:
        """Check and compile a pattern; `side` ("chosen") is how messages call it.

        With the `{}` in the file name, subfolders below the pattern's own folder are mirrored.
        Raises PairError.
        """
        text = unicodedata.normalize("NFC", text.strip().replace("\\", "/"))
        text = text.removeprefix("./")
        fault = _fault(text)
        if fault is not None:
            raise PairError([PairProblem(f"The {side} pattern {fault}", repr(text), _EXAMPLE)])
        before, after = text.split("{}")
        folder, slash, start = before.rpartition("/")
        if "/" in after:
            expression = f"{re.escape(before)}(?P<stem>.+){re.escape(after)}"
        else:
            expression = (
                f"{re.escape(folder + slash)}(?P<folders>(?:.+/)?)"
                f"{re.escape(start)}(?P<stem>[^/]+){re.escape(after)}"
            )
        return cls(text, re.compile(expression, re.DOTALL))

    def stem(self, name: str) -> str | None:
        """The pair's name in `name` (a path without extension), or None if it does not fit."""
        match = self._matcher.fullmatch(name)
        if match is None:
            return None
        return match.groupdict().get("folders", "") + match["stem"]

    def name(self, stem: str) -> str:
        """A path without extension that `stem` finds this name in, if the pattern can have it."""
        before, after = self.text.split("{}")
        folder, slash, start = before.rpartition("/")
        if "/" in after:
            return f"{before}{stem}{after}"
        folders, slash_below, last = stem.rpartition("/")
        return f"{folder}{slash}{folders}{slash_below}{start}{last}{after}"


def place(name: str, chosen: SidePattern, rejected: SidePattern) -> tuple[str, str] | None:
    """(side, pair name) of an image by its path without extension; None if it fits neither side.

    A `train` or `val` folder may lie above the pattern's folders as well as below; the pair's name
    begins with it. An image that fits both patterns (`{}` and `{}_good`) belongs to the longer.
    """
    by_length = sorted(
        (("chosen", chosen), ("rejected", rejected)), key=lambda side: -len(side[1].text)
    )
    for side, pattern in by_length:
        stem = pattern.stem(name)
        if stem is not None:
            return side, stem
    first, slash, rest = name.partition("/")
    if slash and first.lower() in SPLIT_FOLDERS:
        for side, pattern in by_length:
            stem = pattern.stem(rest)
            if stem is not None:
                return side, f"{first}/{stem}"
    return None


def split_of(stem: str) -> str | None:
    """'train' or 'val' if a pair's name begins with such a folder."""
    first, slash, _ = stem.partition("/")
    return SPLIT_FOLDERS.get(first.lower()) if slash else None


def _fault(text: str) -> str | None:
    if text.count("{}") != 1:
        return "needs exactly one {}"
    if "{" in text.replace("{}", "") or "}" in text.replace("{}", ""):
        return "has braces other than one {}"
    if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:", text):
        return "is an absolute path"
    if any(part in ("", ".", "..") for part in text.split("/")):
        return "leads out of the folder or has an empty part"
    if PurePosixPath(text).suffix.lower() in IMAGE_SUFFIXES:
        return "ends in a file extension, which it must not"
    return None
