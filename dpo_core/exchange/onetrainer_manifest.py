"""The list that OneTrainer's pair tool keeps beside its images, `manifest.json`, becomes records.

Its names are looked up among the files that lie in the folder, never joined to a path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ..pairs.belief import CERTAIN, MAX_GROUP_CHARS, Belief, parsed_belief
from ..pairs.candidate import Candidate, Judged, judge_all, pair_problem, without_leaks
from ..pairs.folder import FolderReading
from ..pairs.image_file import IMAGE_SUFFIXES, MAX_FILE_BYTES
from ..pairs.listed_image import facts_of, picture_of, prompt_origins
from ..pairs.listing import MAX_FILES, FolderListing, ListedFile, list_folder
from ..pairs.problem import PairError, PairProblem, describe_problems, printable
from ..pairs.record import SPLITS, LabelledImage, Pair, PairSet, Picture, RankedGroup, counted
from .onetrainer_layout import LIST_NAME, OTHERS, OWN_FIELD, SIDES

MAX_LIST_BYTES = 64 << 20
UNCONDITIONAL = "UNCONDITIONAL"
"""What the pair tool writes for a prompt where there was none."""

REVIEWED = ".dpo_review/kept"
"""Where a review of the folder puts the files of pairs that it removes, each below one folder."""

_ELSEWHERE = "elsewhere"
_HEADING = "This OneTrainer folder cannot be used"
_FIX_ENTRY = "Correct or delete this entry, or set on_problem to skip."

Allowed = Callable[[str], Path | None]
"""A folder that a list names, checked and resolved; None if it may not be read or is not there."""


@dataclass
class _List:
    """The manifest, and what was found of it."""

    listing: FolderListing
    allowed: Allowed
    problems: list[PairProblem] = field(default_factory=list)
    elsewhere: int = 0
    """Images read from where they were made, since the copies are gone."""
    removed: frozenset[str] = frozenset()
    """Names of the files that a review has put aside."""
    left_out: int = 0
    """Pairs of the list that a review has removed."""

    @property
    def files(self) -> Mapping[str, ListedFile]:
        return {file.name: file for file in self.listing.images}


def read_list(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if there is none.

    Raises PairError when it is damaged, or larger than MAX_LIST_BYTES.
    """
    data = read_json(folder, LIST_NAME)
    if data is None:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("pairs"), list):
        fix = "Delete it to read the images by their names alone."
        what = "This is no list of pairs of OneTrainer"
        raise PairError([PairProblem(what, LIST_NAME, fix)], _HEADING)
    return data


def read_json(folder: Path, name: str) -> Any | None:
    """What a JSON file in a folder holds; None without it. Raises PairError."""
    path = folder / name
    fix = "Save it again, or delete it."
    if not path.is_file():
        return None
    if not path.resolve().is_relative_to(folder.resolve()):
        what = "A link leads out of the folder"
        raise PairError([PairProblem(what, name, "Put the file itself there.")], _HEADING)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            what = f"The list is longer than {MAX_LIST_BYTES >> 20} MB"
            raise PairError([PairProblem(what, name, "Give another folder.")], _HEADING)
        return json.loads(data)
    except OSError as error:
        what = f"The list cannot be opened ({error.strerror})"
        raise PairError([PairProblem(what, name, "Check its permissions.")], _HEADING) from error
    except (ValueError, RecursionError) as error:
        raise PairError([PairProblem("The list is damaged", name, fix)], _HEADING) from error


def import_list(
    folder: Path, data: Mapping[str, Any], on_problem: str, allowed: Allowed
) -> FolderReading:
    """The records of a manifest, as `read_list` gives it.

    Images lie in `chosen` and `rejected`, in `train` or `val` below them or in neither. Where a
    copy is missing, the image it was made from is read if `allowed` gives it and it is still the
    same. A caption file that differs from the list is the newer.

    Raises PairError listing every problem, also under "skip" when nothing is left.
    """
    found = _List(list_folder(folder), allowed, removed=_removed(folder))
    found.problems += found.listing.problems
    files = found.files
    made = (_candidate(found, files, i, entry) for i, entry in enumerate(data["pairs"]))
    candidates = [candidate for candidate in made if candidate is not None]
    judged = [
        # Ours say no prompt with no prompt, so that the word is one.
        one if candidate.source is not None else _without_stand_in(one)
        for candidate, one in zip(
            candidates, judge_all(candidates, found.listing.captions), strict=True
        )
    ]
    pairs, leaks = without_leaks(one.pair for one in judged if one.pair is not None)
    found.problems += [*(p for one in judged for p in one.problems), *leaks]
    others = data.get(OWN_FIELD)
    ties, labelled, groups = _others(found, files, others if isinstance(others, dict) else {})
    records = PairSet(tuple(pairs), labelled, groups, (), ties)
    if found.problems and (on_problem == "error" or records.is_empty):
        raise PairError(found.problems, _HEADING)
    if records.is_empty:
        fix = "Give the folder that the pair tool wrote to, once it holds pairs."
        raise PairError([PairProblem("The list holds no pair", LIST_NAME, fix)], _HEADING)
    named = {one.name for c in candidates for one in (c.chosen, c.rejected)}
    report = _report(records, judged, found, named)
    return FolderReading(records, report, tuple(found.problems))


