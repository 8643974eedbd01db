"""What the votes on a couple say, and who said it."""

from __future__ import annotations

from typing import NamedTuple

from ..ranking.completion import is_ranked
from ..ranking.judgement import judge
from ..ranking.session import SessionState
from ..ranking.vote import BY_JUDGE, Vote
from .couple import Couple

RESULTS = ("a", "b", "tie")
PERSON = ""
"""Who voted, where it was no judge."""


class Outcome(NamedTuple):
    """Attributes:
    result: "a", "b" or "tie"; both bad and equally good are ties.
    by: name of the judge that said it, or `PERSON`.
    """

    result: str
    by: str = PERSON


def outcome_of(state: SessionState, couple: Couple) -> Outcome | None:
    """The last word on a couple; None if nobody said anything, or it was passed over.

    What a person said counts instead of what a judge did.
    """
    votes = state.votes_on(couple.set_id)
    own = [vote for vote in votes if vote.get("by") != BY_JUDGE]
    if own:
        result = _result(state, couple, own)
        return None if result is None else Outcome(result)
    result = _result(state, couple, votes)
    return None if result is None else Outcome(result, _judges(votes[-1]))


def is_answered(state: SessionState, couple: Couple) -> bool:
    """Whether a person has said something on a couple, be it to pass over it."""
    own = [vote for vote in state.votes_on(couple.set_id) if vote.get("by") != BY_JUDGE]
    return is_ranked(state.sets[couple.set_id], own)


def _result(state: SessionState, couple: Couple, votes: list[Vote]) -> str | None:
    said = judge(state.sets[couple.set_id], votes)
    if said.picks:
        return "a" if said.picks[-1].winner == couple.a else "b"
    both_bad = any(vote.get("result") == "both_bad" for vote in votes)
    return "tie" if said.ties or both_bad else None


def _judges(vote: Vote) -> str:
    try:
        return " + ".join(str(one["judge"]) for one in vote["judges"]) or BY_JUDGE
    except (KeyError, TypeError):  # written by hand
        return BY_JUDGE
