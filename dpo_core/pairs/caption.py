"""Caption files."""

from __future__ import annotations

import codecs
from pathlib import Path

from ..metadata.prompt_text import tidy_prompt
from .problem import PairError, PairProblem

CAPTION_SUFFIX = ".txt"
MAX_CAPTION_BYTES = 64 * 1024


def read_caption(path: Path, name: str) -> str:
    """The prompt in a caption file, tidied; an empty file is an empty prompt.

    UTF-8 with or without a byte order mark, or UTF-16 with one. `name` is how messages call the
    file. Raises PairError when it cannot be opened, is no text, or is larger than
    MAX_CAPTION_BYTES.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        raise _caption_error(
            f"Caption cannot be opened ({error.strerror})", name, "Check the file's permissions."
        ) from error
    if len(data) > MAX_CAPTION_BYTES:
        raise _caption_error(
            f"Caption is longer than {MAX_CAPTION_BYTES // 1024} KB",
            name,
            "Keep only the prompt in this file.",
        )
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return tidy_prompt(data.decode("utf-16" if utf16 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _caption_error(
            "Caption is not UTF-8 text", name, "Save the file again as UTF-8."
        ) from error


def _caption_error(what: str, name: str, fix: str) -> PairError:
    return PairError([PairProblem(what, name, fix)])
