"""What a person says of images that a judge has ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_core.judging.judged_set import judge_set
from dpo_core.judging.panel import Member, Panel
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.pair_making import PairRules, make_preferences
from dpo_core.ranking.session import Session


class ByNumber:
    """Prefers the brighter image: 3 over 2 over 1 over 0."""

    name = "by number"

    def score(self, images: Any, prompt: str) -> list[float]:
        return [float(image[0, 0, 0]) for image in images]


def judged(folder: Path) -> tuple[Session, Any, list[str]]:
    session = Session(folder / "taste")
    images = [NewImage(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(4)]
    candidates = session.add_set(images, "a cat")
    judge_set(session, candidates, Panel((Member(ByNumber()),)), 0.0)
    return session, candidates, [image.id for image in candidates.images]


def pairs(session: Session, ids: list[str], count: int = 1) -> list[tuple[int, int]]:
    made = make_preferences(session.state(), PairRules(count, soft_labels=False)).records
    return [(ids.index(p.chosen.digest), ids.index(p.rejected.digest)) for p in made.pairs]


def comparison(ids: list[str], left: int, right: int, result: str) -> dict[str, Any]:
    return {"kind": "comparison", "left": ids[left], "right": ids[right], "result": result}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (lambda ids: {"kind": "thumbs", "labels": {ids[0]: "good", ids[3]: "bad"}}, [(0, 3)]),
        (lambda ids: comparison(ids, 0, 3, "left"), [(0, 3)]),
        (lambda ids: comparison(ids, 0, 3, "both_bad"), []),
        (lambda ids: {"kind": "best_worst", "best": ids[1], "worst": ids[2]}, [(1, 2)]),
        (lambda ids: comparison(ids, 0, 3, "skip"), [(3, 0), (2, 1)]),  # which says nothing
    ],
    ids=["thumbs", "compared", "both bad", "best and worst", "skipped"],
)
def test_a_persons_word_takes_the_place_of_the_judges(
    said: Any, expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    session, candidates, ids = judged(tmp_path)
    assert pairs(session, ids, 2) == [(3, 0), (2, 1)]
    session.vote({"set": candidates.id, **said(ids)})
    assert pairs(session, ids, 2) == expected


def test_the_judges_word_counts_again_once_the_persons_is_undone(tmp_path: Path) -> None:
    session, candidates, ids = judged(tmp_path)
    vote, _ = session.vote({"set": candidates.id, **comparison(ids, 0, 3, "left")})
    assert len(session.state().overruled) == 1
    session.undo(vote["id"])
    assert pairs(session, ids, 2) == [(3, 0), (2, 1)] and session.state().overruled == ()


def test_a_preview_of_a_vote_shows_the_pairs_it_will_make(tmp_path: Path) -> None:
    session, candidates, ids = judged(tmp_path)
    vote = {"set": candidates.id, **comparison(ids, 0, 3, "left")}
    before = session.state().with_votes([vote])
    session.vote(vote)
    assert [one["kind"] for one in before.votes] == ["comparison"]
    assert [one["kind"] for one in session.state().votes] == ["comparison"]


def test_a_judge_whose_word_has_given_way_is_not_asked_again(tmp_path: Path) -> None:
    session, candidates, ids = judged(tmp_path)
    session.vote({"set": candidates.id, **comparison(ids, 0, 3, "left")})

    class Mute(ByNumber):
        def score(self, images: Any, prompt: str) -> list[float]:
            raise AssertionError("asked again")

    verdict = judge_set(session, candidates, Panel((Member(Mute()),)), 0.0)
    assert verdict.scores == (0.0, 10.0, 20.0, 30.0)
