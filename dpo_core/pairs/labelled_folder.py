"""Two folders of images, liked and disliked, become labelled images for KTO."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .candidate import MAX_THREADS
from .folder import ON_PROBLEM, FolderReading
from .listed_image import (
    caption_of,
    facts_of,
    named_files,
    no_prompt_origin,
    picture_of,
    prompt_origins,
)
from .listing import FolderListing, ListedFile, list_folder
from .pattern import split_of
from .problem import PairError, PairProblem, describe_problems, printable
from .record import LabelledImage, PairSet, counted

_HEADING = "These labelled images cannot be used"
_SIDES = ("liked", "disliked")


@dataclass(frozen=True)
class _Read:
    """An image after reading: its record, where the prompt came from, or what is wrong."""

    image: LabelledImage | None = None
    prompt_origin: str = ""
    problems: tuple[PairProblem, ...] = ()


def load_labelled_folder(
    liked: str | Path, disliked: str | Path, on_problem: str = "error"
) -> FolderReading:
    """Read two folders and their subfolders; every image is one labelled record.

    The prompt is the caption file beside an image, else the one in its metadata, else empty. A
    `train` or `val` folder at the top tags the split. Either folder may be left out ("") but not
    both. Every image is read and checked once. `on_problem`: "error" refuses the folders, "skip"
    leaves bad images out and lists them in the report.

    Raises PairError listing every problem, also under "skip" when no image is left; ValueError
    for an unknown `on_problem`.
    """
    if on_problem not in ON_PROBLEM:
        raise ValueError(f"on_problem {on_problem!r} is none of {', '.join(ON_PROBLEM)}")
    listings = _listings(liked, disliked)
    read = [one for side, listing in listings.items() for one in _read_all(listing, side)]
    problems = [problem for listing in listings.values() for problem in listing.problems]
    problems += [problem for listing in listings.values() for problem in _unread(listing)]
    problems += [problem for one in read for problem in one.problems]
    images, conflicts = _without_conflicts(one.image for one in read if one.image is not None)
    problems += conflicts
    if problems and (on_problem == "error" or not images):
        raise PairError(problems, _HEADING)
    folded = PairSet.folded((), images)
    origins = Counter(one.prompt_origin for one in read if one.image is not None)
    copies = len(images) - len(folded.labelled)
    report = _report(folded, copies, origins, listings.values(), problems)
    return FolderReading(folded, report, tuple(problems))


def _listings(liked: str | Path, disliked: str | Path) -> dict[str, FolderListing]:
    """List the folders that are given; their problems are told together."""
    given = {
        side: folder
        for side, folder in zip(_SIDES, (liked, disliked), strict=True)
        if str(folder).strip()
    }
    problems: list[PairProblem] = []
    if not given:
        fix = "Give the full path of a folder of liked images, of disliked ones, or both."
        problems.append(PairProblem("No folder given", "liked, disliked", fix))
    listings: dict[str, FolderListing] = {}
    for side, folder in given.items():
        try:
            listings[side] = list_folder(folder)
        except PairError as error:
            problems += error.problems
    problems += _overlap(listings)
    for side, listing in listings.items():
        if not listing.images:
            fix = "Put images into it, or leave this folder out."
            shown = f"{side}: {printable(str(listing.folder))}"
            problems += [PairProblem("The folder holds no images", shown, fix), *listing.problems]
    if problems:
        raise PairError(problems, _HEADING)
    return listings


def _overlap(listings: dict[str, FolderListing]) -> list[PairProblem]:
    """Told once instead of as a conflict for every single file."""
    if len(listings) < 2:
        return []
    one, other = (listing.folder.resolve() for listing in listings.values())
    if not (one.is_relative_to(other) or other.is_relative_to(one)):
        return []
    return [
        PairProblem(
            "One folder lies in the other" if one != other else "Both folders are the same",
            f"{printable(str(one))} and {printable(str(other))}",
            "Keep liked and disliked images in two separate folders.",
        )
    ]


def _read_all(listing: FolderListing, side: str) -> list[_Read]:
    captions = {file.bare: file for file in listing.captions}
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda file: _read(file, side, captions), listing.images))


def _read(file: ListedFile, side: str, captions: dict[str, ListedFile]) -> _Read:
    problems: list[PairProblem] = []
    caption = caption_of(captions.get(file.bare), problems)
    facts = facts_of(file, caption is None, problems)
    if problems or facts is None:
        return _Read(problems=tuple(problems))
    prompt = facts.prompt if caption is None else caption
    image = LabelledImage(
        prompt or "",
        picture_of(file, facts),
        side == "liked",
        split=split_of(file.bare),
        source=f"{side}: {file.shown}",
    )
    written = no_prompt_origin(facts) if prompt is None else "metadata"
    return _Read(image, written if caption is None else "caption")


def _unread(listing: FolderListing) -> list[PairProblem]:
    return [
        PairProblem(
            f"{file.path.suffix.lower()} files are not read",
            file.shown,
            "Save them as PNG, or take them out.",
        )
        for file in listing.unread
    ]


def _without_conflicts(
    images: Iterable[LabelledImage],
) -> tuple[list[LabelledImage], list[PairProblem]]:
    """Leave out images that are liked and disliked, and those another split holds already."""
    first: dict[str, LabelledImage] = {}
    kept: list[LabelledImage] = []
    torn: set[str] = set()
    problems: list[PairProblem] = []
    for image in images:
        twin = first.setdefault(image.image_key, image)
        where = f"{twin.source} and {image.source}"
        if twin.liked != image.liked:
            torn.add(image.image_key)
            what = "The same image is liked and disliked"
            problems.append(PairProblem(what, where, "Take it out of one of the folders."))
        elif twin.split != image.split:
            what = "The same image in two splits"
            problems.append(PairProblem(what, where, "Take it out of one of them."))
        else:
            kept.append(image)
    return [image for image in kept if image.image_key not in torn], problems


def _report(
    images: PairSet,
    copies: int,
    origins: Counter[str],
    listings: Iterable[FolderListing],
    problems: list[PairProblem],
) -> str:
    lines = [*images.summary()[1:], prompt_origins(origins)]
    splits = Counter(image.split for image in images.labelled if image.split)
    if splits:
        lines.append("split: " + ", ".join(f"{splits[name]} {name}" for name in sorted(splits)))
    if copies:
        lines.append(f"{counted(copies, 'image')} left out as exact copies of another")
    for listing in listings:
        known = {file.bare for file in listing.images}
        orphans = [file for file in listing.captions if file.bare not in known]
        if orphans:
            lines.append(f"lying beside no image: {named_files(orphans, 'caption')}")
    if problems:
        lines += ["", "Left out:", *describe_problems(problems)]
    return "\n".join(lines)
