"""The pairs of a session under review. What is changed is a vote, and taken back by another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..ranking.circle import circles
from ..ranking.pair_making import PairRules, SessionJudgement
from ..ranking.ratings import ANCHOR
from ..ranking.session import Session, SessionState
from ..ranking.vote import Vote
from .edit import Edit, EditError
from .inconsistency import Choice
from .review import ReviewedImage, ReviewedPair, marked

REVIEW = "review"
"""The field `by` of a vote that was made in a review; `edit` is the id it was made under."""


class SessionReview:
    """A session's pairs, as some rules make them."""

    def __init__(self, session: Session, rules: PairRules) -> None:
        self._session, self._rules = session, rules
        self._known: tuple[str, list[ReviewedPair]] | None = None
        self._of_circle: dict[object, list[ReviewedPair]] = {}

    def pairs(self) -> list[ReviewedPair]:
        """All pairs, those whose images are gone among them."""
        state, present = self._session.state(), self._session.images.present()
        key = f"{state.digest()} {hash(frozenset(present))}"
        if self._known is None or self._known[0] != key:
            self._known = key, marked(
                pair if {pair.chosen.id, pair.rejected.id} <= present else _missing(pair)
                for pair in self._made(state)
            )
        return self._known[1]

    def _made(self, state: SessionState) -> list[ReviewedPair]:
        """The pairs, worked out again only for the circles whose votes or prompts changed."""
        now: dict[object, list[ReviewedPair]] = {}
        for circle in circles(state):
            votes = tuple(vote["id"] for vote in circle.votes)
            key = votes, tuple(state.sets[set_id].prompt for set_id in circle.sets)
            now[key] = self._of_circle.get(key) or [*_pairs(circle.part_of(state), self._rules)]
        self._of_circle = now
        return [pair for pairs in now.values() for pair in pairs]

    def choices(self) -> Iterator[Choice]:
        """Every image that was preferred to another."""
        state = self._session.state()
        judged = SessionJudgement(state)
        for set_id in judged.voted:
            for winner, loser, tie in judged.judgement(set_id).outcomes:
                if not tie and winner is not ANCHOR and loser is not ANCHOR:
                    yield Choice(state.sets[set_id].prompt, winner, loser)

    def orphans(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Images that are gone, each as (set, image), and those on disk that are of no set."""
        state, present = self._session.state(), self._session.images.present()
        sets = [(one.id, image.id) for one in state.sets.values() for image in one.images]
        known = {image for _, image in sets}
        return [one for one in sets if one[1] not in present], sorted(present - known)

    def edits(self) -> list[Edit]:
        """What was changed in reviews and counts, the newest first."""
        state = self._session.state()
        found: dict[str, Edit] = {}
        for vote in (*state.votes, *state.corrections):
            if vote.get("by") == REVIEW and isinstance(vote.get("edit"), str):
                kind = {"remove": "remove", "prompt": "prompt"}.get(vote["kind"], "flip")
                what = vote["prompt"] if kind == "prompt" else ""
                edit = Edit(vote["edit"], kind, vote["set"], what, _at(vote))
                found.setdefault(edit.id, edit)
        return sorted(found.values(), key=lambda edit: -edit.at)

    def edit(self, edit_id: str, kind: str, pair: ReviewedPair, prompt: str) -> None:
        """Removes or flips a pair, or gives its set another prompt (`kind`).

        The same id counts once. Raises VoteError, EditError, OSError.
        """
        votes = {
            "remove": _removal,
            "flip": lambda one: self._flip(one),
            "prompt": lambda one: [{"kind": "prompt", "prompt": prompt}],
        }[kind](pair)
        for number, vote in enumerate(votes):
            mark = {"set": pair.place, "by": REVIEW, "edit": edit_id}
            vote_id = edit_id if number == 0 else _part_of(edit_id, number)
            self._session.vote({"v": 1, "id": vote_id, **mark, **vote})

    def was_made(self, edit_id: str) -> bool:
        """True if something was stored under this id, counting or not."""
        self._session.state()
        return self._session.set_of(edit_id) is not None

    def undo(self, edit_id: str, undo_id: str) -> None:
        """Takes an edit back. Raises EditError, VoteError, OSError."""
        state = self._session.state()
        strikes = [
            vote["id"]
            for vote in (*state.votes, *state.corrections)
            if vote.get("edit") == edit_id and vote.get("by") == REVIEW
        ]
        if not strikes:
            if self.was_made(undo_id):
                return
            raise EditError("There is nothing of that id to take back.")
        self._session.vote({"v": 1, "id": undo_id, "kind": "undo", "strikes": strikes})

    def _flip(self, pair: ReviewedPair) -> Sequence[Vote]:
        """The two change places, with their labels where one is good and the other bad."""
        chosen, rejected = pair.chosen.id, pair.rejected.id
        judged = SessionJudgement(self._session.state()).judgement(pair.place)
        votes: list[Mapping[str, Any]] = []
        labels = {one: judged.labels.get(one, "none") for one in (chosen, rejected)}
        if labels[chosen] != labels[rejected]:
            exchanged = {chosen: labels[rejected], rejected: labels[chosen]}
            votes.append({"kind": "thumbs", "labels": exchanged})
        compared = {frozenset(one[:2]) for one in judged.outcomes if ANCHOR not in one[:2]}
        if not votes or any({chosen, rejected} & two for two in compared):
            votes.append({"kind": "swap", "up": rejected, "down": chosen})
        return votes


def _removal(pair: ReviewedPair) -> Sequence[Vote]:
    return [{"kind": "remove", "images": [pair.chosen.id, pair.rejected.id]}]


def _part_of(edit_id: str, number: int) -> str:
    digest = hashlib.blake2b(edit_id.encode(), digest_size=12).hexdigest()
    return f"{digest}.{number}"


def _pairs(state: SessionState, rules: PairRules) -> Iterator[ReviewedPair]:
    judged = SessionJudgement(state)
    for set_id in judged.voted:
        candidates = state.sets[set_id]
        at = max(_at(vote) for vote in state.votes_on(set_id))
        images = {
            image.id: ReviewedImage(image.id, image.id, "", image.width, image.height)
            for image in candidates.images
        }
        for made in judged.chosen_pairs(set_id, rules):
            yield ReviewedPair(
                _pair_id(set_id, made.chosen, made.rejected),
                set_id,
                candidates.prompt,
                images[made.chosen],
                images[made.rejected],
                made.probability,
                made.gap,
                made.explicit,
                None,
                at,
            )


def _at(vote: Vote) -> int:
    """When it was made, Unix time in ms; 0 where a script has put something else there."""
    at = vote.get("at", 0)
    return int(at) if type(at) in (int, float) and 0 <= at < 2**53 else 0


def _missing(pair: ReviewedPair) -> ReviewedPair:
    return replace(pair, problems=(*pair.problems, "missing"))


def _pair_id(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
