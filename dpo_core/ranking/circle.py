"""The parts of a session that have nothing to do with each other, for quick answers.

Ratings join images that were compared under one prompt. So a set's standings and pairs depend on
the votes on its circle alone: the sets it shares images with, those these share images with, and
so on. Circles give exactly what the whole session gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from .pair_making import PairRules, SessionJudgement
from .session import SessionState
from .vote import Vote


def circle_of(state: SessionState, set_id: str) -> SessionState:
    """The part of a session that says all there is to say of one set. Raises KeyError."""
    for circle in circles(state):
        if set_id in circle.sets:
            return circle
    return replace(state, sets={set_id: state.sets[set_id]}, votes=())


def circles(state: SessionState) -> Iterator[SessionState]:
    """Every circle that has votes, in the order of their first sets."""
    votes: dict[str, list[Vote]] = defaultdict(list)
    for vote in state.votes:
        votes[vote["set"]].append(vote)
    first: dict[str, str] = {}
    """Leads from a set towards the first set of its circle."""

    def root(set_id: str) -> str:
        while (above := first[set_id]) != set_id:
            first[set_id] = first[above]  # halves the way for the next who goes it
            set_id = above
        return set_id

    seen: dict[tuple[str, str], str] = {}
    for set_id in (one for one in state.sets if one in votes):
        first[set_id] = set_id
        candidates = state.sets[set_id]
        for image in candidates.images:
            other = seen.setdefault((candidates.prompt, image.id), set_id)
            first[root(set_id)] = root(other)
    members: dict[str, list[str]] = defaultdict(list)
    for set_id in first:
        members[root(set_id)].append(set_id)
    place = {vote["id"]: i for i, vote in enumerate(state.votes)}
    for ids in members.values():
        said = sorted((vote for one in ids for vote in votes[one]), key=lambda v: place[v["id"]])
        yield replace(state, sets={one: state.sets[one] for one in ids}, votes=tuple(said))


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
                judged = SessionJudgement(circle)
                self._known[key] = sum(len(judged.chosen_pairs(one, rules)) for one in circle.sets)
            counts[key] = self._known[key]
        self._known = counts
        return sum(counts.values())
