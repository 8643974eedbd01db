"""OneTrainer's list of concepts, `concepts.json`, becomes pairs.

Either concepts of the types DPO_CHOSEN and DPO_REJECTED (and the same with _VAL), paired in their
order, or concepts with two patterns, of the type STANDARD, or VALIDATION for `val`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..pairs.candidate import judge_all, match_sides, without_leaks
from ..pairs.folder import FolderReading, load_pair_folder
from ..pairs.listing import FolderListing, ListedFile, list_folder
from ..pairs.problem import PairError, PairProblem, describe_problems, printable
from ..pairs.record import Pair, PairSet, counted
from .onetrainer_layout import CONCEPT_TYPES, CONCEPTS_NAME
from .onetrainer_manifest import Allowed, read_json

MAX_CONCEPTS = 1000
_HEADING = "These OneTrainer concepts cannot be used"


@dataclass(frozen=True)
class ConceptPair:
    """Where one concept, or two of them, keep their pairs."""

    split: str
    chosen: Path
    rejected: Path
    """The same folder as `chosen` where there are patterns."""
    chosen_pattern: str = ""
    rejected_pattern: str = ""


def read_concepts(folder: Path, allowed: Allowed) -> list[ConceptPair] | None:
    """The concepts of a folder's list that hold preferences; None if there is no list.

    A concept's folder is read if `allowed` gives it, else looked for below `folder` by the end of
    its path, since people move what they have exported. Raises PairError listing all that is
    wrong with the list, and every folder that is missing or may not be read.
    """
    data = read_json(folder, CONCEPTS_NAME)
    if data is None:
        return None
    concepts = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    concepts = [one for one in concepts[:MAX_CONCEPTS] if one.get("enabled", True) is True]
    problems: list[PairProblem] = []
    pairs = [
        *_of_types(folder, allowed, concepts, problems),
        *_of_patterns(folder, allowed, concepts, problems),
    ]
    if not pairs and not problems:
        what = "No concept of the list is for preferences"
        fix = "Give chosen and rejected concepts, or two patterns to a concept, and enable them."
        problems.append(PairProblem(what, CONCEPTS_NAME, fix))
    if problems:
        raise PairError(problems, _HEADING)
    return pairs


def import_concepts(concepts: list[ConceptPair], on_problem: str) -> FolderReading:
    """The pairs of all concepts. Raises PairError listing every problem of all of them."""
    pairs: list[Pair] = []
    problems: list[PairProblem] = []
    with_val = any(concept.split == "val" for concept in concepts)
    for concept in concepts:
        split = concept.split if with_val else None
        try:
            found, wrong = _read(concept, on_problem)
        except PairError as error:
            problems += error.problems
            continue
        pairs += (replace(pair, split=split) for pair in found)
        problems += wrong
    kept, leaks = without_leaks(pairs)
    problems += leaks
    if not kept and not problems:
        fix = "Put images into the concepts' folders."
        problems.append(PairProblem("The concepts hold no pairs", CONCEPTS_NAME, fix))
    if problems and (on_problem == "error" or not kept):
        raise PairError(problems, _HEADING)
    records = PairSet.folded(kept)
    lines = [*records.summary(), f"from {counted(len(concepts), 'concept')} of {CONCEPTS_NAME}"]
    if problems:
        lines += ["", "Left out:", *describe_problems(problems)]
    return FolderReading(records, "\n".join(lines), tuple(problems))


def _of_types(
    folder: Path,
    allowed: Allowed,
    concepts: list[dict[str, Any]],
    problems: list[PairProblem],
) -> list[ConceptPair]:
    by_type: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for concept in concepts:
        by_type[str(concept.get("type"))].append(concept)
    pairs = []
    for split in ("train", "val"):
        chosen, rejected = (by_type[CONCEPT_TYPES[s, split]] for s in ("chosen", "rejected"))
        if len(chosen) != len(rejected):
            what = f"There are {len(chosen)} chosen but {len(rejected)} rejected concepts"
            fix = "Give one rejected concept for each chosen one, in the same order."
            problems.append(PairProblem(what, f"{CONCEPTS_NAME}, {split}", fix))
        for better, worse in zip(chosen, rejected, strict=False):
            places = [_place(folder, allowed, one, problems) for one in (better, worse)]
            if places[0] is not None and places[1] is not None:
                pairs.append(ConceptPair(split, places[0], places[1]))
    return pairs


def _of_patterns(
    folder: Path,
    allowed: Allowed,
    concepts: list[dict[str, Any]],
    problems: list[PairProblem],
) -> list[ConceptPair]:
    pairs = []
    for concept in concepts:
        patterns = [concept.get(f"dpo_{side}_pattern") for side in ("chosen", "rejected")]
        chosen, rejected = (one if isinstance(one, str) else "" for one in patterns)
        if not chosen or not rejected:
            continue
        place = _place(folder, allowed, concept, problems, itself=True)
        if place is not None:
            split = "val" if concept.get("type") == "VALIDATION" else "train"
            pairs.append(ConceptPair(split, place, place, chosen, rejected))
    return pairs


def _place(
    folder: Path,
    allowed: Allowed,
    concept: Mapping[str, Any],
    problems: list[PairProblem],
    itself: bool = False,
) -> Path | None:
    """Where a concept's images lie; with `itself` that may be the folder of the list."""
    text = concept.get("path")
    text = text if isinstance(text, str) else ""
    found = (allowed(text) if text else None) or _below(folder, text)
    if found is None and not itself:
        what = "A concept's folder is missing, or may not be read from here"
        fix = "Put it beside the list, or into ComfyUI's input, output or datasets folder."
        problems.append(PairProblem(what, printable(text) or CONCEPTS_NAME, fix))
    return found or (folder if itself else None)


def _below(folder: Path, text: str) -> Path | None:
    """The folder inside `folder` that ends as a path from another place does."""
    parts = [part for part in re.split(r"[/\\]", text) if part]
    if any(part in (".", "..") or "\0" in part for part in parts):
        return None
    for start in range(len(parts)):
        try:
            path = folder.joinpath(*parts[start:]).resolve()
            if path.is_dir() and path.is_relative_to(folder.resolve()):
                return path
        except (OSError, RuntimeError):
            continue
    return None


def _read(concept: ConceptPair, on_problem: str) -> tuple[list[Pair], list[PairProblem]]:
    if concept.chosen_pattern:
        patterns = (concept.chosen_pattern, concept.rejected_pattern)
        reading = load_pair_folder(concept.chosen, *patterns, on_problem)
        return list(reading.pairs), list(reading.problems)
    listings = [list_folder(concept.chosen), list_folder(concept.rejected)]
    sides = dict(zip(("chosen", "rejected"), map(_by_name, listings), strict=True))
    candidates, problems = match_sides(sides, {})
    captions = [file for listing in listings for file in listing.captions]
    judged = judge_all(candidates, captions)
    problems += [problem for listing in listings for problem in listing.problems]
    problems += [problem for one in judged for problem in one.problems]
    return [one.pair for one in judged if one.pair is not None], problems


def _by_name(listing: FolderListing) -> dict[str, list[ListedFile]]:
    """Images by name; each named from its concept's own folder on, so that they can be told."""
    files: dict[str, list[ListedFile]] = defaultdict(list)
    for file in listing.images:
        named = f"{listing.folder.parent.name}/{listing.folder.name}/{file.name}"
        files[file.bare].append(replace(file, name=named))
    return files