def _candidate(
    found: _List, files: Mapping[str, ListedFile], number: int, entry: Any
) -> Candidate | None:
    where = f"{LIST_NAME}, pair {number}"
    names = [entry.get(f"{side}_file") if isinstance(entry, dict) else None for side in SIDES]
    prompt = _prompt(entry)
    if prompt is None or not all(isinstance(name, str) and name for name in names):
        what = "An entry of the list cannot be understood"
        found.problems.append(PairProblem(what, where, _FIX_ENTRY))
        return None
    own = entry.get(OWN_FIELD)
    belief = _belief(own)
    if belief is None:
        what = "What is known of a pair cannot be understood"
        found.problems.append(PairProblem(what, where, _FIX_ENTRY))
        return None
    if any(_is_removed(found, files, side, entry[f"{side}_file"]) for side in SIDES):
        found.left_out += 1
        return None
    sides = [_pair_file(found, files, side, entry, where) for side in SIDES]
    if sides[0] is None or sides[1] is None:
        return None
    (chosen, ours), (rejected, theirs) = sides[0], sides[1]
    splits = {split for split in (ours, theirs) if split != _ELSEWHERE}
    if len(splits) > 1:
        fix = "Move one of them, so that both are in train or both in val."
        where = f"{chosen.shown} and {rejected.shown}"
        found.problems.append(PairProblem("A pair is split between train and val", where, fix))
        return None
    split = next(iter(splits), None) or None
    if not isinstance(own, dict):
        return Candidate(chosen, rejected, belief, split, prompt)
    if own.get("split") is None and split == "train":
        split = None
    source = own.get("source")
    source = source if isinstance(source, str) else ""
    return Candidate(chosen, rejected, belief, split, prompt, source)


def _without_stand_in(judged: Judged) -> Judged:
    """The same, but no prompt where the pair tool wrote a word for there being none."""
    if judged.pair is None or judged.pair.prompt != UNCONDITIONAL:
        return judged
    return Judged(replace(judged.pair, prompt="", group=""), "none")


def _prompt(entry: Any) -> str | None:
    prompt = entry.get("prompt") if isinstance(entry, dict) else None
    return prompt if isinstance(prompt, str) else None


def _belief(own: Any) -> Belief | None:
    """What only we know of a pair; certainty where nothing is said, None if it is no sense."""
    if own is None:
        return CERTAIN
    return parsed_belief(own) if isinstance(own, dict) else None


def _pair_file(
    found: _List, files: Mapping[str, ListedFile], side: str, entry: Mapping[str, Any], where: str
) -> tuple[ListedFile, str] | None:
    """An image of a pair and the split it lies in, "" for neither; None if it is missing."""
    name = entry[f"{side}_file"]
    for split, path in _places(side, name):
        file = files.get(path) or _of_other_kind(files, path)
        if file is not None:
            return file, split
    source = _source_file(found, entry, side)
    if source is not None:
        found.elsewhere += 1
        return source, _ELSEWHERE
    what = "An image of the list is missing"
    fix = "Put it back, or remove the pair in OneTrainer's pair tool or from the list."
    found.problems.append(PairProblem(what, f"{where}: {side}/{printable(name)}", fix))
    return None


def _places(side: str, name: str) -> list[tuple[str, str]]:
    """Splits, and where a file of this name would lie in each."""
    return [(split, f"{side}/{split}/{name}" if split else f"{side}/{name}")
            for split in ("", *SPLITS)]  # fmt: skip


def _of_other_kind(files: Mapping[str, ListedFile], path: str) -> ListedFile | None:
    """The one file of this name but for its ending: the two of a pair may have changed places."""
    bare = os.path.splitext(path)[0]
    found = [files[name] for suffix in IMAGE_SUFFIXES if (name := f"{bare}{suffix}") in files]
    return found[0] if len(found) == 1 else None


def _is_removed(
    found: _List, files: Mapping[str, ListedFile], side: str, name: str
) -> bool:
    """True if a review has put the file aside, so that it is not to be read from elsewhere."""
    places = [path for _, path in _places(side, name)]
    return not found.removed.isdisjoint(places) and not any(path in files for path in places)


def _removed(folder: Path) -> frozenset[str]:
    place = folder / REVIEWED
    if not os.path.realpath(place).startswith(os.path.realpath(folder) + os.sep):
        return frozenset()
    files = (Path(at, name) for at, _, some in os.walk(place) for name in some)
    below = (path.relative_to(place).parts[1:] for path in islice(files, MAX_FILES))
    return frozenset(PurePosixPath(*parts).as_posix() for parts in below)


