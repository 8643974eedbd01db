from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_core.ranking.given_votes import given_votes
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.session import Session
from dpo_core.ranking.vote import VoteError

IDS = ["a" * 32, "b" * 32, "c" * 32]


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        ({"best": 2, "worst": 0}, {"best": IDS[2], "worst": IDS[0]}),
        ({"best": IDS[1], "worst": 0}, {"best": IDS[1], "worst": IDS[0]}),
        ({"among": [0, 2]}, {"among": [IDS[0], IDS[2]]}),
        ({"order": [[2], [0, 1]]}, {"order": [[IDS[2]], [IDS[0], IDS[1]]]}),
        ({"left": 0, "right": 1, "result": "tie"},
         {"left": IDS[0], "right": IDS[1], "result": "tie"}),
        ({"labels": {"0": "good", IDS[1]: "bad"}}, {"labels": {IDS[0]: "good", IDS[1]: "bad"}}),
        ({"set": "other", "strikes": ["x"]}, {"set": "other", "strikes": ["x"]}),
    ],
)  # fmt: skip
def test_numbers_become_images(vote: dict[str, Any], expected: dict[str, Any]) -> None:
    (found,) = given_votes({"votes": [{"kind": "k", **vote}]}, "here", IDS)
    assert found == {"kind": "k", "set": "here", **expected}


def test_a_widgets_value_holds_no_votes() -> None:
    assert given_votes({"v": 1, "session": "s", "set_id": "x"}, "here", IDS) == []


@pytest.mark.parametrize(
    "votes",
    [
        3, {}, ["a"], [None], [{"best": 3}], [{"best": -1}], [{"labels": {"7": "good"}}],
        [{"order": [[0], [9]]}], [{}] * 5000,
    ],
)  # fmt: skip
def test_what_cannot_be_votes_is_refused(votes: Any) -> None:
    with pytest.raises(VoteError):
        given_votes({"votes": votes}, "here", IDS)


@pytest.mark.parametrize("odd", [True, None, 1.0, {"a": 1}, ["x"]])
def test_what_is_no_number_is_left_to_the_check_of_the_vote(odd: Any) -> None:
    vote = {"best": odd, "order": [odd], "labels": odd, "among": odd}
    (found,) = given_votes({"votes": [vote]}, "here", IDS)
    assert found == {"set": "here", **vote}


def test_everything_wrong_with_any_of_them_is_told_at_once(tmp_path: Path) -> None:
    session = Session(tmp_path / "cats")
    shades = (np.full((4, 4, 3), i, np.uint8) for i in range(3))
    made = session.add_set([NewImage(one) for one in shades], "a cat")
    ids = [image.id for image in made.images]
    votes = [
        {"kind": "best_worst", "best": 9, "worst": 8},
        {"kind": "best_worst", "best": 1, "worst": 0, "id": "fine"},
        {"kind": "ranking", "order": [[0], [7]]},
        {"kind": "best_worst", "best": 2, "worst": 2, "strikes": ["fine"]},
        {"kind": "undo", "id": "u", "strikes": ["unknown"]},
        {"kind": "nonsense"},
        {"kind": "undo"},
    ]
    with pytest.raises(VoteError) as refused:
        given_votes({"votes": votes}, made.id, ids, session.problems)
    assert refused.value.problems == (
        "Vote 0: There is no image number 9: there are 3, from 0.",
        "Vote 0: There is no image number 8: there are 3, from 0.",
        "Vote 2: There is no image number 7: there are 3, from 0.",
        "Vote 3: `best` and `worst` are the same image.",
        "Vote 4: `strikes` names 'unknown', which is no vote of this session.",
        "Vote 5: `kind` is 'nonsense', none of best_worst, ranking, comparison, swap, thumbs, "
        "remove, prompt, undo.",
        "Vote 6: `id` must be 1 to 64 letters, digits, dots, dashes or underscores.",
    )
    votes = [votes[1], {"kind": "undo", "id": "u", "strikes": ["fine"]}]
    assert len(given_votes({"votes": votes}, made.id, ids, session.problems)) == 2


def test_the_two_images_of_a_removed_pair_may_be_numbers() -> None:
    votes = [{"kind": "remove", "images": [1, 0]}]
    (given,) = given_votes({"votes": votes}, "here", IDS)
    assert given["images"] == [IDS[1], IDS[0]]


def test_a_long_list_of_problems_is_cut() -> None:
    votes = [{"best": 7}] * 30
    with pytest.raises(VoteError) as refused:
        given_votes({"votes": votes}, "here", IDS)
    assert len(refused.value.problems) == 21
    assert refused.value.problems[-1] == "And 10 more problems."
