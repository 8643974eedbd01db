"""What the panel asks: groups of a folder, their way into a session, and how far one has come."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toykit.generations import picture, write_generation

from dpo_core.curation.curation import CurationStore
from dpo_core.curation.requests import CurationRequests
from dpo_core.ranking.pair_making import make_preferences
from dpo_core.ranking.requests import RankingRequests
from dpo_core.ranking.session import SessionState, SessionStore
from dpo_core.ranking.session_name import session_name
from dpo_core.ranking.vote import MAX_IMAGES
from dpo_core.request import RequestRefused

DAY = 1_700_000_000


class Desk:
    """A folder of generations, and what a page can ask of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "generations"
        self.folder.mkdir(exist_ok=True)
        self.allowed = root
        self.again()

    def again(self) -> None:
        """As after a restart."""
        self.sessions = SessionStore(self.root / "sessions")
        self.widget = RankingRequests(self.sessions, lambda name, image: f"/{name}/{image}")
        self.ask = CurationRequests(
            CurationStore(self.root / "curation"),
            self.readable,
            self.sessions.session,
            self.state,
            self.widget.set,
            lambda scan, image, small: f"/{scan}/{image}{'/small' if small else ''}",
        )

    def readable(self, text: str) -> Path:
        path = Path(text).resolve()
        if not path.is_relative_to(self.allowed):
            raise ValueError(f"{text} may not be read.")
        return path

    def state(self, name: str) -> SessionState | None:
        there = session_name(name) in self.sessions.names()
        return self.sessions.session(name).state() if there else None

    def scanned(self) -> str:
        scan = str(self.ask.start({"folder": str(self.folder)})["scan"])
        assert self.ask.curation(scan).scan.wait(30)
        return scan

    def write(self, prompt: str | None, count: int, first: int = 0, **more: Any) -> None:
        for seed in range(first, first + count):
            write_generation(self.folder / f"{prompt}_{seed:05}.png", prompt, seed, **more)

    def groups(self, scan: str, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask.groups(scan, {"session": "taste", **query})["groups"]
        return found

    def open(self, scan: str, group: str, **body: Any) -> dict[str, Any]:
        return self.ask.open_group(scan, group, {"session": "taste", **body}, {})

    def pick(self, shown: Mapping[str, Any], best: int = 0, worst: int = 1) -> None:
        ids = [image["id"] for image in shown["images"]]
        vote = {"kind": "best_worst", "set": shown["set_id"], "best": ids[best],
                "worst": ids[worst]}  # fmt: skip
        self.widget.vote("taste", vote, {})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def refused(call: Any, *arguments: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        call(*arguments)
    return caught.value


def test_images_are_grouped_by_prompt_and_size(desk: Desk) -> None:
    desk.write("a cat", 3)
    desk.write("a cat", 2, first=10, size=(16, 24))
    desk.write("a  dog", 1)
    write_generation(desk.folder / "dog.jpg", "a  dog\n", 99)
    scan = desk.scanned()
    found = {(one["prompt"], one["width"], one["height"]): one["count"]
             for one in desk.groups(scan)}  # fmt: skip
    assert found == {("a cat", 24, 16): 3, ("a cat", 16, 24): 2, ("a  dog", 24, 16): 2}
    assert desk.ask.groups(scan, {})["counts"]["todo"] == 3


def test_an_image_turned_by_its_orientation_is_grouped_as_it_is_shown(desk: Desk) -> None:
    write_generation(desk.folder / "a.jpg", "a cat", 1, (24, 16), orientation=6)
    write_generation(desk.folder / "b.png", "a cat", 2, (16, 24))
    (group,) = desk.groups(scan := desk.scanned())
    assert (group["width"], group["height"], group["count"]) == (16, 24, 2)
    shown = desk.open(scan, group["group"])
    assert {(one["width"], one["height"]) for one in shown["images"]} == {(16, 24)}


def test_exact_copies_are_folded_and_near_ones_are_not(desk: Desk) -> None:
    desk.write("a cat", 2)
    write_generation(desk.folder / "copy.png", "a cat", 0, at=DAY)
    nearly = picture(0)
    nearly.putpixel((0, 0), (1, 2, 3))
    write_generation(desk.folder / "nearly.png", "a cat", 0, image=nearly)
    (group,) = desk.groups(scan := desk.scanned())
    assert (group["count"], group["copies"]) == (3, 1)
    told = desk.ask.group(scan, group["group"], {})
    names = {image["id"]: image["name"] for image in told["images"]}
    (kept,) = told["folded"]
    assert names[kept] == "copy.png", "of copies the oldest stays"
    assert len(desk.open(scan, group["group"])["images"]) == 3


def test_a_group_opened_is_what_the_ranking_widget_gets_and_keeps_its_metadata(desk: Desk) -> None:
    desk.write("a cat", 3)
    (group,) = desk.groups(scan := desk.scanned())
    shown = desk.open(scan, group["group"])
    told = shown.pop("curation")
    assert shown == desk.widget.set("taste", shown["set_id"], {})
    assert told == {"scan": scan, "group": group["group"], "part": 0, "parts": 1, "left_out": []}
    assert (shown["prompt"], len(shown["images"])) == ("a cat", 3)
    stored = desk.root / "sessions" / "taste" / "images"
    originals = {np.asarray(Image.open(path)).tobytes() for path in desk.folder.iterdir()}
    for path in stored.iterdir():
        with Image.open(path) as image:
            assert image.info["dpo_prompt"] == "a cat" and "KSampler" in image.info["prompt"]
            assert np.asarray(image).tobytes() in originals


def test_metadata_of_jpeg_and_webp_goes_along(desk: Desk) -> None:
    write_generation(desk.folder / "a.jpg", "a cat", 1)
    write_generation(desk.folder / "b.webp", "a cat", 2)
    (group,) = desk.groups(scan := desk.scanned())
    desk.open(scan, group["group"])
    for path in (desk.root / "sessions" / "taste" / "images").iterdir():
        assert "KSampler" in Image.open(path).info["prompt"]


def test_opening_again_adds_nothing(desk: Desk) -> None:
    desk.write("a cat", 3)
    (group,) = desk.groups(scan := desk.scanned())
    first = desk.open(scan, group["group"])
    log = desk.root / "sessions" / "taste" / "votes.jsonl"
    before = log.read_bytes()
    threads = [threading.Thread(target=desk.open, args=(scan, group["group"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.again()
    desk.scanned()
    assert desk.open(scan, group["group"]) == first and log.read_bytes() == before


def test_an_image_of_the_session_that_is_gone_is_stored_again(desk: Desk) -> None:
    desk.write("a cat", 3)
    (group,) = desk.groups(scan := desk.scanned())
    shown = desk.open(scan, group["group"])
    path = desk.root / "sessions" / "taste" / "images" / f"{shown['images'][1]['id']}.png"
    before = path.read_bytes()
    path.unlink()
    assert desk.open(scan, group["group"]) == shown and path.read_bytes() == before


def test_a_choice_makes_a_pair_and_the_group_is_done_for_this_session_alone(desk: Desk) -> None:
    desk.write("a cat", 3)
    desk.write("a dog", 3)
    scan = desk.scanned()
    group = next(one for one in desk.groups(scan) if one["prompt"] == "a cat")
    desk.pick(desk.open(scan, group["group"]))
    assert [one["prompt"] for one in desk.groups(scan, state="done")] == ["a cat"]
    assert [one["prompt"] for one in desk.groups(scan, state="todo")] == ["a dog"]
    assert desk.ask.groups(scan, {"session": "other"})["counts"]["todo"] == 2
    records = make_preferences(desk.sessions.session("taste").state()).records
    assert [pair.prompt for pair in records] == ["a cat"]
    assert refused(desk.open, scan, group["group"]).status == 409
    assert desk.open(scan, group["group"], part=0)["votes"], "a person may look at it again"


def test_progress_and_sets_last_through_a_restart(desk: Desk) -> None:
    for prompt in ("a", "b", "c", "d"):
        desk.write(prompt, 2)
    scan = desk.scanned()
    ids = {one["prompt"]: one["group"] for one in desk.groups(scan)}
    desk.pick(desk.open(scan, ids["a"]))
    desk.ask.set_aside(scan, ids["b"], "skipped", {"session": "taste", "id": "s1"})
    desk.ask.set_aside(scan, ids["c"], "finished", {"session": "taste", "id": "f1"})
    desk.again()
    assert refused(desk.ask.scan, "0" * 20).status == 404
    assert desk.ask.scans()["scans"][0]["scan"] == scan
    assert desk.ask.start({"scan": scan})["scan"] == scan
    assert desk.ask.curation(scan).scan.wait(30)
    assert desk.ask.scan(scan)["from_index"] == 8
    states = {one["prompt"]: one["state"] for one in desk.groups(scan)}
    assert states == {"a": "done", "b": "skipped", "c": "done", "d": "todo"}


def test_a_skip_and_a_finish_are_taken_back(desk: Desk) -> None:
    desk.write("a", 2)
    (group,) = desk.groups(scan := desk.scanned())
    body = {"session": "taste", "id": "one"}
    after = desk.ask.set_aside(scan, group["group"], "skipped", body)
    assert (after["group"]["state"], after["group"]["set_aside"]) == ("skipped", "one")
    assert desk.ask.set_aside(scan, group["group"], "skipped", body) == after
    assert "used for something else" in str(
        refused(desk.ask.set_aside, scan, group["group"], "finished", body)
    )
    desk.ask.undo(scan, {"id": "one", "undo_id": "two"})
    desk.again()
    desk.scanned()
    assert desk.groups(scan)[0]["state"] == "todo"
    assert refused(desk.ask.undo, scan, {"id": "none", "undo_id": "three"}).status == 400


def test_a_skipped_group_that_is_ranked_after_all_is_ranked(desk: Desk) -> None:
    desk.write("a", 2)
    (group,) = desk.groups(scan := desk.scanned())
    desk.ask.set_aside(scan, group["group"], "skipped", {"session": "taste", "id": "one"})
    shown = desk.open(scan, group["group"])
    assert desk.groups(scan)[0]["state"] == "skipped"
    desk.pick(shown)
    assert desk.groups(scan)[0]["state"] == "done"


def test_images_without_a_prompt_can_be_given_one(desk: Desk) -> None:
    desk.write(None, 4)
    desk.write("a cat", 2, first=10)
    scan = desk.scanned()
    unknown = next(one for one in desk.groups(scan) if one["prompt"] is None)
    assert "Give them a prompt" in str(refused(desk.open, scan, unknown["group"]))
    images = [image["id"] for image in desk.ask.group(scan, unknown["group"], {})["images"]]
    body = {"session": "taste", "id": "p1", "prompt": " a\ncat ", "images": images[:2]}
    after = desk.ask.give_prompt(scan, unknown["group"], body)
    assert (after["group"]["prompt"], after["group"]["count"]) == ("a cat", 4)
    desk.again()
    desk.scanned()
    assert {one["prompt"]: one["count"] for one in desk.groups(scan)} == {"a cat": 4, None: 2}
    desk.ask.give_prompt(scan, unknown["group"], {"id": "p2", "prompt": ""})
    empty = next(one for one in desk.groups(scan) if one["prompt"] == "")
    assert desk.open(scan, empty["group"])["prompt"] == ""
    desk.ask.undo(scan, {"id": "p1", "undo_id": "u1"})
    assert next(one for one in desk.groups(scan) if one["prompt"] is None)["count"] == 2


def test_a_large_group_is_ranked_in_parts(desk: Desk) -> None:
    count = 2 * MAX_IMAGES + 2
    desk.write("a cat", count, size=(2, 2))
    (group,) = desk.groups(scan := desk.scanned())
    assert [part["images"] for part in group["parts"]] == [44, 43, 43]
    seen: set[str] = set()
    for number in range(3):
        shown = desk.open(scan, group["group"])
        assert shown["curation"]["part"] == number
        seen |= {image["id"] for image in shown["images"]}
        desk.pick(shown)
    assert len(seen) == count and desk.groups(scan)[0]["state"] == "done"


def test_new_images_of_a_ranked_group_are_a_part_of_their_own(desk: Desk) -> None:
    desk.write("a cat", 3, at=DAY)
    (group,) = desk.groups(scan := desk.scanned())
    first = desk.open(scan, group["group"])
    desk.pick(first)
    desk.write("a cat", 1, first=50, at=DAY + 1)
    desk.scanned()
    (group,) = desk.groups(scan)
    assert group["state"] == "begun" and [one["images"] for one in group["parts"]] == [3, 2]
    second = desk.open(scan, group["group"])
    ids = [{image["id"] for image in shown["images"]} for shown in (first, second)]
    assert len(ids[0] & ids[1]) == 1, "one that was ranked, so that the new one can be compared"
    desk.pick(second)
    assert desk.groups(scan)[0]["state"] == "done"


def test_one_picture_alone_or_only_copies_of_one_cannot_be_ranked(desk: Desk) -> None:
    desk.write("alone", 1)
    write_generation(desk.folder / "a.png", "copies", 7)
    picture(7).save(desk.folder / "b.png", compress_level=0)  # packed otherwise: found when opened
    (desk.folder / "b.txt").write_text("copies")
    scan = desk.scanned()
    states = {one["prompt"]: one for one in desk.groups(scan)}
    assert states["alone"]["state"] == "single" and states["copies"]["state"] == "todo"
    assert refused(desk.open, scan, states["copies"]["group"]).status == 409
    assert {one["state"] for one in desk.groups(scan)} == {"single"}
    assert refused(desk.open, scan, states["alone"]["group"]).status == 409


def test_images_that_vanished_are_left_out_and_told(desk: Desk) -> None:
    desk.write("a cat", 4)
    (group,) = desk.groups(scan := desk.scanned())
    os.unlink(desk.folder / "a cat_00001.png")
    (desk.folder / "a cat_00002.png").write_bytes(b"damaged")
    shown = desk.open(scan, group["group"])
    assert len(shown["images"]) == 2 and len(shown["curation"]["left_out"]) == 2
    desk.pick(shown)
    desk.scanned()
    assert desk.groups(scan)[0]["state"] == "done"


def test_an_image_that_became_another_is_not_taken_for_what_it_was(desk: Desk) -> None:
    desk.write("a cat", 3)
    (group,) = desk.groups(scan := desk.scanned())
    write_generation(desk.folder / "a cat_00001.png", "a dog", 99)
    shown = desk.open(scan, group["group"])
    assert len(shown["images"]) == 2 and "changed" in shown["curation"]["left_out"][0]


def test_the_shuffled_order_is_stable_and_depends_on_the_seed(desk: Desk) -> None:
    for number in range(12):
        desk.write(f"prompt {number}", 2, size=(8, 8))
    scan = desk.scanned()
    order = [one["prompt"] for one in desk.groups(scan, order="shuffled", seed="1")]
    assert order == [one["prompt"] for one in desk.groups(scan, order="shuffled", seed="1")]
    assert order != [one["prompt"] for one in desk.groups(scan, order="shuffled", seed="2")]
    desk.write("prompt 99", 2, size=(8, 8))
    desk.scanned()
    after = [one["prompt"] for one in desk.groups(scan, order="shuffled", seed="1")]
    assert [one for one in after if one != "prompt 99"] == order
    pages = [desk.groups(scan, seed="1", limit="5", offset=str(n)) for n in (0, 5, 10)]
    assert [one["prompt"] for page in pages for one in page] == after


def test_the_hardest_first_is_the_largest_and_then_what_is_begun_and_close(desk: Desk) -> None:
    for prompt, count in (("small", 2), ("large", 5), ("middle", 4), ("other", 3)):
        desk.write(prompt, count)
    scan = desk.scanned()
    found = desk.groups(scan, order="hardest")
    assert [one["prompt"] for one in found] == ["large", "middle", "other", "small"]
    ids = {one["prompt"]: one["group"] for one in found}
    for prompt, wins in (("other", 1), ("middle", 2)):
        shown = desk.open(scan, ids[prompt])
        left, right, third, *_ = [image["id"] for image in shown["images"]]
        for winner, loser in ((left, right), (left, third))[:wins]:
            vote = {"kind": "comparison", "set": shown["set_id"], "left": winner,
                    "right": loser, "result": "left"}  # fmt: skip
            desk.widget.vote("taste", vote, {})
    # The leader of "middle" won twice, that of "other" once.
    found = desk.groups(scan, order="hardest")
    assert [one["prompt"] for one in found] == ["other", "middle", "large", "small"]
    assert [one["state"] for one in found] == ["begun", "begun", "todo", "todo"]


def test_prompts_are_searched_whatever_the_case(desk: Desk) -> None:
    desk.write("A Straße", 2)
    desk.write("a cat", 2)
    scan = desk.scanned()
    assert [one["prompt"] for one in desk.groups(scan, search="STRASSE")] == ["A Straße"]


def test_what_is_asked_wrongly_is_refused_with_a_sentence(desk: Desk) -> None:
    desk.write("a cat", 2)
    (group,) = desk.groups(scan := desk.scanned())
    ask, gid = desk.ask, group["group"]
    body = {"session": "taste"}
    assert refused(ask.start, {}).status == 400
    assert refused(ask.start, {"folder": "/"}).status == 403
    for hostile in ("..", "x" * 20, "../" + scan, ""):
        assert refused(ask.scan, hostile).status == 404
        assert refused(ask.group, scan, hostile, {}).status == 404
        assert refused(ask.image_file, scan, hostile).status == 404
    assert refused(ask.open_group, scan, gid, {}, {}).status == 400
    assert refused(ask.open_group, scan, gid, {"session": "../x"}, {}).status == 400
    for part in (-1, 1, True, "0", 10**20):
        assert refused(ask.open_group, scan, gid, {**body, "part": part}, {}).status == 400
    for record_id in (None, 3, "", "a/b", "x" * 65):
        answer = refused(ask.set_aside, scan, gid, "skipped", {**body, "id": record_id})
        assert answer.status == 400
    for prompt in (None, 3, "x" * 70_000):
        assert refused(ask.give_prompt, scan, gid, {"id": "i", "prompt": prompt}).status == 400
    for images in ([], ["no"], "all", [3], [[]]):
        wrong = {"id": "i", "prompt": "a", "images": images}
        assert refused(ask.give_prompt, scan, gid, wrong).status == 400
    for query in ({"limit": "0"}, {"limit": "x"}, {"offset": "-1"}, {"order": "no"},
                  {"state": "no"}, {"session": "../x"}):  # fmt: skip
        assert refused(ask.groups, scan, query).status == 400
    assert not (desk.root / "sessions").exists()


def test_a_folder_that_is_no_longer_allowed_shows_nothing_more(desk: Desk) -> None:
    desk.write("a cat", 2)
    scan = desk.scanned()
    (image, *_) = desk.ask.curation(scan).scan.findings().images
    assert desk.ask.image_file(scan, image).content_type == "image/png"
    desk.allowed = desk.root / "elsewhere"
    for call in (desk.ask.scan, desk.ask.stop, desk.ask.problems):
        assert refused(call, scan).status == 403
    assert refused(desk.ask.image_file, scan, image).status == 403
    assert refused(desk.ask.start, {"scan": scan}).status == 403


def test_an_index_from_a_stranger_leads_to_no_other_file(desk: Desk) -> None:
    desk.write("a cat", 2)
    scan = desk.scanned()
    secret = write_generation(desk.root / "secret.png", "secret", 3)
    place = desk.root / "curation" / scan / "index.jsonl"
    place.write_bytes(place.read_bytes().replace(b"a cat_00000.png", b"../secret.png"))
    desk.again()
    desk.scanned()
    for image in desk.ask.curation(scan).scan.findings().images:
        assert desk.ask.image_file(scan, image).path != secret
    (desk.folder / "a cat_00001.png").unlink()
    (desk.folder / "a cat_00001.png").symlink_to(secret)
    codes = [
        refused(desk.ask.image_file, scan, image.id).status
        for image in desk.ask.curation(scan).scan.findings().images.values()
        if image.name == "a cat_00001.png"
    ]
    assert codes == [404]


def test_a_file_that_became_something_else_is_not_sent(desk: Desk) -> None:
    desk.write("a cat", 1)
    scan = desk.scanned()
    (image,) = desk.ask.curation(scan).scan.findings().images
    path = desk.folder / "a cat_00000.png"
    path.write_bytes(b"<html><script>alert(1)</script>")
    assert refused(desk.ask.image_file, scan, image).status == 404
    assert refused(desk.ask.thumbnail_file, scan, image).status == 404


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_thumbnail_is_small_upright_and_made_once(suffix: str, desk: Desk) -> None:
    image = Image.new("RGB", (800, 600), "red")
    image.paste("blue", (0, 0, 800, 300))  # above, until it is turned to the right
    path = desk.folder / f"a.{suffix}"
    write_generation(path, "a cat", 1, image=image, orientation=6)
    scan = desk.scanned()
    (image_id,) = desk.ask.curation(scan).scan.findings().images
    found = desk.ask.thumbnail_file(scan, image_id)
    assert found.content_type == "image/webp"
    with Image.open(found.path) as small:
        assert small.size == (288, 384)
        left, right = small.getpixel((60, 192)), small.getpixel((230, 192))
    assert right[2] > 200 > 60 > right[0] and left[0] > 200 > 60 > left[2]
    made = found.path.stat().st_mtime_ns
    assert desk.ask.thumbnail_file(scan, image_id).path.stat().st_mtime_ns == made


def test_a_small_image_is_its_own_thumbnail(desk: Desk) -> None:
    desk.write("a cat", 1)
    scan = desk.scanned()
    (image_id,) = desk.ask.curation(scan).scan.findings().images
    assert desk.ask.thumbnail_file(scan, image_id).path == desk.folder / "a cat_00000.png"


def test_problems_are_listed(desk: Desk) -> None:
    (desk.folder / "text\n.png").write_text("no image")
    scan = desk.scanned()
    answer = desk.ask.problems(scan)
    assert answer["total"] == 1 and answer["problems"][0]["name"] == "text\\n.png"
    assert desk.ask.scan(scan)["unusable"] == 1
