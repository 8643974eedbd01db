"""A session's votes become preference records: pairs, labelled images, ranked groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ..pairs.problem import PairProblem, describe_problems
from ..pairs.record import LabelledImage, Pair, PairSet, RankedGroup, counted, prompt_group
from .judgement import Judgement, Pick, judge
from .ratings import Ratings
from .session import SessionState
from .vote import Vote

INFERRED_PROBABILITY = 0.65
"""A pair that nobody picked directly needs at least this P."""


@dataclass(frozen=True)
class PairRules:
    """How many pairs of which images are made."""

    pairs_per_group: int = 1
    """Pairs made of one set of images. Best-and-worst picks are made even beyond it: each was
    asked for."""

    reuse_images: bool = False
    """Lets an image be in several pairs of its set."""

    soft_labels: bool = True
    """Pairs carry how likely the preference is; without it every pair counts as certain."""

    def __post_init__(self) -> None:
        if self.pairs_per_group < 1:
            raise ValueError(f"pairs_per_group {self.pairs_per_group} is less than 1")


@dataclass(frozen=True)
class ChosenPair:
    """Two images of a set that make a pair.

    Attributes:
        explicit: a person picked `chosen` over `rejected` directly.
        probability: how likely `chosen` is preferred; at least one half.
        gap: rating of `chosen` minus that of `rejected`, in log odds.
    """

    chosen: str
    rejected: str
    explicit: bool
    probability: float
    gap: float


@dataclass(frozen=True)
class Standing:
    """An image's place among those of its set.

    Attributes:
        rating: in log odds; deviation: its standard deviation; elo: the same for display.
        label: "good", "bad" or "none".
        compared: False if nobody compared it to another image of the set.
    """

    image: str
    rating: float
    deviation: float
    elo: int
    label: str
    compared: bool


@dataclass(frozen=True)
class Preferences:
    """The records of a session, a `report` for the user, and the `problems` passed over."""

    records: PairSet
    report: str
    problems: tuple[PairProblem, ...]


_DEFAULT_RULES = PairRules()


class SessionJudgement:
    """A session's judgements and ratings, worked out as they are asked for.

    Images are rated with all votes on a prompt.
    """

    def __init__(self, state: SessionState) -> None:
        self.state = state
        self._votes: dict[str, list[Vote]] = defaultdict(list)
        for vote in state.votes:
            self._votes[vote["set"]].append(vote)
        self.voted = [set_id for set_id in state.sets if set_id in self._votes]
        """The sets that have votes, in the order they came."""
        self._of_prompt: dict[str, list[str]] = defaultdict(list)
        for set_id in self.voted:
            self._of_prompt[state.sets[set_id].prompt].append(set_id)
        self._judgements: dict[str, Judgement] = {}
        self._ratings: dict[str, Ratings] = {}

    def judgement(self, set_id: str) -> Judgement:
        """What was said on a set. Raises KeyError for an unknown one."""
        if set_id not in self._judgements:
            votes = self._votes.get(set_id, [])
            self._judgements[set_id] = judge(self.state.sets[set_id], votes)
        return self._judgements[set_id]

    def ratings(self, prompt: str) -> Ratings:
        """Ratings of all images that were ranked under a prompt."""
        if prompt not in self._ratings:
            sets = [self.judgement(set_id) for set_id in self._of_prompt[prompt]]
            images = {image.id: None for one in sets for image in one.candidates.images}
            outcomes = [outcome for one in sets for outcome in one.outcomes]
            self._ratings[prompt] = Ratings(list(images), outcomes)
        return self._ratings[prompt]

    def standings(self, set_id: str) -> list[Standing]:
        """The images of a set, best first; equal ratings in the set's order. Raises KeyError."""
        found = self.judgement(set_id)
        images = [image.id for image in found.candidates.images]
        ratings = self.ratings(found.candidates.prompt) if found.outcomes else Ratings(images, [])
        compared = set(found.compared)
        standings = [
            Standing(
                image,
                # Rounded, so that what is equal by symmetry stays so whatever the arithmetic.
                round(ratings.mean(image), 9) + 0.0,
                ratings.deviation(image),
                ratings.elo(image),
                found.labels.get(image, "none"),
                image in compared,
            )
            for image in images
        ]
        return sorted(standings, key=lambda one: -one.rating)

    def chosen_pairs(self, set_id: str, rules: PairRules = _DEFAULT_RULES) -> list[ChosenPair]:
        """The pairs a set makes. Raises KeyError.

        First the named best-and-worst picks in the order they were made, of two that want the same
        image the later; then the outermost, those with the largest rating gap, as long as `rules`
        ask for more. A removed pair is left out, and no other takes its place.
        """
        found = self.judgement(set_id)
        asked: list[ChosenPair] = []
        others: list[ChosenPair] = []
        used: set[str] = set()
        designated = {frozenset((p.winner, p.loser)) for p in found.picks if p.designated}
        for pair in self._possible(found):
            named = frozenset((pair.chosen, pair.rejected)) in designated
            if len(asked) + len(others) >= rules.pairs_per_group and not named:
                continue
            if rules.reuse_images or used.isdisjoint((pair.chosen, pair.rejected)):
                (asked if named else others).append(pair)
                used.update((pair.chosen, pair.rejected))
        return [
            pair
            for pair in asked[::-1] + others
            if frozenset((pair.chosen, pair.rejected)) not in found.removed
        ]

    def _possible(self, found: Judgement) -> list[ChosenPair]:
        """Every pair that may be made, those with the first claim on an image first.

        Both images are of one size.
        """
        images = found.compared
        if not images:
            return []
        ratings = self.ratings(found.candidates.prompt)
        means, chances = ratings.means(images), ratings.probabilities(images)
        place = {image: i for i, image in enumerate(images)}
        sizes = {image.id: (image.width, image.height) for image in found.candidates.images}

        def made(winner: str, loser: str, explicit: bool) -> ChosenPair:
            i, j = place[winner], place[loser]
            gap = float(means[i] - means[j])
            return ChosenPair(winner, loser, explicit, max(float(chances[i, j]), 0.5), gap)

        picks = [pick for pick in found.picks if sizes[pick.winner] == sizes[pick.loser]]
        named = [made(p.winner, p.loser, True) for p in reversed(picks) if p.designated]
        others = [made(p.winner, p.loser, True) for p in picks if not p.designated]
        picked = {frozenset((pick.winner, pick.loser)) for pick in found.picks}
        for i, j in zip(*(chances >= INFERRED_PROBABILITY).nonzero(), strict=True):
            winner, loser = images[i], images[j]
            if (
                frozenset((winner, loser)) not in picked
                and sizes[winner] == sizes[loser]
                and found.labels.get(winner) != "bad"
                and ratings.connected(winner, loser)
            ):
                others.append(made(winner, loser, False))
        others.sort(key=lambda one: (-round(one.gap, 9), place[one.chosen], place[one.rejected]))
        return named + others


