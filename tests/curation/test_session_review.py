"""The pairs of a session under review: changed by votes, and taken back by votes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toykit.generations import write_generation

from dpo_core.curation.curation import CurationStore
from dpo_core.curation.requests import CurationRequests
from dpo_core.curation.review_requests import ImageUrls, ReviewRequests
from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.pair_making import make_preferences
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import Session, SessionStore
from dpo_core.ranking.vote import CandidateSet
from dpo_core.request import RequestRefused


class Desk:
    """A session `s` with pairs, and what a page can ask of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.again()

    def again(self) -> None:
        """As after a restart."""
        self.store = SessionStore(self.root / "sessions")
        self.session = self.store.session("s")
        curations = CurationStore(self.root / "curation")
        self.folders = CurationRequests(
            curations, Path, self.store.session, lambda name: self.session.state(),
            RankingRequests(self.store, lambda name, image: "url").set,
            lambda scan, image, small: "url",
        )  # fmt: skip
        urls = ImageUrls(
            lambda name, image: f"/{name}/{image}", lambda name, image: f"/{name}/{image}/small",
            lambda scan, image, small: "url",
        )  # fmt: skip
        self.ask = ReviewRequests(
            self.folders.curation, curations, self.known, lambda one: True, urls
        )

    def known(self, name: str) -> Session:
        if name not in self.store.names():
            raise KeyError(name)
        return self.store.session(name)

    def set(self, prompt: str, count: int, first: int, side: int = 8) -> CandidateSet:
        shades = [np.full((6, side, 3), first + n, np.uint8) for n in range(count)]
        return self.session.add_set([NewImage(one) for one in shades], prompt)

    def vote(self, of: CandidateSet, kind: str, **fields: Any) -> None:
        self.session.vote({"kind": kind, "set": of.id, **fields})

    def best_worst(self, of: CandidateSet, best: int = 0, worst: int = 1) -> None:
        ids = [image.id for image in of.images]
        self.vote(of, "best_worst", best=ids[best], worst=ids[worst])

    def pairs(self, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask.session_pairs("s", query)["pairs"]
        return found

    def edit(self, edit_id: str, kind: str, pair: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = {"id": edit_id, "kind": kind, "pair": pair["pair"], **more}
        return self.ask.edit_session("s", body, {})

    def trained(self) -> list[tuple[str, str, str]]:
        records = make_preferences(self.session.state()).records
        return [(one.prompt, one.chosen.digest, one.rejected.digest) for one in records]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def sides(pair: dict[str, Any]) -> tuple[str, str]:
    return pair["chosen"]["id"], pair["rejected"]["id"]


def refused(call: Any, *arguments: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        call(*arguments)
    return caught.value


def test_the_pairs_are_those_that_are_trained_on(desk: Desk) -> None:
    for number in range(3):
        desk.best_worst(desk.set(f"prompt {number}", 3, 10 * number))
    pairs = desk.pairs(order="oldest")
    assert {(one["prompt"], *sides(one)) for one in pairs} == {*desk.trained()}
    assert all(one["explicit"] and one["probability"] > 0.5 and not one["problems"]
               for one in pairs)  # fmt: skip
    page = desk.ask.session_pairs("s", {"limit": "2", "offset": "2"})
    assert (page["total"], page["all"], len(page["pairs"])) == (3, 3, 1)


def test_a_removed_pair_is_gone_and_comes_back_also_after_a_restart(desk: Desk) -> None:
    desk.best_worst(desk.set("a cat", 3, 0))
    (pair,) = desk.pairs()
    edits = desk.edit("e1", "remove", pair)
    assert desk.pairs() == [] and desk.trained() == []
    assert desk.edit("e1", "remove", pair) == edits, "the same id counts once"
    desk.again()
    (edit,) = desk.ask.session_edits("s", {})["edits"]
    assert (edit["id"], edit["kind"]) == ("e1", "remove")
    undone = desk.ask.undo_session("s", {"id": "e1", "undo_id": "u1"}, {})
    assert undone["edits"] == []
    assert [sides(one) for one in desk.pairs()] == [sides(pair)]
    again = desk.ask.undo_session("s", {"id": "e1", "undo_id": "u1"}, {})
    assert again == undone
    assert refused(desk.ask.undo_session, "s", {"id": "e1", "undo_id": "u2"}, {}).status == 409


@pytest.mark.parametrize("how", ["best_worst", "comparison", "ranking", "thumbs", "both"])
def test_a_flipped_pair_is_the_other_way_round_and_back(how: str, desk: Desk) -> None:
    one = desk.set("a cat", 2, 0)
    a, b = [image.id for image in one.images]
    if how == "best_worst":
        desk.best_worst(one)
    if how in ("comparison", "both"):
        desk.vote(one, "comparison", left=a, right=b, result="left")
    if how == "ranking":
        desk.vote(one, "ranking", order=[[a], [b]])
    if how in ("thumbs", "both"):
        desk.vote(one, "thumbs", labels={a: "good", b: "bad"})
    (before,) = desk.pairs()
    assert sides(before) == (a, b)
    desk.edit("e1", "flip", before)
    (after,) = desk.pairs()
    assert sides(after) == (b, a)
    assert after["probability"] == pytest.approx(before["probability"])
    assert after["gap"] == pytest.approx(before["gap"])
    desk.edit("e2", "flip", after)
    assert sides(desk.pairs()[0]) == (a, b)
    desk.again()
    for edit_id in ("e2", "e1"):
        desk.ask.undo_session("s", {"id": edit_id, "undo_id": f"u{edit_id}"}, {})
    assert desk.pairs() == [before] and desk.ask.session_edits("s", {})["edits"] == []


def test_a_flipped_pair_among_others_is_still_made(desk: Desk) -> None:
    one = desk.set("a cat", 6, 0)
    for best, worst in ((0, 5), (1, 4)):
        desk.best_worst(one, best, worst)
    first, *_ = desk.pairs(order="gap")
    desk.edit("e1", "flip", first)
    assert sorted(sides(pair)[::-1] if sides(pair)[::-1] == sides(first) else sides(pair)
                  for pair in desk.pairs()) == sorted(
        (one.images[b].id, one.images[w].id) for b, w in ((0, 5), (1, 4)))  # fmt: skip


def test_a_corrected_prompt_is_trained_on_and_can_be_taken_back(desk: Desk) -> None:
    desk.best_worst(desk.set("a cat", 2, 0))
    (pair,) = desk.pairs()
    desk.edit("e1", "prompt", pair, prompt="a\ntabby cat")
    assert [one[0] for one in desk.trained()] == ["a tabby cat"]
    assert desk.pairs(prompt="tabby")[0]["pair"] == pair["pair"]
    desk.again()
    assert desk.ask.session_edits("s", {})["edits"][0]["what"] == "a\\ntabby cat"
    desk.ask.undo_session("s", {"id": "e1", "undo_id": "u"}, {})
    assert [one[0] for one in desk.trained()] == ["a cat"]


def test_a_pair_that_changed_meanwhile_is_left_alone(desk: Desk) -> None:
    one = desk.set("a cat", 2, 0)
    desk.best_worst(one)
    (pair,) = desk.pairs()
    desk.best_worst(one, 1, 0)
    desk.best_worst(one, 1, 0)
    assert refused(desk.edit, "e1", "remove", pair).status == 404
    (now,) = desk.pairs()
    seen = {"chosen": pair["chosen"]["id"], "rejected": pair["rejected"]["id"]}
    body = {"id": "e1", "kind": "remove", "pair": now["pair"], **seen}
    assert refused(desk.ask.edit_session, "s", body, {}).status == 409
    assert len(desk.pairs()) == 1


def test_images_that_are_gone_or_of_no_set_are_found(desk: Desk) -> None:
    one = desk.set("a cat", 2, 0)
    desk.best_worst(one)
    gone = desk.session.images.path(one.images[0].id)
    stray = gone.with_name(f"{'a' * 32}.png")
    gone.rename(stray)
    (pair,) = desk.pairs()
    assert pair["problems"] == ["missing"]
    told = desk.ask.session_orphans("s", {})
    assert told["missing"] == [{"set_id": one.id, "image": one.images[0].id}]
    assert told["strays"] == [stray.stem]
    assert "missing" in {one["kind"] for one in desk.ask.session_statistics("s", {})["warnings"]}


def test_an_image_that_is_gone_is_mended_from_the_folder_it_came_from(desk: Desk) -> None:
    folder = desk.root / "generations"
    for seed in range(3):
        write_generation(folder / f"{seed}.png", "a cat", seed)
    scan = desk.folders.start({"folder": str(folder)})["scan"]
    desk.folders.curation(scan).scan.wait(30)
    (group,) = desk.folders.groups(scan, {})["groups"]
    shown = desk.folders.open_group(scan, group["group"], {"session": "s"}, {})
    images = [image["id"] for image in shown["images"]]
    paths = [desk.session.images.path(image) for image in images]
    before = paths[0].read_bytes()
    for path in paths[:2]:
        path.unlink()
    originals = {image.name: image for image in
                 desk.folders.curation(scan).scan.findings().images.values()}  # fmt: skip
    assert len(originals) == 3
    told = desk.ask.edit_session("s", {"id": "m1", "kind": "mend"}, {})
    assert sorted(told["mended"]) == sorted(images[:2]) and told["total"] == 0
    assert paths[0].read_bytes() == before
    paths[0].unlink()
    desk.again()  # nobody has looked at the folder since the restart
    told = desk.ask.edit_session("s", {"id": "m1b", "kind": "mend"}, {})
    assert (told["mended"], told["total"]) == ([images[0]], 0)
    desk.folders.start({"scan": scan})
    desk.folders.curation(scan).scan.wait(30)
    for path in folder.iterdir():
        path.unlink()
    paths[0].unlink()
    told = desk.ask.edit_session("s", {"id": "m2", "kind": "mend"}, {})
    assert told == {"mended": [], "missing": [images[0]], "total": 1}


def test_a_vote_with_a_strange_time_keeps_nothing_from_being_reviewed(desk: Desk) -> None:
    made = desk.set("a cat", 2, 0)
    ids = [image.id for image in made.images]
    for n, at in enumerate(("yesterday", None, [1], float(2**40), 10**400)):
        desk.vote(made, "best_worst", best=ids[0], worst=ids[1], at=at, id=f"b{n}")
        desk.vote(made, "prompt", prompt="x", by="review", edit="e", at=at, id=f"p{n}")
    assert [pair["at"] for pair in desk.pairs()] == [2**40]
    assert [one["id"] for one in desk.ask.session_edits("s", {})["edits"]] == ["e"]


def test_choices_that_contradict_each_other_are_told(desk: Desk) -> None:
    one = desk.set("a cat", 3, 0)
    a, b, c = [image.id for image in one.images]
    for left, right in ((a, b), (b, c), (c, a)):
        desk.vote(one, "comparison", left=left, right=right, result="left")
    (told,) = [one for one in desk.ask.session_statistics("s", {})["warnings"]
               if one["kind"] == "inconsistent"]  # fmt: skip
    assert told["count"] == 1


def test_what_is_asked_wrongly_is_refused(desk: Desk) -> None:
    desk.best_worst(desk.set("a cat", 2, 0))
    (pair,) = desk.pairs()
    assert refused(desk.ask.session_pairs, "../s", {}).status in (400, 404)
    assert refused(desk.ask.session_pairs, "none", {}).status == 404
    for query in ({"limit": "0"}, {"order": "x"}, {"since": "x"}, {"gap_min": "nan"},
                  {"split": "test"}, {"problem": "x"}, {"pairs_per_group": "0"}):  # fmt: skip
        assert refused(desk.ask.session_pairs, "s", query).status == 400
    for edit in ({"id": "../x"}, {"id": None}, {"kind": "explode"}, {"kind": ["flip"]},
                 {"kind": "prompt", "prompt": 3}, {"kind": "prompt", "prompt": "x" * 70_000},
                 {"kind": "drop"}):  # fmt: skip
        body = {"id": "e", "kind": "remove", "pair": pair["pair"], **edit}
        assert refused(desk.ask.edit_session, "s", body, {}).status == 400
    for other in (None, "x", ["x"]):
        body = {"id": "e", "kind": "remove", "pair": other}
        assert refused(desk.ask.edit_session, "s", body, {}).status == 404
    assert len(desk.pairs()) == 1
