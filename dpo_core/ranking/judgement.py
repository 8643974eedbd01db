"""What the votes on one candidate set say: outcomes to rate by, direct picks, labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .ratings import ANCHOR, Outcome
from .vote import CandidateSet, Vote


@dataclass(frozen=True)
class Pick:
    """Of two images, `winner` was directly preferred, or one was marked good and the other bad.

    `designated`: the two were named as a pair, best against worst.
    """

    winner: str
    loser: str
    designated: bool = False


@dataclass
class Judgement:
    """Attributes:
    candidates: the set.
    outcomes: comparisons, oldest first; also against the anchor.
    picks: the last word on each two images that were directly compared, oldest first; then
        every good image over every bad one, where nobody compared the two.
    labels: "good" or "bad", for images that were labelled.
    ties: each two images that were directly called equal, in the set's order.
    removed: each two images that shall make no pair.
    """

    candidates: CandidateSet
    outcomes: list[Outcome] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    ties: list[tuple[str, str]] = field(default_factory=list)
    removed: frozenset[frozenset[str]] = frozenset()

    @property
    def compared(self) -> list[str]:
        """Images that were compared to another, in the set's order."""
        seen = {
            image
            for winner, loser, _ in self.outcomes
            if winner is not ANCHOR and loser is not ANCHOR
            for image in (winner, loser)
        }
        seen |= {image for pick in self.picks for image in (pick.winner, pick.loser)}
        return [image.id for image in self.candidates.images if image.id in seen]


def judge(candidates: CandidateSet, votes: Iterable[Vote]) -> Judgement:
    """Goes through the votes that count on one set, oldest first."""
    judge = _Judge(candidates)
    for vote in votes:
        judge.take(vote)
    return judge.judgement()


class _Judge:
    def __init__(self, candidates: CandidateSet) -> None:
        self._candidates = candidates
        self._outcomes: list[Outcome] = []
        self._picks: dict[frozenset[str], Pick] = {}
        self._tied: set[frozenset[str]] = set()
        self._removed: set[frozenset[str]] = set()
        self._labels: dict[str, str] = {}
        self._thumbs: dict[str, str] = {}

    def take(self, vote: Vote) -> None:
        kind = vote["kind"]
        if kind == "best_worst":
            self._best_worst(vote)
        elif kind == "ranking":
            self._ranking(vote["order"])
        elif kind == "comparison":
            self._comparison(vote["left"], vote["right"], vote["result"])
        elif kind == "swap":
            self._swap(vote["up"], vote["down"])
        elif kind == "remove":
            self._removed.add(frozenset(vote["images"]))
        elif kind == "thumbs":
            for image, label in vote["labels"].items():
                self._thumbs[image] = self._labels[image] = label

    def judgement(self) -> Judgement:
        outcomes = list(self._outcomes)
        for image, label in self._thumbs.items():
            if label != "none":
                good = label == "good"
                outcomes.append(Outcome(image, ANCHOR) if good else Outcome(ANCHOR, image))
        labels = {image: label for image, label in self._labels.items() if label != "none"}
        picks = [*self._picks.values(), *self._label_picks(labels)]
        order = [image.id for image in self._candidates.images]
        ties = [
            (one, other)
            for i, one in enumerate(order)
            for other in order[i + 1 :]
            if frozenset((one, other)) in self._tied
        ]
        removed = frozenset(self._removed)
        return Judgement(self._candidates, outcomes, picks, labels, ties, removed)

    def _label_picks(self, labels: dict[str, str]) -> list[Pick]:
        """No outcomes: what a label says of an image is rated against the anchor already."""
        side: dict[str, list[str]] = {"good": [], "bad": []}
        for image in self._candidates.images:
            if image.id in labels:
                side[labels[image.id]].append(image.id)
        said = self._picks.keys() | self._tied
        return [
            Pick(good, bad)
            for good in side["good"]
            for bad in side["bad"]
            if frozenset((good, bad)) not in said
        ]

    def _best_worst(self, vote: Vote) -> None:
        best, worst = vote["best"], vote["worst"]
        among = vote.get("among") or [image.id for image in self._candidates.images]
        between = [image for image in among if image not in (best, worst)]
        self._outcomes += [Outcome(best, image) for image in between]
        self._outcomes += [Outcome(image, worst) for image in between]
        self._outcomes.append(Outcome(best, worst))
        self._pick(best, worst, designated=True)

    def _ranking(self, order: list[list[str]]) -> None:
        for place, tied in enumerate(order):
            below = [image for worse in order[place + 1 :] for image in worse]
            for i, image in enumerate(tied):
                for other in tied[i + 1 :]:
                    self._tie(image, other)
                for other in below:
                    self._outcomes.append(Outcome(image, other))
                    self._pick(image, other)

    def _comparison(self, left: str, right: str, result: str) -> None:
        if result == "tie":
            self._tie(left, right)
        elif result == "both_bad":
            # Neither is acceptable: both lose to what is just so. Which is worse was not said.
            for image in (left, right):
                self._outcomes.append(Outcome(ANCHOR, image))
                self._labels[image] = "bad"
        elif result != "skip":
            winner, loser = (left, right) if result == "left" else (right, left)
            self._outcomes.append(Outcome(winner, loser))
            self._pick(winner, loser)

    def _swap(self, up: str, down: str) -> None:
        """The two change places with all that was said about them, so the others keep theirs.

        What now is said of them was said of the other, so only this swap stays a direct pick; one
        of best and worst, if that is what they were named.
        """
        other = {up: down, down: up}
        self._outcomes = [
            outcome._replace(
                winner=_exchanged(outcome.winner, other), loser=_exchanged(outcome.loser, other)
            )
            for outcome in self._outcomes
        ]
        touched = {up, down}
        before = self._picks.get(frozenset(touched))
        self._picks = {two: pick for two, pick in self._picks.items() if not two & touched}
        self._tied = {two for two in self._tied if not two & touched}
        self._pick(up, down, designated=before is not None and before.designated)

    def _tie(self, one: str, other: str) -> None:
        two = frozenset((one, other))
        self._outcomes.append(Outcome(one, other, tie=True))
        self._picks.pop(two, None)
        self._removed.discard(two)
        self._tied.add(two)

    def _pick(self, winner: str, loser: str, designated: bool = False) -> None:
        two = frozenset((winner, loser))
        self._tied.discard(two)
        self._removed.discard(two)
        before = self._picks.pop(two, None)
        pick = Pick(winner, loser, designated)
        if before is not None and before.designated and before.winner == winner:
            pick = replace(pick, designated=True)
        self._picks[two] = pick


def _exchanged(image: str | None, other: dict[str, str]) -> str | None:
    return image if image is None else other.get(image, image)
