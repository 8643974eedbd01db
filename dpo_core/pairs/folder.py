"""A pair folder on disk becomes pairs, with everything that is wrong with it told at once."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .belief import CERTAIN, Belief, beliefs_stamp, read_beliefs
from .image_file import DIGEST_BYTES
from .listed_image import caption_of, facts_of, named_files, picture_of, prompt_origins
from .listing import FolderListing, ListedFile, list_folder
from .pattern import SidePattern, place, split_of
from .problem import PairError, PairProblem, describe_problems, printable
from .record import Pair, PairSet, counted

ON_PROBLEM = ("error", "skip")
MAX_THREADS = 8

_HEADING = "This pair folder cannot be used"
_SAME_NAME = "Give both images of a pair the same name, or take the single one out."
_TELL_APART = "Keep one of them."
_ONE_PROMPT = "Both images of a pair need the same prompt: correct one, or take the pair out."


@dataclass(frozen=True)
class FolderReading:
    """What a folder held: its `pairs`, a `report` for the user, the `problems` passed over."""

    pairs: PairSet
    report: str
    problems: tuple[PairProblem, ...]


@dataclass(frozen=True)
class _Candidate:
    stem: str
    chosen: ListedFile
    rejected: ListedFile

    @property
    def shown(self) -> str:
        return f"{self.chosen.shown} and {self.rejected.shown}"


@dataclass(frozen=True)
class _Judged:
    """A candidate after reading: its pair, where the prompt came from, or what is wrong."""

    pair: Pair | None = None
    prompt_origin: str = ""
    problems: tuple[PairProblem, ...] = ()


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
    candidates, problems = _match(sides)
    judged = _judge_all(candidates, listing, beliefs)
    problems += [*_unread(listing, chosen, rejected), *unread_beliefs]
    problems = [*listing.problems, *problems, *(p for one in judged for p in one.problems)]
    pairs, leaks = _without_leaks(one.pair for one in judged if one.pair is not None)
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


_Sides = dict[str, dict[str, list[ListedFile]]]


def _sort_sides(
    listing: FolderListing, chosen: SidePattern, rejected: SidePattern
) -> tuple[_Sides, list[ListedFile]]:
    """Images by side and pair name, and those that belong to neither side."""
    sides: _Sides = {"chosen": defaultdict(list), "rejected": defaultdict(list)}
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
    listing: FolderListing, sides: _Sides, chosen: SidePattern, rejected: SidePattern
) -> None:
    """Told once instead of as an unmatched image for every single file."""
    shown = printable(str(listing.folder))
    problems: list[PairProblem] = []
    if not listing.images:
        fix = f"Put images into it as {chosen.text} and {rejected.text}, or give another folder."
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


def _match(sides: _Sides) -> tuple[list[_Candidate], list[PairProblem]]:
    candidates: list[_Candidate] = []
    problems: list[PairProblem] = []
    chosen, rejected = sides["chosen"], sides["rejected"]
    for stem in sorted({*chosen, *rejected}):
        ours, theirs = chosen.get(stem, []), rejected.get(stem, [])
        for files in (ours, theirs):
            if len(files) > 1:
                names = ", ".join(file.shown for file in files)
                problems.append(PairProblem("Several images of one name", names, _TELL_APART))
        if not theirs:
            problems.append(
                PairProblem("Chosen image without a rejected one", ours[0].shown, _SAME_NAME)
            )
        elif not ours:
            problems.append(
                PairProblem("Rejected image without a chosen one", theirs[0].shown, _SAME_NAME)
            )
        elif len(ours) == len(theirs) == 1:
            candidates.append(_Candidate(stem, ours[0], theirs[0]))
    return candidates, problems


def _judge_all(
    candidates: list[_Candidate], listing: FolderListing, beliefs: Mapping[str, Belief]
) -> list[_Judged]:
    # Reading, hashing and decoding all release the interpreter lock.
    captions = {file.bare: file for file in listing.captions}
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(
            pool.map(
                lambda one: _judge(one, captions, beliefs.get(one.stem, CERTAIN)), candidates
            )
        )


def _judge(
    candidate: _Candidate, captions: dict[str, ListedFile], belief: Belief
) -> _Judged:
    problems: list[PairProblem] = []
    files = (candidate.chosen, candidate.rejected)
    written = [caption_of(captions.get(file.bare), problems) for file in files]
    with_prompt = written == [None, None]
    facts = [facts_of(file, with_prompt, problems) for file in files]
    origin = "metadata" if with_prompt else "caption"
    # With a file that could not be read, the prompts cannot be compared in fairness.
    prompts = written if not with_prompt else [fact.prompt if fact else None for fact in facts]
    given = [prompt for prompt in prompts if prompt is not None]
    if len(set(given)) > 1:
        what = f"Prompts differ between the sides ({origin})"
        problems.append(PairProblem(what, candidate.shown, _ONE_PROMPT))
    ours, theirs = facts
    if ours is None or theirs is None:
        return _Judged(problems=tuple(problems))
    if ours.digest == theirs.digest:
        problems.append(
            PairProblem(
                "The same image on both sides",
                candidate.shown,
                "Replace one of the two images, or take the pair out.",
            )
        )
    elif ours.size != theirs.size:
        where = "{} is {} x {}, {} is {} x {}".format(
            candidate.chosen.shown, *ours.size, candidate.rejected.shown, *theirs.size
        )
        problems.append(
            PairProblem(
                "Sizes differ between the sides", where, "Crop or scale both images to one size."
            )
        )
    if problems:
        return _Judged(problems=tuple(problems))
    pair = Pair(
        prompt=given[0] if given else "",
        chosen=picture_of(candidate.chosen, ours),
        rejected=picture_of(candidate.rejected, theirs),
        group=belief.group,
        chosen_probability=belief.chosen_probability,
        split=split_of(candidate.stem),
        source=candidate.chosen.shown,
        rating_gap=belief.rating_gap,
    )
    return _Judged(pair, origin if given else "none")


def _without_leaks(pairs: Iterable[Pair]) -> tuple[list[Pair], list[PairProblem]]:
    """Leave out a pair that another split holds already: validation must not see training data."""
    first: dict[str, Pair] = {}
    kept: list[Pair] = []
    problems: list[PairProblem] = []
    for pair in pairs:
        twin = first.setdefault(pair.key, pair)
        if twin.split == pair.split:
            kept.append(pair)
            continue
        problems.append(
            PairProblem(
                "The same pair in two splits",
                f"{twin.source} and {pair.source}",
                "Take it out of one of them.",
            )
        )
    return kept, problems


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
