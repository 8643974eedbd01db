"""Verdicts kept in a session on disk, and the pairs its votes make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dpo_core.judging.judge import JudgeError, Pixels
from dpo_core.judging.judged_set import judge_set, stored_verdict
from dpo_core.judging.panel import Member, Panel
from dpo_core.judging.verdict import Verdict
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.pair_making import PairRules, make_preferences
from dpo_core.ranking.session import Session, SessionStore
from dpo_core.ranking.vote import CandidateSet


class Says:
    """Scores images by the number they are painted with, and counts how often it is asked."""

    def __init__(self, scores: Sequence[float], name: str = "says") -> None:
        self.name, self.asked = name, 0
        self._scores = scores

    def score(self, images: Sequence[Pixels], prompt: str) -> list[float]:
        self.asked += 1
        assert prompt == "a cat"
        return [self._scores[int(image[0, 0, 0])] for image in images]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return SessionStore(tmp_path).session("judged")


def painted(session: Session, count: int) -> CandidateSet:
    images = [NewImage(np.full((6, 8, 3), number, np.uint8)) for number in range(count)]
    return session.add_set(images, "a cat")


def panel(*scores: Sequence[float], agree: bool = False) -> Panel:
    judges = [Says(one, f"judge {i}") for i, one in enumerate(scores)]
    return Panel(tuple(Member(one) for one in judges), agree)


def pairs(session: Session, candidates: CandidateSet, count: int) -> list[tuple[int, int]]:
    """What a training would get, as places in the set."""
    made = make_preferences(session.state(), PairRules(pairs_per_group=count)).records
    place = {image.id: i for i, image in enumerate(candidates.images)}
    return [(place[pair.chosen.digest], place[pair.rejected.digest]) for pair in made]


VERDICTS = [
    ("one judge", panel([0.3, 0.9, 0.1, 0.5, 0.4]), 0.0),
    ("six images", panel([0.3, 0.9, 0.1, 0.5, 0.4, 0.35]), 0.0),
    ("a gap", panel([0.3, 0.9, 0.1, 0.5, 0.4]), 0.3),
    ("a gap nobody has", panel([0.3, 0.9, 0.1, 0.5, 0.4]), 2.0),
    ("ties", panel([1, 1, 0, 0, 0.5]), 0.0),
    ("all tied", panel([1, 1, 1, 1]), 0.0),
    ("two judges", panel([4, 3, 1, 0], [0, 1, -1, 0.5]), 0.0),
    ("two that agree", panel([4, 3, 1, 0], [0, 1, -1, 0.5], agree=True), 0.0),
    ("two that agree on what crosses", panel([4, 3, 1, 0], [1, 5, -9, 0.5], agree=True), 0.0),
    ("two that agree on nothing", panel([0, 1, 2], [2, 1, 0], agree=True), 0.0),
    ("two images", panel([0, 1]), 0.0),
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("judges", "min_gap"), [case[1:] for case in VERDICTS], ids=[case[0] for case in VERDICTS]
)
def test_the_sessions_pairs_are_those_of_the_verdict(
    session: Session, judges: Panel, min_gap: float, count: int
) -> None:
    size = len(judges.members[0].judge._scores)
    candidates = painted(session, size)
    verdict = judge_set(session, candidates, judges, min_gap)
    assert pairs(session, candidates, count) == verdict.pairs(count, min_gap)


def test_pairs_of_several_sets_of_one_prompt_do_not_mix(session: Session) -> None:
    judges = panel(list(range(20)))
    first, second = painted(session, 4), session.add_set(
        [NewImage(np.full((6, 8, 3), number, np.uint8)) for number in range(10, 14)], "a cat"
    )
    judge_set(session, first, judges, 0)
    judge_set(session, second, judges, 0)
    made = make_preferences(session.state(), PairRules(pairs_per_group=2)).records
    assert len(made) == 4
    assert {pair.source for pair in made} == {
        f"judged, set {one.id[:8]}" for one in (first, second)
    }


def test_the_vote_holds_what_each_judge_said(session: Session) -> None:
    candidates = painted(session, 3)
    judges = Panel((Member(Says([0.5, 0.1, 0.9], "a"), 2.0), Member(Says([1, 2, 3], "b"), -0.1)))
    judge_set(session, candidates, judges, 0.25)
    (vote,) = session.state().votes
    ids = [image.id for image in candidates.images]
    assert vote["kind"] == "ranking"
    assert vote["by"] == "judge"
    assert vote["judges"] == [
        {"judge": "a", "weight": 2.0, "scores": dict(zip(ids, [0.5, 0.1, 0.9], strict=True))},
        {"judge": "b", "weight": -0.1, "scores": dict(zip(ids, [1.0, 2.0, 3.0], strict=True))},
    ]
    assert (vote["agree"], vote["min_gap"]) == (False, 0.25)
    assert vote["order"] == [[ids[2]], [ids[0]], [ids[1]]]  # sums 1.5, .9, 0


def test_the_same_judges_are_not_asked_again(session: Session) -> None:
    candidates, judge = painted(session, 3), Says([0, 1, 2])
    first = judge_set(session, candidates, Panel((Member(judge),)), 0)
    again = judge_set(session, candidates, Panel((Member(judge),)), 0)
    assert judge.asked == 1
    assert again == first
    assert len(session.state().votes) == 1


def test_another_threshold_uses_the_stored_scores_and_replaces_the_vote(session: Session) -> None:
    candidates, judge = painted(session, 4), Says([0, 1, 2, 3])
    judge_set(session, candidates, Panel((Member(judge),)), 0)
    judge_set(session, candidates, Panel((Member(judge),)), 2)
    assert judge.asked == 1
    (vote,) = session.state().votes
    assert vote["min_gap"] == 2
    assert pairs(session, candidates, 2) == [(3, 0)]


def test_other_judges_strike_what_the_earlier_ones_said(session: Session) -> None:
    candidates = painted(session, 2)
    judge_set(session, candidates, panel([0, 1]), 0)
    judge_set(session, candidates, Panel((Member(Says([1, 0], "other")),)), 0)
    assert pairs(session, candidates, 1) == [(0, 1)]
    assert [vote["judges"][0]["judge"] for vote in session.state().votes] == ["other"]
    # And back again: the votes of judges never add up.
    judge_set(session, candidates, panel([0, 1]), 0)
    assert pairs(session, candidates, 1) == [(1, 0)]
    assert len(session.state().votes) == 1


def test_a_person_s_vote_stands(session: Session) -> None:
    candidates = painted(session, 2)
    ids = [image.id for image in candidates.images]
    session.vote({"kind": "comparison", "set": candidates.id, "left": ids[0], "right": ids[1],
                  "result": "left"})  # fmt: skip
    verdict = judge_set(session, candidates, panel([0, 1]), 0)
    assert verdict.pairs(1) == [(1, 0)]
    assert pairs(session, candidates, 1) == [(0, 1)]
    assert len(session.state().votes) == 1


def test_a_person_may_undo_a_judge_and_have_it_judge_again(session: Session) -> None:
    candidates = painted(session, 2)
    judge_set(session, candidates, panel([0, 1]), 0)
    session.undo(session.state().votes[0]["id"])
    assert session.state().votes == ()
    judge_set(session, candidates, panel([0, 1]), 0)
    judge_set(session, candidates, panel([0, 1]), 0)
    assert pairs(session, candidates, 1) == [(1, 0)]
    assert len(session.state().votes) == 1


def test_nothing_is_stored_when_a_judge_cannot_tell(session: Session) -> None:
    candidates = painted(session, 3)
    with pytest.raises(JudgeError):
        judge_set(session, candidates, panel([0, 1, 2], [0, 1, float("nan")]), 0)
    assert session.state().votes == ()


def test_one_image_is_judged_and_makes_no_vote(session: Session) -> None:
    candidates = painted(session, 1)
    assert judge_set(session, candidates, panel([0.5]), 0).scores == (0.5,)
    assert session.state().votes == ()


def test_votes_that_somebody_edited_are_judged_anew(session: Session) -> None:
    candidates, judge = painted(session, 2), Says([0, 1])
    ids = [image.id for image in candidates.images]
    session.vote({"kind": "ranking", "set": candidates.id, "order": [[ids[0]], [ids[1]]],
                  "by": "judge", "judges": [{"judge": "says", "weight": "x"}]})  # fmt: skip
    found = stored_verdict(session.state(), candidates, Panel((Member(judge),)))
    assert found is None
    assert isinstance(judge_set(session, candidates, Panel((Member(judge),)), 0), Verdict)
    assert pairs(session, candidates, 1) == [(1, 0)]
