from __future__ import annotations

from typing import Any

import pytest

from dpo_core.ranking.vote import (
    Candidate,
    CandidateSet,
    VoteError,
    encode_record,
    identified,
    read_set,
    set_id,
    set_record,
    vote_problems,
)

A, B, C, D, X = (letter * 32 for letter in "abcdf")
SET = CandidateSet.of("a cat", [Candidate(one, 8, 6) for one in (A, B, C, D)])
SETS = {SET.id: SET}


def vote(kind: str, **fields: Any) -> dict[str, Any]:
    return {"v": 1, "id": "1", "kind": kind, "set": SET.id, **fields}


GOOD = [
    vote("best_worst", best=A, worst=B),
    vote("best_worst", best=A, worst=B, among=[B, C, A]),
    vote("ranking", order=[[A], [B, C]]),
    vote("comparison", left=A, right=B, result="both_bad"),
    vote("swap", up=A, down=B),
    vote("thumbs", labels={A: "good", B: "none"}),
    {"v": 1, "id": "2", "kind": "undo", "strikes": ["1"]},
    vote("best_worst", best=A, worst=B, strikes=["0"], from_the_future={"deep": [1, 2]}),
]


@pytest.mark.parametrize("good", GOOD, ids=lambda one: one["kind"])
def test_whole_votes_have_no_problems(good: dict[str, Any]) -> None:
    assert vote_problems(good, SETS) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({**GOOD[0], "v": 2}, "`v` is 2"),
        ({**GOOD[0], "v": True}, "`v` is True"),
        ({**GOOD[0], "id": "a/b"}, "`id`"),
        ({**GOOD[0], "id": 7}, "`id`"),
        ({**GOOD[0], "set": X}, "does not know"),
        ({**GOOD[0], "set": [SET.id]}, "does not know"),
        ({**GOOD[0], "kind": "set"}, "`kind` is 'set'"),
        ({**GOOD[0], "kind": ["best_worst"]}, "`kind`"),
        (vote("best_worst", best=A, worst=A), "same image"),
        (vote("best_worst", best=A), "`worst` is None"),
        (vote("best_worst", best=X, worst=[A]), "`worst` is"),
        (vote("best_worst", best=A, worst=B, among=[A, C]), "`among`"),
        (vote("best_worst", best=A, worst=B, among=[A, B, B]), "`among`"),
        (vote("best_worst", best=A, worst=B, among=[A, B, X]), "`among`"),
        (vote("ranking", order=[[A]]), "two images"),
        (vote("ranking", order=[A, B]), "list of lists"),
        (vote("ranking", order=[[A], []]), "list of lists"),
        (vote("ranking", order=[[A], [A]]), "twice"),
        (vote("ranking", order=[[A], [X]]), "not in the set"),
        (vote("comparison", left=A, right=B, result="maybe"), "`result` is 'maybe'"),
        (vote("comparison", left=A, right=B, result=["left"]), "`result`"),
        (vote("thumbs", labels={}), "`labels`"),
        (vote("thumbs", labels={X: "good"}), "not in the set"),
        (vote("thumbs", labels={A: "great"}), "good, bad, none"),
        (vote("thumbs", labels={A: ["good"]}), "good, bad, none"),
        (vote("undo"), "needs `strikes`"),
        (vote("undo", strikes="1"), "`strikes`"),
        (vote("undo", strikes=["1"] * 257), "`strikes`"),
    ],
)
def test_what_is_wrong_with_a_vote_is_told(bad: dict[str, Any], told: str) -> None:
    assert told in " ".join(vote_problems(bad, SETS))


def test_all_problems_are_told_at_once() -> None:
    bad = vote("comparison", id="?", left=X, right=B, result="?")
    assert len(vote_problems(bad, SETS)) == 3


def test_a_sets_id_depends_on_images_and_prompt_but_not_on_order_or_repetition() -> None:
    assert set_id("p", [A, B]) == set_id("p", [B, A, B])
    assert len({set_id("p", [A, B]), set_id("q", [A, B]), set_id("p", [A, C])}) == 3
    twice = [Candidate(A, 8, 6), Candidate(B, 8, 6), Candidate(A, 8, 6)]
    assert [image.id for image in CandidateSet.of("p", twice).images] == [A, B]


def test_a_set_record_is_read_back_and_a_forged_one_is_not() -> None:
    record = set_record(SET)
    assert read_set(record) == SET
    assert read_set({**record, "prompt": "a dog"}) is None
    assert read_set({**record, "images": []}) is None
    assert read_set({**record, "images": [{"id": "../x", "width": 1, "height": 1}]}) is None
    assert read_set({**record, "images": [{**record["images"][0], "width": True}]}) is None


def test_a_vote_without_id_gets_that_of_its_content() -> None:
    bare = {"kind": "best_worst", "set": SET.id, "best": A, "worst": B}
    turned = dict(reversed(list(bare.items())))
    assert identified(bare)["id"] == identified(turned)["id"] == identified({**bare, "at": 5})["id"]
    assert identified(bare)["id"] != identified({**bare, "worst": C})["id"]
    with pytest.raises(VoteError, match="`id`"):
        identified({"kind": "undo", "strikes": ["1"]})


@pytest.mark.parametrize(
    "wrong", [{"x": float("nan")}, {"x": "\ud800"}, {"x": "y" * 600_000}, {"x": object()}]
)
def test_what_is_not_plain_json_of_some_length_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(VoteError):
        encode_record({"id": "1", **wrong})
    with pytest.raises(VoteError):
        identified(["no", "object"])  # type: ignore[arg-type]
