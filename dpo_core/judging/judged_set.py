"""A set of a session judged, and the verdict kept with its votes.

A judge's vote is an ordinary `ranking`, with what was said besides: `by`: "judge", `judges`: a
list of {`judge`, `weight`, `scores`: {image: number}}, `agree`, and `min_gap`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..pairs.record import Picture
from ..ranking.session import Session, SessionState
from ..ranking.vote import BY_JUDGE, MAX_STRIKES, CandidateSet, Vote
from .judge import Pixels
from .panel import Panel
from .verdict import Opinion, Verdict


def judge_set(session: Session, candidates: CandidateSet, panel: Panel, min_gap: float) -> Verdict:
    """Judges a set and stores the vote; what the same judges said before is not asked again.

    A new verdict takes the place of an older one. Where a person has voted on the set, their word
    stands and no vote is added.

    Raises:
        JudgeError: a judge cannot tell; nothing is stored.
        PairError: an image of the set is gone.
        VoteError, LogLockedError, OSError: the vote could not be written.
    """
    state = session.state()
    earlier = judge_votes(state, candidates.id)
    verdict = stored_verdict(state, candidates, panel)
    if verdict is None:
        images = [_pixels(state.picture(candidates.id, image.id)) for image in candidates.images]
        verdict = panel.verdict(images, candidates.prompt)
    vote = judged_vote(candidates, verdict, min_gap)
    known = any(_said(one) == _said(vote) for one in earlier[-1:])
    ranks = len(candidates.images) > 1
    if ranks and not known and not has_person_votes(state, candidates.id):
        _store(session, {**vote, "strikes": _struck_by_now(earlier)})
    return verdict


def judged_vote(candidates: CandidateSet, verdict: Verdict, min_gap: float) -> dict[str, Any]:
    """The vote of a verdict on a set."""
    images = [image.id for image in candidates.images]
    return {
        "kind": "ranking",
        "set": candidates.id,
        "order": [[images[i] for i in tied] for tied in verdict.order(min_gap)],
        "by": BY_JUDGE,
        "judges": [
            {
                "judge": one.judge,
                "weight": one.weight,
                "scores": dict(zip(images, one.scores, strict=True)),
            }
            for one in verdict.opinions
        ],
        "agree": verdict.agree,
        "min_gap": min_gap,
    }


def judge_votes(state: SessionState, set_id: str) -> list[Vote]:
    """The votes of judges on a set, oldest first: those that count, or would without a person's."""
    said = (*state.votes, *state.overruled)
    return [vote for vote in said if vote["set"] == set_id and vote.get("by") == BY_JUDGE]


def has_person_votes(state: SessionState, set_id: str) -> bool:
    """Whether somebody else than a judge has voted on a set."""
    return any(vote.get("by") != BY_JUDGE for vote in state.votes_on(set_id))


def stored_verdict(
    state: SessionState, candidates: CandidateSet, panel: Panel
) -> Verdict | None:
    """What these very judges have said of a set, if they have."""
    wanted = [(one.judge.name, one.weight) for one in panel.members]
    for vote in reversed(judge_votes(state, candidates.id)):
        opinions = _opinions(vote, candidates)
        if opinions is not None and [(one.judge, one.weight) for one in opinions] == wanted:
            return Verdict(opinions, panel.agree)
    return None


def _struck_by_now(earlier: Sequence[Vote]) -> list[str]:
    """Earlier votes and those that they struck, which would count again without them."""
    ids = [one for vote in reversed(earlier) for one in (vote["id"], *vote.get("strikes", ()))]
    return list(dict.fromkeys(ids))[:MAX_STRIKES]


def _store(session: Session, vote: Vote) -> None:
    stored, new = session.vote(vote)
    counting = {one["id"] for one in session.state().votes}
    if not new and stored["id"] not in counting:
        # The same words were undone before. Said again, they count again: under an id of their own.
        session.vote({**vote, "id": secrets.token_hex(16)})


def _opinions(vote: Vote, candidates: CandidateSet) -> tuple[Opinion, ...] | None:
    try:
        return tuple(
            Opinion(
                str(one["judge"]),
                float(one["weight"]),
                tuple(float(one["scores"][image.id]) for image in candidates.images),
            )
            for one in vote["judges"]
        )
    except (KeyError, TypeError, ValueError):  # written by hand, or by another version
        return None


def _said(vote: Mapping[str, Any]) -> Any:
    return [vote.get(name) for name in ("order", "judges", "agree", "min_gap")]


def _pixels(picture: Picture) -> Pixels:
    return (picture.pixels() * 255).round().astype("uint8")
