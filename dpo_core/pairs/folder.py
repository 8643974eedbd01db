"""A pair folder on disk becomes pairs, with everything that is wrong with it told at once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from .belief import beliefs_stamp, read_beliefs
from .candidate import Sides, judge_all, match_sides, without_leaks
from .image_file import DIGEST_BYTES
from .listed_image import named_files, prompt_origins
from .listing import FolderListing, ListedFile, list_folder
from .pattern import SidePattern, place
from .problem import PairError, PairProblem, describe_problems, printable
from .record import PairSet, counted

ON_PROBLEM = ("error", "skip")

_HEADING = "This pair folder cannot be used"


@dataclass(frozen=True)
class FolderReading:
    """What a folder held: its `pairs`, a `report` for the user, the `problems` passed over."""

    pairs: PairSet
    report: str
    problems: tuple[PairProblem, ...]


def load_pair_folder(
    folder: str | Path,
    chosen_pattern: str = "chosen/{}",
    rejected_pattern: str = "rejected/{}",
    on_problem: str = "error",
) -> FolderReading:
    """Read a folder of pairs: the images that both patterns give the same name.

    A pattern is a path below the folder, without extension, with one `{}`. Subfolders are
    mirrored; `train` and `val` folders above or below the sides tag the split. The prompt is the
    caption file beside the chosen (else the rejected) image, else the one in the metadata, else
    empty. Soft labels of an exported folder are read too. Every image is read and checked once.
    `on_problem`: "error" refuses the folder, "skip" leaves bad pairs out and lists them in the
    report.

    Raises PairError listing every problem, also under "skip" when no pair is left; ValueError for
    an unknown `on_problem`.
    """
    if on_problem not in ON_PROBLEM:
        raise ValueError(f"on_problem {on_problem!r} is none of {', '.join(ON_PROBLEM)}")
    listing, chosen, rejected = _prepare(folder, chosen_pattern, rejected_pattern)
    beliefs, unread_beliefs = read_beliefs(listing.folder)
    sides, strangers = _sort_sides(listing, chosen, rejected)
    _require_sides(listing, sides, chosen, rejected)
    candidates, problems = match_sides(sides, beliefs)
    judged = judge_all(candidates, listing.captions)
    problems += [*_unread(listing, chosen, rejected), *unread_beliefs]
    problems = [*listing.problems, *problems, *(p for one in judged for p in one.problems)]
    pairs, leaks = without_leaks(one.pair for one in judged if one.pair is not None)
    problems += leaks
    if problems and (on_problem == "error" or not pairs):
        raise PairError(problems, _HEADING)
    folded = PairSet.folded(pairs)
    origins = Counter(one.prompt_origin for one in judged if one.pair is not None)
    images = {file.bare for file in listing.images}
    orphans = [file for file in listing.captions if file.bare not in images]
    report = _report(folded, len(pairs) - len(folded), origins, strangers, orphans, problems)
    return FolderReading(folded, report, tuple(problems))


def folder_manifest(folder: str | Path) -> str:
    """Hex digest of names, sizes and times of all that is read: changes when they do.

    Opens no file and never raises PairError; a folder that cannot be listed has a digest too.
    """
    try:
        listing = list_folder(folder)
        lines = [
            repr((file.name, file.size, file.mtime_ns, file.problem))
            for file in (*listing.images, *listing.captions)
        ]
        lines += [repr(problem) for problem in listing.problems]
        lines.append(beliefs_stamp(listing.folder))
    except PairError as error:
        lines = [str(error)]
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).hexdigest()


def _prepare(
    folder: str | Path, chosen_pattern: str, rejected_pattern: str
) -> tuple[FolderListing, SidePattern, SidePattern]:
    """List the folder and parse both patterns; their problems are told together."""
    problems: list[PairProblem] = []
    patterns: list[SidePattern] = []
    for text, side in ((chosen_pattern, "chosen"), (rejected_pattern, "rejected")):
        try:
            patterns.append(SidePattern.parse(text, side))
        except PairError as error:
            problems += error.problems
    if len(patterns) == 2 and patterns[0].text == patterns[1].text:
        problems.append(
            PairProblem(
                "Both patterns are the same",
                patterns[0].text,
                "Give each side its own, e.g. chosen/{} and rejected/{}.",
            )
        )
    listing: FolderListing | None = None
    try:
        listing = list_folder(folder)
    except PairError as error:
        problems += error.problems
    if problems or listing is None:
        raise PairError(problems, _HEADING)
    return listing, patterns[0], patterns[1]


def _sort_sides(
    listing: FolderListing, chosen: SidePattern, rejected: SidePattern
) -> tuple[Sides, list[ListedFile]]:
    """Images by side and pair name, and those that belong to neither side."""
    sides: Sides = {"chosen": defaultdict(list), "rejected": defaultdict(list)}
    strangers: list[ListedFile] = []
    for image in listing.images:
        found = place(image.bare, chosen, rejected)
        if found is None:
            strangers.append(image)
        else:
            sides[found[0]][found[1]].append(image)
    return sides, strangers


def _unread(
    listing: FolderListing, chosen: SidePattern, rejected: SidePattern
) -> list[PairProblem]:
    """Files where an image of a pair would be, in a format the user surely wanted to be read."""
    return [
        PairProblem(
            f"{file.path.suffix.lower()} files are not read",
            file.shown,
            "Save them as PNG, or take them out.",
        )
        for file in listing.unread
        if place(file.bare, chosen, rejected) is not None
    ]


def _require_sides(
    listing: FolderListing, sides: Sides, chosen: SidePattern, rejected: SidePattern
) -> None:
    """Told once instead of as an unmatched image for every single file."""
    shown = printable(str(listing.folder))
    problems: list[PairProblem] = []
    if not listing.images:
        fix = f"Put images into it as {chosen.text} and {rejected.text}, or give another folder."
        if listing.tables:
            fix = "These are Parquet files: read them with the node Import Preferences."
        problems.append(PairProblem("The folder holds no images", shown, fix))
    else:
        tops = sorted({file.name.partition("/")[0] for file in listing.images})
        found = "found: " + printable(", ".join(tops[:10])) + (", ..." if len(tops) > 10 else "")
        for side, pattern in (("chosen", chosen), ("rejected", rejected)):
            if not sides[side]:
                fix = "Rename the images or folders, or change the patterns."
                what = f"No image fits the {side} pattern {pattern.text}"
                problems.append(PairProblem(what, f"{shown} ({found})", fix))
    if problems:
        raise PairError([*problems, *listing.problems], _HEADING)


def _report(
    pairs: PairSet,
    copies: int,
    origins: Counter[str],
    strangers: list[ListedFile],
    orphans: list[ListedFile],
    problems: list[PairProblem],
) -> str:
    lines = pairs.summary()
    lines.append(prompt_origins(origins))
    if copies:
        lines.append(f"{counted(copies, 'pair')} left out as exact copies of another")
    if strangers:
        lines.append(f"fitting neither pattern: {named_files(strangers, 'image')}")
    if orphans:
        lines.append(f"lying beside no image: {named_files(orphans, 'caption')}")
    if problems:
        lines += ["", "Left out:", *describe_problems(problems)]
    return "\n".join(lines)