def _source_file(found: _List, entry: Mapping[str, Any], side: str) -> ListedFile | None:
    """The image a missing copy was made from, if it may be read and is still the same."""
    text, size, sha256 = (entry.get(f"{side}_{key}") for key in ("source", "size", "sha256"))
    if not isinstance(text, str) or not isinstance(sha256, str):
        return None
    parent, name = os.path.split(text)
    folder = found.allowed(parent) if parent and name else None
    if folder is None:
        return None
    path = folder / name
    try:
        if not path.is_file() or not path.resolve().is_relative_to(folder):
            return None
        status = path.stat()
        if status.st_size > MAX_FILE_BYTES or size not in (None, status.st_size):
            return None
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return None
    except (OSError, ValueError, RuntimeError):
        return None
    return ListedFile(name, path, status.st_size, status.st_mtime_ns)


_Others = tuple[tuple[Pair, ...], tuple[LabelledImage, ...], tuple[RankedGroup, ...]]


def _others(found: _List, files: Mapping[str, ListedFile], others: Mapping[str, Any]) -> _Others:
    """Ties, labelled images and ranked groups of a folder of ours."""
    reader = _OthersReader(found, files)
    return (
        tuple(reader.read(others, "ties", reader.tie)),
        tuple(reader.read(others, "labelled", reader.labelled)),
        tuple(reader.read(others, "groups", reader.ranked)),
    )


class _OthersReader:
    """Reads the records that OneTrainer has no place for."""

    def __init__(self, found: _List, files: Mapping[str, ListedFile]) -> None:
        self._found, self._files = found, files
        self._pictures: dict[str, Picture] = {}

    def read(
        self, others: Mapping[str, Any], kind: str, make: Callable[[Mapping[str, Any]], Any]
    ) -> Iterable[Any]:
        entries = others.get(kind, [])
        for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
            where = f"{LIST_NAME}, {kind}, entry {number}"
            try:
                yield make(entry)
            except PairError as error:
                self._found.problems += error.problems
            except (AttributeError, KeyError, TypeError, ValueError):
                what = "An entry of the list cannot be understood"
                self._found.problems.append(PairProblem(what, where, _FIX_ENTRY))

    def tie(self, entry: Mapping[str, Any]) -> Pair:
        belief = _belief(entry)
        if belief is None:
            raise ValueError("no belief")
        chosen, rejected = (self._picture(entry[f"{side}_file"]) for side in SIDES)
        sizes = [(chosen.name, chosen.size), (rejected.name, rejected.size)]
        problem = pair_problem(chosen.name, sizes, chosen.digest == rejected.digest)
        if problem is not None:
            raise PairError([problem])
        return Pair(
            _text(entry, "prompt"),
            chosen,
            rejected,
            chosen_probability=belief.chosen_probability,
            rating_gap=belief.rating_gap,
            **_shared(entry),
        )

    def labelled(self, entry: Mapping[str, Any]) -> LabelledImage:
        if not isinstance(entry["liked"], bool):
            raise TypeError("liked is a bool")
        picture = self._picture(entry["file"])
        return LabelledImage(_text(entry, "prompt"), picture, entry["liked"], **_shared(entry))

    def ranked(self, entry: Mapping[str, Any]) -> RankedGroup:
        ratings = tuple(entry["ratings"])
        if not all(type(rating) in (int, float) for rating in ratings):
            raise TypeError("ratings are numbers")
        pictures = tuple(self._picture(name) for name in entry["files"])
        return RankedGroup(_text(entry, "prompt"), pictures, ratings, **_shared(entry))

    def _picture(self, name: str) -> Picture:
        if name not in self._pictures:
            file = self._files.get(f"{OTHERS}/{name}")
            if file is None:
                what = "An image of the list is missing"
                where = f"{OTHERS}/{printable(str(name)[:200])}"
                raise PairError([PairProblem(what, where, "Put it back, or export again.")])
            problems: list[PairProblem] = []
            facts = facts_of(file, False, problems)
            if facts is None:
                raise PairError(problems)
            self._pictures[name] = picture_of(file, facts)
        return self._pictures[name]


def _shared(entry: Mapping[str, Any]) -> dict[str, Any]:
    group, split = _text(entry, "group"), entry.get("split")
    if len(group) > MAX_GROUP_CHARS:
        raise ValueError("group is too long")
    return {"group": group, "split": split, "source": _text(entry, "source")}


def _text(entry: Mapping[str, Any], key: str) -> str:
    text = entry[key]
    if not isinstance(text, str):
        raise TypeError(f"{key} is a text")
    return text


def _report(
    records: PairSet, judged: list[Judged], found: _List, named: set[str]
) -> str:
    lines = records.summary()
    lines.append(prompt_origins(Counter(one.prompt_origin for one in judged if one.pair)))
    if found.elsewhere:
        images = counted(found.elsewhere, "image")
        lines.append(f"{images} read from where they were made, since the copies are missing")
    if found.left_out:
        lines.append(f"{counted(found.left_out, 'pair')} left out that a review has removed")
    strangers = [
        file.shown
        for file in found.listing.images
        if file.name not in named and file.name.partition("/")[0] in SIDES
    ]
    if strangers:
        shown = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        lines.append(f"not in the list: {counted(len(strangers), 'image')} ({shown})")
    if found.problems:
        lines += ["", "Left out:", *describe_problems(found.problems)]
    return "\n".join(lines)
