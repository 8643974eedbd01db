"""The parts of a session that have nothing to do with each other, for quick answers.

Ratings join images that were compared under one prompt. So a set's standings and pairs depend on
the votes on its circle alone: the sets it shares images with, those these share images with, and
so on. Circles give exactly what the whole session gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .pair_making import PairRules, SessionJudgement
from .session import SessionState
from .vote import Vote


def circle_of(state: SessionState, set_id: str) -> SessionState:
    """The part of a session that says all there is to say of one set. Raises KeyError."""
    for circle in circles(state):
        if set_id in circle.sets:
            return circle.part_of(state)
    return Circle([set_id], []).part_of(state)


@dataclass(frozen=True)
class Circle:
    """Sets by id, in the order they came, and the votes on them, oldest first."""

    sets: list[str]
    votes: list[Vote]

    def part_of(self, state: SessionState) -> SessionState:
        """The session as if there were nothing else. Raises KeyError."""
        sets = {set_id: state.sets[set_id] for set_id in self.sets}
        return replace(state, sets=sets, votes=tuple(self.votes))


def circles(state: SessionState) -> Iterable[Circle]:
    """Every circle that has votes, in the order of their first votes."""
    voted = {vote["set"] for vote in state.votes}
    above: dict[str, str] = {}
    """Leads from a set towards the one that stands for its circle."""

    def root(set_id: str) -> str:
        while (next_id := above[set_id]) != set_id:
            above[set_id] = above[next_id]  # halves the way for the next who goes it
            set_id = next_id
        return set_id

    first: dict[tuple[str, str], str] = {}
    for set_id, candidates in state.sets.items():
        if set_id not in voted:
            continue
        above[set_id] = set_id
        for image in candidates.images:
            other = first.setdefault((candidates.prompt, image.id), set_id)
            if other != set_id:
                above[root(set_id)] = root(other)
    found: dict[str, Circle] = {}
    for vote in state.votes:
        found.setdefault(root(vote["set"]), Circle([], [])).votes.append(vote)
    for set_id in above:
        found[root(set_id)].sets.append(set_id)
    return found.values()


class PairCount:
    """How many pairs a session makes, worked out again only for the circles that changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[PairRules, tuple[str, ...]], int] = {}

    def count(self, state: SessionState, rules: PairRules) -> int:
        """The pairs of all sets together, also those whose image files are gone."""
        counts: dict[tuple[PairRules, tuple[str, ...]], int] = {}
        for circle in circles(state):
            key = rules, tuple(vote["id"] for vote in circle.votes)
            if key not in self._known:
                judged = SessionJudgement(circle.part_of(state))
                self._known[key] = sum(len(judged.chosen_pairs(one, rules)) for one in circle.sets)
            counts[key] = self._known[key]
        self._known = counts
        return sum(counts.values())
