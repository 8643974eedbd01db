from __future__ import annotations

from typing import Any

import pytest

from dpo_core.ranking.given_votes import given_votes
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
