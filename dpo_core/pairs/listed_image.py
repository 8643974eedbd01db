"""An image found in a folder: its caption, facts and picture. Problems are collected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .caption import read_caption
from .image_file import ImageFacts, inspect_image
from .listing import ListedFile
from .problem import PairError, PairProblem
from .record import Picture, counted

SHOWN_FILES = 5

_ORIGINS = {
    "caption": "from caption files",
    "metadata": "from image metadata",
    "unclear": "whose metadata does not tell the prompt for certain, left empty",
    "none": "without caption and without metadata, left empty",
}


def caption_of(file: ListedFile | None, problems: list[PairProblem]) -> str | None:
    """The prompt in a caption file; None if there is none, or it cannot be read."""
    if file is None:
        return None
    if file.problem is not None:
        problems.append(file.problem)
        return None
    try:
        return read_caption(file.path, file.shown)
    except PairError as error:
        problems += error.problems
        return None


def facts_of(
    file: ListedFile, with_prompt: bool, problems: list[PairProblem]
) -> ImageFacts | None:
    """What one pass over an image tells; None if it cannot be read."""
    if file.problem is not None:
        problems.append(file.problem)
        return None
    try:
        return inspect_image(file.path, file.shown, with_prompt)
    except PairError as error:
        problems += error.problems
        return None


def picture_of(file: ListedFile, facts: ImageFacts) -> Picture:
    """The image as a record holds it, its facts known."""
    return Picture.from_file(file.path, size=facts.size, digest=facts.digest)


def no_prompt_origin(*facts: ImageFacts) -> str:
    """Where it is said that no prompt came from, of images without a caption."""
    return "unclear" if any(one.prompt_is_unclear for one in facts) else "none"


def prompt_origins(origins: Counter[str]) -> str:
    """A report's line: how many prompts came from where, by the keys of `_ORIGINS`."""
    found = [f"{origins[origin]} {text}" for origin, text in _ORIGINS.items() if origins[origin]]
    return "prompts: " + ", ".join(found)


def named_files(files: Sequence[ListedFile], noun: str) -> str:
    """How many files, and the names of the first."""
    names = ", ".join(file.shown for file in files[:SHOWN_FILES])
    more = ", ..." if len(files) > SHOWN_FILES else ""
    return f"{counted(len(files), noun)} ({names}{more})"
