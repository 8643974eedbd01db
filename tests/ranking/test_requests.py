from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import SessionStore
from dpo_core.ranking.vote import CandidateSet
from dpo_core.request import MAX_BODY_BYTES, RequestRefused, read_body


class Page:
    """A page that asks about one set of images in the session `cats`."""

    def __init__(self, root: Path, count: int = 4) -> None:
        self.store = SessionStore(root)
        self.requests = RankingRequests(self.store, lambda session, one: f"{session}:{one[:4]}")
        self.set = self.add(count)
        self.ids = [image.id for image in self.set.images]

    def add(self, count: int, prompt: str = "a cat", first: int = 0) -> CandidateSet:
        shades = (np.full((4, 6, 3), first + i, dtype=np.uint8) for i in range(count))
        return self.store.session("cats").add_set([NewImage(one) for one in shades], prompt)

    def best_worst(self, vote_id: str, best: int, worst: int, **query: str) -> dict[str, Any]:
        vote = {
            "id": vote_id, "kind": "best_worst", "set": self.set.id,
            "best": self.ids[best], "worst": self.ids[worst],
        }  # fmt: skip
        return self.requests.vote("cats", vote, query)


def refusal(ask: Callable[[], Any]) -> RequestRefused:
    with pytest.raises(RequestRefused) as refused:
        ask()
    assert refused.value.answer() == {
        "error": str(refused.value), "problems": list(refused.value.problems)
    }  # fmt: skip
    return refused.value


def test_a_set_nobody_ranked(tmp_path: Path) -> None:
    page = Page(tmp_path)
    view = page.requests.set("cats", page.set.id, {})
    assert json.loads(json.dumps(view)) == view
    assert view == {
        "v": 1,
        "session": "cats",
        "set_id": page.set.id,
        "prompt": "a cat",
        "revision": view["revision"],
        "seed": int(page.set.id[:8], 16),
        "images": [
            {"id": one, "width": 6, "height": 4, "url": f"cats:{one[:4]}"} for one in page.ids
        ],
        "votes": [],
        "pairs": [],
        "standings": [
            {"id": one, "rating": 0, "deviation": pytest.approx(1), "label": "none"}
            for one in page.ids
        ],
        "totals": {"pairs": 0, "votes": 0, "sets": 1},
    }


def test_a_vote_is_answered_with_what_would_be_trained_on(tmp_path: Path) -> None:
    page = Page(tmp_path)
    before = page.requests.set("cats", page.set.id, {})["revision"]
    view = page.best_worst("a", 2, 0)
    (pair,) = view["pairs"]
    assert (pair["chosen"], pair["rejected"], pair["explicit"]) == (page.ids[2], page.ids[0], True)
    assert 0.5 < pair["probability"] < 1
    assert [one["id"] for one in view["standings"]][::3] == [page.ids[2], page.ids[0]]
    assert view["totals"] == {"pairs": 1, "votes": 1, "sets": 1} and view["revision"] != before
    assert page.best_worst("a", 2, 0) == view  # the same vote again
    undone = page.requests.undo("cats", {"vote_id": "a", "undo_id": "b"}, {})
    assert undone["votes"] == [] and undone["revision"] == before


def test_pairs_are_those_of_the_asked_number(tmp_path: Path) -> None:
    page = Page(tmp_path)
    ranking = {"id": "r", "kind": "ranking", "set": page.set.id, "order": [[i] for i in page.ids]}
    assert len(page.requests.vote("cats", ranking, {})["pairs"]) == 1
    two = page.requests.set("cats", page.set.id, {"mode": "rank", "pairs_per_group": "2"})
    assert len(two["pairs"]) == 2 and two["totals"]["pairs"] == 2


def test_totals_are_of_the_session_and_the_revision_of_the_set(tmp_path: Path) -> None:
    page = Page(tmp_path)
    revision = page.best_worst("a", 0, 1)["revision"]
    page.set = page.add(3, "a dog", first=50)
    page.ids = [image.id for image in page.set.images]
    assert page.best_worst("b", 0, 1)["totals"] == {"pairs": 2, "votes": 2, "sets": 2}
    first = page.store.session("cats").state().votes[0]["set"]
    assert page.requests.set("cats", first, {})["revision"] == revision
    newest, oldest = page.requests.sets("cats")["sets"]
    assert (newest["prompt"], newest["images"], newest["votes"]) == ("a dog", 3, 1)
    assert (oldest["prompt"], oldest["images"]) == ("a cat", 4) and oldest["at"] <= newest["at"]
    assert page.requests.sessions() == {
        "sessions": [{"name": "cats", "sets": 2, "votes": 2, "pairs": 2}]
    }


def test_asking_for_what_is_not_there_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    page = Page(tmp_path)
    assert refusal(lambda: page.requests.sets("dogs")).status == 404
    for name in ("", "..", "a/b", "con"):
        assert refusal(lambda name=name: page.requests.sets(name)).status == 400
    assert refusal(lambda: page.requests.set("cats", "0" * 32, {})).status == 404
    shutil.rmtree(tmp_path / "cats")
    assert refusal(lambda: page.best_worst("a", 0, 1)).status == 404
    assert list(tmp_path.iterdir()) == []


def test_everything_wrong_with_a_request_is_told_at_once(tmp_path: Path) -> None:
    page = Page(tmp_path)
    found = refusal(lambda: page.best_worst("a", 0, 0, mode="x", pairs_per_group="many"))
    assert found.status == 400 and len(found.problems) == 2
    found = refusal(lambda: page.best_worst("a/b", 0, 0))
    assert found.status == 400 and len(found.problems) == 1
    assert page.store.session("cats").state().votes == ()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400), (b"[]", 400), (b"3", 400), (b"\xff", 400), (b"[" * 200_000, 400),
        (b'{"a": "' + b"x" * MAX_BODY_BYTES + b'"}', 413),
    ],
    ids=lambda data: str(data)[:6],
)  # fmt: skip
def test_a_body_that_is_no_small_object_is_refused(data: bytes, status: int) -> None:
    assert refusal(lambda: read_body(data)).status == status


def test_a_body_is_an_object() -> None:
    assert read_body(b'{"a": [1]}') == {"a": [1]}
