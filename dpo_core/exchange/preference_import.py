"""Datasets of preferences between images, in Parquet files, become records.

Three layouts are known by their columns: pairs as in Pick-a-Pic (`jpg_0`, `jpg_1`, `label_0`),
pairs as `chosen` and `rejected`, and what `export_preferences` writes besides (`image` with
`label`, `images` with `ratings`). Further columns are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..pairs.candidate import MAX_THREADS, without_leaks
from ..pairs.folder import ON_PROBLEM, FolderReading
from ..pairs.listing import ListedFile, list_folder
from ..pairs.problem import PairError, PairProblem, describe_problems, printable
from ..pairs.record import LabelledImage, Pair, PairSet, RankedGroup, counted
from .arrow import Arrow, load_arrow
from .image_folder import ImageFolder
from .preference_file import PreferenceFile, open_preferences, rows_of
from .preference_row import FoundRow, Record, read_row

MAX_ROWS = 2_000_000
MAX_PROBLEMS = 1000
"""After so many the rest of the dataset is not looked at."""

_HEADING = "This dataset cannot be used"

Progress = Callable[[int, int], None]


def import_preferences(
    folder: str | Path,
    images: ImageFolder,
    on_problem: str = "error",
    limit: int = 0,
    progress: Progress | None = None,
) -> FolderReading:
    """Read the Parquet files below a folder; their images are laid down in `images`.

    Rows without a label are passed over and counted. Where files of a stranger's dataset are for
    training and for validation or tests by their names, the latter are `val`. `limit`: rows read
    at most, 0 for all. `on_problem`: "error" refuses the dataset, "skip" leaves bad rows out and
    lists them in the report. `progress` is told rows done and rows in all; what it raises ends
    the reading.

    Raises PairError listing every problem (of the first MAX_PROBLEMS), also under "skip" when
    nothing is left, and without pyarrow or room on the disk; OSError when an image cannot be
    written; ValueError for an unknown `on_problem`.
    """
    if on_problem not in ON_PROBLEM:
        raise ValueError(f"on_problem {on_problem!r} is none of {', '.join(ON_PROBLEM)}")
    arrow = load_arrow()
    listing = list_folder(folder)
    problems = list(listing.problems)
    sources = _open_all(arrow, listing.tables, limit, problems)
    if not sources:
        if not problems:
            fix = "Give the folder that holds the dataset's .parquet files."
            where = printable(str(listing.folder))
            problems.append(PairProblem("The folder holds no Parquet files", where, fix))
        raise PairError(problems, _HEADING)
    found = list(_read_all(arrow, sources, images, limit, progress, problems))
    is_ours = all(source.is_ours for source in sources)
    if is_ours:
        found.sort(key=lambda one: one.position)
    records, ties, leaks = _parted(found)
    problems += leaks
    if problems and (on_problem == "error" or not found):
        raise PairError(problems, _HEADING)
    pairs = _pair_set(records, ties, is_ours)
    if not found or (pairs.is_empty and not pairs.ties):
        fix = "Give another dataset: none of its rows has a label."
        where = printable(str(listing.folder))
        raise PairError([PairProblem("There is no preference in it", where, fix)], _HEADING)
    unlabelled = sum(1 for one in found if one.record is None)
    report = _report(pairs, unlabelled, len(records) + len(ties), images, problems)
    rows = sum(source.rows for source in sources)
    if 0 < limit < rows:
        report = f"only the first {limit} of {rows} rows (limit)\n{report}"
    return FolderReading(pairs, report, tuple(problems))


def _open_all(
    arrow: Arrow, files: Sequence[ListedFile], limit: int, problems: list[PairProblem]
) -> list[PreferenceFile]:
    """The files of preferences, those to train on first."""
    sources = []
    for file in files:
        if file.problem is not None:
            problems.append(file.problem)
            continue
        try:
            sources.append(open_preferences(arrow, file))
        except PairError as error:
            problems += error.problems
    if not limit and sum(source.rows for source in sources) > MAX_ROWS:
        what = f"The dataset has more than {MAX_ROWS} rows"
        fix = "Set a limit, or give a folder with a few of its files."
        problems.append(PairProblem(what, counted(len(sources), "file"), fix))
        return []
    # Where everything is for the same, the name says nothing.
    if len({source.split for source in sources}) < 2:
        sources = [replace(source, split=None) for source in sources]
    return sorted(sources, key=lambda source: (source.split == "val", source.file.name))


def _read_all(
    arrow: Arrow,
    sources: Sequence[PreferenceFile],
    images: ImageFolder,
    limit: int,
    progress: Progress | None,
    problems: list[PairProblem],
) -> Iterator[FoundRow]:
    """Every row that has no problem, in order; the problems of the others are collected."""
    rows_in_all = sum(source.rows for source in sources)
    left = most = min(limit or rows_in_all, rows_in_all)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for source in sources:
            if left == 0:
                return
            for batch in rows_of(arrow, source, left, problems):
                left -= len(batch)
                reading = pool.map(lambda row, one=source: read_row(one, row, images), batch)
                for found in reading:
                    problems += found.problems
                    if not found.problems:
                        yield found
                if progress is not None:
                    progress(most - left, most)
                if len(problems) >= MAX_PROBLEMS:
                    what, fix = "There are many problems", "The rest was not looked at."
                    problems.append(PairProblem(what, source.file.shown, fix))
                    return


def _parted(
    found: Sequence[FoundRow],
) -> tuple[list[Record], list[Pair], list[PairProblem]]:
    """Records in their order, ties apart, and what lies in two splits at once."""
    ties = [one.record for one in found if one.is_tie and isinstance(one.record, Pair)]
    records = [one.record for one in found if one.record is not None and not one.is_tie]
    pairs, leaks = without_leaks(one for one in records if isinstance(one, Pair))
    return [*pairs, *(one for one in records if not isinstance(one, Pair))], ties, leaks


def _pair_set(records: Sequence[Record], ties: Sequence[Pair], is_ours: bool) -> PairSet:
    pairs = tuple(one for one in records if isinstance(one, Pair))
    labelled = tuple(one for one in records if isinstance(one, LabelledImage))
    groups = tuple(one for one in records if isinstance(one, RankedGroup))
    if is_ours:
        return PairSet(pairs, labelled, groups, (), tuple(ties))
    return PairSet.folded(pairs, labelled, groups, (), ties)


def _report(
    pairs: PairSet,
    unlabelled: int,
    read: int,
    images: ImageFolder,
    problems: list[PairProblem],
) -> str:
    lines = pairs.summary()
    if unlabelled:
        lines.append(f"{counted(unlabelled, 'row')} without a label passed over")
    copies = read - len(pairs) - len(pairs.labelled) - len(pairs.groups) - len(pairs.ties)
    if copies > 0:
        lines.append(f"{counted(copies, 'row')} left out as exact copies of another")
    files = counted(len(images.digests), "image")
    lines.append(
        f"{files}, {images.size / 1e6:.0f} MB, kept in {printable(str(images.path))}; delete that "
        "folder when you need them no more, it is made again"
    )
    if problems:
        lines += ["", "Left out:", *describe_problems(problems)]
    return "\n".join(lines)