def make_preferences(
    state: SessionState,
    rules: PairRules = _DEFAULT_RULES,
    set_ids: Iterable[str] | None = None,
) -> Preferences:
    """All records a session's votes stand for, or those of some of its sets.

    The same log gives the same records in the same order. Ratings use all votes on a prompt, also
    when only some sets are asked for. Nothing is read but the names of the image files.
    """
    judged = SessionJudgement(state)
    there = _present(state)
    wanted = judged.voted if set_ids is None else list(dict.fromkeys(set_ids))
    voted = set(judged.voted)
    pairs: list[Pair] = []
    labelled: list[LabelledImage] = []
    groups: list[RankedGroup] = []
    ties: list[Pair] = []
    problems: list[PairProblem] = []
    for set_id in wanted:
        if set_id not in voted:
            continue
        found = judged.judgement(set_id)
        source = f"{state.name}, set {set_id[:8]}"
        problems += _size_problems(found, source)
        missing = [image.id for image in found.candidates.images if image.id not in there]
        problems += [_missing(state, image) for image in missing if _is_judged(found, image)]
        maker = _RecordMaker(judged, found, source, set(missing))
        pairs += maker.pairs(rules)
        labelled += maker.labelled()
        groups += maker.groups(rules)
        ties += maker.ties()
    # Pairs of one batch at a time are another collection than those of the whole session.
    lineage = state.name if set_ids is None else f"{state.name}, one batch"
    records = PairSet.folded(pairs, labelled, groups, [lineage], ties)
    report = _report(state, judged, set(wanted), records, problems)
    return Preferences(records, report, tuple(problems))


