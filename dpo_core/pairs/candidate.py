"""Two files that would make a pair, read and judged: a pair, or what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..metadata.prompt_text import tidy_prompt
from .belief import CERTAIN, Belief
from .listed_image import caption_of, facts_of, no_prompt_origin, picture_of
from .listing import ListedFile
from .pattern import split_of
from .problem import PairProblem
from .record import Pair

MAX_THREADS = 8

_SAME_NAME = "Give both images of a pair the same name, or take the single one out."
_TELL_APART = "Keep one of them."
_ONE_PROMPT = "Both images of a pair need the same prompt: correct one, or take the pair out."

Sides = Mapping[str, Mapping[str, list[ListedFile]]]
"""Images by side ("chosen", "rejected") and pair name; more than one of a name is a problem."""


@dataclass(frozen=True)
class Candidate:
    """Two files, and what is known of them besides."""

    chosen: ListedFile
    rejected: ListedFile
    belief: Belief = CERTAIN
    split: str | None = None
    listed_prompt: str | None = None
    """The prompt as a list beside the images has it, line breaks and all. A caption file that
    says something else is the newer."""
    source: str | None = None
    """Where the pair came from; None is the chosen file's name."""

    @property
    def shown(self) -> str:
        return f"{self.chosen.shown} and {self.rejected.shown}"


@dataclass(frozen=True)
class Judged:
    """A candidate after reading: its pair, where the prompt came from, or what is wrong."""

    pair: Pair | None = None
    prompt_origin: str = ""
    problems: tuple[PairProblem, ...] = ()


def match_sides(
    sides: Sides, beliefs: Mapping[str, Belief]
) -> tuple[list[Candidate], list[PairProblem]]:
    """The pairs of images that share a name, and the images without one."""
    candidates: list[Candidate] = []
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
            belief = beliefs.get(stem, CERTAIN)
            candidates.append(Candidate(ours[0], theirs[0], belief, split_of(stem)))
    return candidates, problems


def judge_all(candidates: list[Candidate], captions: Iterable[ListedFile]) -> list[Judged]:
    """Read every candidate once; `captions` are the caption files of their folders."""
    beside = {_bare(file): file for file in captions}
    # Reading, hashing and decoding all release the interpreter lock.
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda one: _judge(one, beside), candidates))


def without_leaks(pairs: Iterable[Pair]) -> tuple[list[Pair], list[PairProblem]]:
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


def pair_problem(
    shown: str, sizes: Sequence[tuple[str, tuple[int, int]]], is_same_image: bool
) -> PairProblem | None:
    """What is wrong with two readable images as a pair; `sizes`: each one's name and size."""
    if is_same_image:
        return PairProblem(
            "The same image on both sides",
            shown,
            "Replace one of the two images, or take the pair out.",
        )
    if len({size for _, size in sizes}) > 1:
        where = ", ".join(f"{name} is {w} x {h}" for name, (w, h) in sizes)
        return PairProblem(
            "Sizes differ between the sides", where, "Crop or scale both images to one size."
        )
    return None


def _judge(candidate: Candidate, captions: Mapping[tuple[Path, str], ListedFile]) -> Judged:
    problems: list[PairProblem] = []
    files = (candidate.chosen, candidate.rejected)
    written = [caption_of(captions.get(_bare(file)), problems) for file in files]
    with_prompt = written == [None, None] and candidate.listed_prompt is None
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
        return Judged(problems=tuple(problems))
    sizes = [(candidate.chosen.shown, ours.size), (candidate.rejected.shown, theirs.size)]
    problem = pair_problem(candidate.shown, sizes, ours.digest == theirs.digest)
    if problems or problem:
        return Judged(problems=tuple([*problems, problem] if problem else problems))
    listed = candidate.listed_prompt
    if listed is not None and (not given or tidy_prompt(listed) == given[0]):
        given = [listed]
    pair = Pair(
        prompt=given[0] if given else "",
        chosen=picture_of(candidate.chosen, ours),
        rejected=picture_of(candidate.rejected, theirs),
        group=candidate.belief.group,
        chosen_probability=candidate.belief.chosen_probability,
        split=candidate.split,
        source=candidate.chosen.shown if candidate.source is None else candidate.source,
        rating_gap=candidate.belief.rating_gap,
    )
    return Judged(pair, origin if given else no_prompt_origin(ours, theirs))


def _bare(file: ListedFile) -> tuple[Path, str]:
    """The folder a file lies in and its name without extension, as in `ListedFile.bare`."""
    return file.path.parent, Path(file.bare).name
