"""Pairs as a person reviews them, whatever they come from: filters, distributions, warnings."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..pairs.record import SPLITS, counted
from .inconsistency import Choice, circles_of_choices

FEW_PAIRS = 20
DOMINATING = 0.5
"""One prompt has more than this part of all pairs."""
UNSURE = 0.6
"""A pair whose P is less than this hardly says anything."""
MAX_LISTED = 200
PROBLEMS = (
    "missing", "unreadable", "sizes_differ", "same_image", "prompts_differ", "repeated",
    "two_splits",
)  # fmt: skip
ORDERS = ("newest", "oldest", "unsure", "gap", "prompt")
_ASPECTS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 10), (16, 9), (2, 1), (21, 9))


@dataclass(frozen=True)
class ReviewedImage:
    """One side of a pair: `identity` is the same for exact copies; size 0 is not known."""

    id: str
    identity: str
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class ReviewedPair:
    """A pair, also one that cannot be trained on.

    Attributes:
        id: the same as long as it is the same pair.
        place: the set of a session it is of, or its name in a folder.
        prompt: None if it is not known.
        probability: soft label P in 0..1.
        gap: of ratings, in log odds, None where they were not rated.
        explicit: a person picked it directly; None where that is not known.
        at: when it was last chosen or changed, Unix time in ms.
        problems: of PROBLEMS.
    """

    id: str
    place: str
    prompt: str | None
    chosen: ReviewedImage
    rejected: ReviewedImage
    probability: float
    gap: float | None
    explicit: bool | None
    split: str | None
    at: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairFilter:
    """Which pairs are looked at, in which order; None lets all pass."""

    prompt: str = ""
    since: int | None = None
    until: int | None = None
    agreement_min: float | None = None
    agreement_max: float | None = None
    gap_min: float | None = None
    gap_max: float | None = None
    split: str | None = None
    problem: str | None = None
    """One of PROBLEMS, or "any"."""
    order: str = "newest"

    def applied(self, pairs: Iterable[ReviewedPair]) -> list[ReviewedPair]:
        found = [pair for pair in pairs if self._lets(pair)]
        found.sort(key=lambda pair: pair.id)
        if self.order in ("newest", "oldest"):
            found.sort(key=lambda pair: pair.at, reverse=self.order == "newest")
        elif self.order == "unsure":
            found.sort(key=lambda pair: pair.probability)
        elif self.order == "gap":
            found.sort(key=lambda pair: math.inf if pair.gap is None else pair.gap)
        else:
            found.sort(key=lambda pair: (pair.prompt is None, pair.prompt or ""))
        return found

    def _lets(self, pair: ReviewedPair) -> bool:
        problem = self.problem
        return (
            self.prompt.casefold() in (pair.prompt or "").casefold()
            and _within(pair.at, self.since, self.until)
            and _within(pair.probability, self.agreement_min, self.agreement_max)
            and _within(pair.gap, self.gap_min, self.gap_max)
            and self.split in (None, pair.split)
            and (problem is None or problem in (*pair.problems, "any" * bool(pair.problems)))
        )


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    if value is None:
        return low is None and high is None
    return (low is None or value >= low) and (high is None or value <= high)


@dataclass(frozen=True)
class ReviewWarning:
    """What is worth a look: its kind, a sentence, how often, and pairs it is about."""

    kind: str
    text: str
    count: int
    pairs: tuple[str, ...] = ()


def marked(pairs: Iterable[ReviewedPair]) -> list[ReviewedPair]:
    """The pairs, with the problems told that only show beside others: copies, and two splits."""
    found = list(pairs)
    alike: dict[tuple[str | None, str, str], list[ReviewedPair]] = defaultdict(list)
    for pair in found:
        alike[pair.prompt, pair.chosen.identity, pair.rejected.identity].append(pair)
    told: dict[str, tuple[str, ...]] = {}
    for same in alike.values():
        if len(same) > 1:
            more = ["repeated"] + ["two_splits"] * (len({pair.split for pair in same}) > 1)
            told |= {pair.id: (*pair.problems, *more) for pair in same}
    return [replace(pair, problems=told.get(pair.id, pair.problems)) for pair in found]


def warnings(pairs: Sequence[ReviewedPair], choices: Iterable[Choice]) -> list[ReviewWarning]:
    """What a person should know before training on these pairs.

    Args:
        choices: all direct ones, also those that made no pair.
    """
    found: list[ReviewWarning] = []
    usable = [pair for pair in pairs if not _UNUSABLE & {*pair.problems}]
    if len(usable) < FEW_PAIRS:
        text = f"Only {counted(len(usable), 'pair')}: a LoRA needs more to learn a taste from."
        found.append(ReviewWarning("few_pairs", text, len(usable)))
    prompts = Counter(pair.prompt for pair in usable)
    if len(usable) > 1 and prompts:
        prompt, most = prompts.most_common(1)[0]
        if most > DOMINATING * len(usable):
            share = round(100 * most / len(usable))
            text = f"One prompt has {share} % of all pairs: the LoRA will learn that one above all."
            ids = tuple(pair.id for pair in usable if pair.prompt == prompt)
            found.append(ReviewWarning("one_prompt", text, most, ids[:MAX_LISTED]))
    for kind, text in _TEXTS.items():
        ids = tuple(pair.id for pair in pairs if kind in pair.problems)
        if ids:
            found.append(ReviewWarning(kind, text, len(ids), ids[:MAX_LISTED]))
    found += _inconsistent(pairs, choices)
    for kind, text, hit in (
        ("no_prompt", "Pairs without a prompt: they are trained without one.",
         [pair for pair in pairs if not pair.prompt]),
        ("unsure", f"Pairs with a P below {UNSURE}: they say little.",
         [pair for pair in usable if pair.probability < UNSURE]),
    ):  # fmt: skip
        if hit:
            ids = tuple(pair.id for pair in hit)
            found.append(ReviewWarning(kind, text, len(ids), ids[:MAX_LISTED]))
    return found


_UNUSABLE = {"missing", "unreadable", "sizes_differ", "same_image", "prompts_differ"}
_TEXTS = {
    "missing": "Pairs of which an image is gone.",
    "unreadable": "Pairs of which an image cannot be read.",
    "sizes_differ": "Pairs whose chosen and rejected image differ in size: they cannot be used.",
    "same_image": "Pairs with the same image on both sides.",
    "prompts_differ": "Pairs whose two images have different prompts.",
    "repeated": "Pairs that are there more than once.",
    "two_splits": "Pairs in both train and val: validation would see what was trained on.",
}


def _inconsistent(
    pairs: Sequence[ReviewedPair], choices: Iterable[Choice]
) -> list[ReviewWarning]:
    circles = circles_of_choices(choices)
    if not circles:
        return []
    among = {(choice.prompt, image) for choice, images in circles for image in images}
    ids = [
        pair.id
        for pair in pairs
        if (pair.prompt or "", pair.chosen.identity) in among
        and (pair.prompt or "", pair.rejected.identity) in among
    ]
    text = (
        "Choices that contradict each other: one image was preferred to another, and that, at once "
        "or by way of others, to the first."
    )
    return [ReviewWarning("inconsistent", text, len(circles), tuple(ids[:MAX_LISTED]))]


def statistics(pairs: Sequence[ReviewedPair]) -> Mapping[str, Any]:
    """Distributions as plain data: prompts, sizes, aspects, splits, soft labels."""
    prompts = Counter(pair.prompt for pair in pairs)
    sizes = Counter((pair.chosen.width, pair.chosen.height) for pair in pairs)
    aspects: Counter[str] = Counter()
    for (width, height), number in sizes.items():
        aspects[aspect(width, height)] += number
    sure = Counter(min(int(max(pair.probability - 0.5, 0) * 20), 9) for pair in pairs)
    return {
        "pairs": len(pairs),
        "distinct_prompts": len(prompts),
        "prompts": [
            {"prompt": prompt, "pairs": number}
            for prompt, number in prompts.most_common(MAX_LISTED)
        ],
        "sizes": [
            {"width": width, "height": height, "pairs": number}
            for (width, height), number in sizes.most_common(MAX_LISTED)
        ],
        "aspects": [{"aspect": one, "pairs": number} for one, number in aspects.most_common()],
        "splits": {one: sum(pair.split == one for pair in pairs) for one in SPLITS},
        # Ten bars of P from .5 to 1; below .5 counts to the first.
        "agreement": [sure[bar] for bar in range(10)],
    }


def aspect(width: int, height: int) -> str:
    """The nearest common ratio of sides, "3:2"; "?" where the size is not known."""
    if not width or not height:
        return "?"
    ratio = math.log(width / height)
    across, down = min(_ASPECTS, key=lambda one: abs(math.log(one[0] / one[1]) - abs(ratio)))
    return f"{across}:{down}" if ratio >= 0 else f"{down}:{across}"