class _RecordMaker:
    """The records of one set."""

    def __init__(
        self, judged: SessionJudgement, found: Judgement, source: str, missing: set[str]
    ) -> None:
        self._judged = judged
        self._set = found.candidates
        self._labels = found.labels
        self._source = source
        self._missing = missing
        # Without a prompt there is no other sign of what belongs together.
        self._group = prompt_group(self._set.prompt) if self._set.prompt else self._set.id
        self._pictures = {
            image.id: judged.state.picture(self._set.id, image.id) for image in self._set.images
        }

    def pairs(self, rules: PairRules) -> list[Pair]:
        return [
            Pair(
                self._set.prompt,
                self._pictures[pair.chosen],
                self._pictures[pair.rejected],
                self._group,
                pair.probability if rules.soft_labels else 1.0,
                source=self._source,
                rating_gap=pair.gap,
            )
            for pair in self._judged.chosen_pairs(self._set.id, rules)
            if self._missing.isdisjoint((pair.chosen, pair.rejected))
        ]

    def ties(self) -> list[Pair]:
        sizes = {image.id: (image.width, image.height) for image in self._set.images}
        judged = self._judged.judgement(self._set.id)
        return [
            Pair(
                self._set.prompt,
                self._pictures[one],
                self._pictures[other],
                self._group,
                source=self._source,
            )
            for one, other in judged.ties
            if sizes[one] == sizes[other]
            and self._missing.isdisjoint((one, other))
            and frozenset((one, other)) not in judged.removed
        ]

    def labelled(self) -> list[LabelledImage]:
        return [
            LabelledImage(
                self._set.prompt,
                self._pictures[image.id],
                self._labels[image.id] == "good",
                self._group,
                source=self._source,
            )
            for image in self._set.images
            if image.id in self._labels and image.id not in self._missing
        ]

    def groups(self, rules: PairRules) -> list[RankedGroup]:
        """Without the images that are only in removed pairs: a group would still set them against
        each other. A label is said of one image and stays.
        """
        removed = self._judged.judgement(self._set.id).removed
        gone = self._missing.union(*removed)
        if removed:
            kept = self._judged.chosen_pairs(self._set.id, rules)
            gone -= {image for pair in kept for image in (pair.chosen, pair.rejected)}
            gone |= self._missing
        ranked = [
            one
            for one in self._judged.standings(self._set.id)
            if one.compared and one.image not in gone
        ]
        if len(ranked) < 2 or ranked[0].rating == ranked[-1].rating:
            return []  # all tied: nothing was preferred to anything
        return [
            RankedGroup(
                self._set.prompt,
                tuple(self._pictures[one.image] for one in ranked),
                tuple(one.rating for one in ranked),
                self._group,
                source=self._source,
            )
        ]


def _present(state: SessionState) -> set[str]:
    if not state.folder.is_dir():
        return set()
    return {path.stem for path in state.folder.iterdir() if path.suffix == ".png"}


def _is_judged(found: Judgement, image: str) -> bool:
    return image in found.labels or any(image in outcome[:2] for outcome in found.outcomes)


def _missing(state: SessionState, image: str) -> PairProblem:
    return PairProblem(
        "An image of the session is gone",
        str(state.folder / f"{image}.png"),
        "Put it back, or go on without the pairs it was in.",
    )


def _size_problems(found: Judgement, source: str) -> list[PairProblem]:
    sizes = {image.id: f"{image.width} x {image.height}" for image in found.candidates.images}
    return [
        PairProblem(
            "A picked pair has two sizes",
            f"{source}: {sizes[pick.winner]} and {sizes[pick.loser]}",
            "Rank images of one size together.",
        )
        for pick in found.picks
        if sizes[pick.winner] != sizes[pick.loser] and _makes_a_pair(found, pick)
    ]


def _makes_a_pair(found: Judgement, pick: Pick) -> bool:
    """Whether a person would miss it: two images named as a pair, or the only two there are."""
    return pick.designated or len(found.candidates.images) == 2


def _report(
    state: SessionState,
    judged: SessionJudgement,
    wanted: set[str],
    records: PairSet,
    problems: list[PairProblem],
) -> str:
    voted = len(wanted.intersection(judged.voted))
    count = sum(vote["set"] in wanted for vote in state.votes)
    lines = [f"session {state.name}: {counted(count, 'vote')} on {counted(voted, 'set')} of images"]
    if state.struck:
        lines.append(f"{counted(state.struck, 'vote')} undone")
    if state.passed_over:
        lines.append(
            f"{counted(state.passed_over, 'line')} of votes.jsonl passed over: damaged, or written "
            "by a newer version"
        )
    lines += records.summary()
    if problems:
        lines += ["", "Left out:", *describe_problems(problems)]
    return "\n".join(lines)
