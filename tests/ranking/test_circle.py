from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from dpo_core.ranking.circle import PairCount, circle_of, circles
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.pair_making import PairRules, SessionJudgement
from dpo_core.ranking.session import Session, SessionStore


def image(shade: int) -> NewImage:
    return NewImage(np.full((2, 2, 3), shade, dtype=np.uint8))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Sets under two prompts; some share an image with the next, some do not."""
    session = SessionStore(tmp_path).session("s")
    draw = random.Random(0)
    for number in range(12):
        shades = [10 * number + i for i in range(4)] + ([10 * number + 23] if number % 3 else [])
        prompt = "a cat" if number % 2 else ""
        for text in (prompt, "a dog") if number == 4 else (prompt,):
            candidates = session.add_set([image(shade) for shade in shades], text)
            ids = [one.id for one in candidates.images]
            for _ in range(draw.randrange(4)):
                left, right = draw.sample(ids, 2)
                session.vote({
                    "id": str(draw.random()), "kind": "comparison", "set": candidates.id,
                    "left": left, "right": right, "result": draw.choice(["left", "tie", "right"]),
                })  # fmt: skip
    return session


def test_a_circle_says_of_its_sets_what_the_whole_session_says(session: Session) -> None:
    state = session.state()
    whole = SessionJudgement(state)
    assert 1 < len(list(circles(state))) < len(whole.voted)
    for set_id in state.sets:
        part = SessionJudgement(circle_of(state, set_id))
        assert part.standings(set_id) == whole.standings(set_id)
        for rules in (PairRules(), PairRules(3, reuse_images=True)):
            assert part.chosen_pairs(set_id, rules) == whole.chosen_pairs(set_id, rules)


def test_sets_are_in_one_circle_each_and_votes_stay_in_order(session: Session) -> None:
    state = session.state()
    found = list(circles(state))
    sets = [set_id for circle in found for set_id in circle.sets]
    assert len(sets) == len(set(sets)) and set(sets) == {vote["set"] for vote in state.votes}
    for circle in found:
        assert circle.votes == [vote for vote in state.votes if vote["set"] in circle.sets]


def test_pairs_are_counted_as_in_the_whole_session_after_every_change(session: Session) -> None:
    counter, rules = PairCount(), PairRules(2)

    def counted_whole() -> int:
        judged = SessionJudgement(session.state())
        return sum(len(judged.chosen_pairs(one, rules)) for one in judged.voted)

    assert counter.count(session.state(), rules) == counted_whole() > 0
    for vote in session.state().votes[::3]:
        session.undo(vote["id"])
        assert counter.count(session.state(), rules) == counted_whole()
    assert counter.count(session.state(), PairRules(5)) >= counter.count(session.state(), rules)


def test_a_set_without_votes_is_a_circle_of_its_own(tmp_path: Path) -> None:
    session = SessionStore(tmp_path).session("s")
    candidates = session.add_set([image(1), image(2)], "")
    circle = circle_of(session.state(), candidates.id)
    assert list(circle.sets) == [candidates.id] and circle.votes == ()
    with pytest.raises(KeyError):
        circle_of(session.state(), "unknown")
