"""A pair folder under review: files are put aside and renamed, and everything can be taken back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from toykit.generations import write_generation

from dpo_core.curation.curation import Curation, CurationStore
from dpo_core.curation.folder_edits import FolderEdits
from dpo_core.curation.folder_review import FolderReview
from dpo_core.curation.review_requests import ImageUrls, ReviewRequests
from dpo_core.pairs.folder import load_pair_folder
from dpo_core.pairs.pattern import SidePattern
from dpo_core.request import RequestRefused

ROOT = Path(__file__).parents[2]
Content = dict[str, bytes]


class Desk:
    """A pair folder, and what a page can ask of it."""

    def __init__(self, root: Path, **patterns: str) -> None:
        self.root, self.folder = root, root / "pairs"
        self.patterns = patterns
        self.again()

    def again(self) -> None:
        """As after a restart."""
        self.folder.mkdir(exist_ok=True)
        store = CurationStore(self.root / "curation")
        self.curation = store.open(self.folder)
        urls = ImageUrls(lambda s, i: "", lambda s, i: "", lambda s, i, small: f"/{s}/{i}")
        self.ask = ReviewRequests(self._of, store, lambda name: _no(name), lambda one: True, urls)
        self.look()

    def _of(self, scan: str) -> Curation:
        assert scan == "scan"
        return self.curation

    def look(self) -> None:
        self.curation.scan.start()
        assert self.curation.scan.wait(30)

    def pair(self, name: str, prompt: str | None, seed: int, **more: Any) -> None:
        ours, theirs = more.pop("suffixes", (".png", ".png"))
        for side, suffix, number in (("chosen", ours, seed), ("rejected", theirs, seed + 500)):
            write_generation(self.folder / side / f"{name}{suffix}", prompt, number, **more)

    def pairs(self, **query: str) -> list[dict[str, Any]]:
        asked = {"order": "prompt", **self.patterns, **query}
        found: list[dict[str, Any]] = self.ask.folder_pairs("scan", asked)["pairs"]
        return found

    def edit(self, edit_id: str, kind: str, **body: Any) -> dict[str, Any]:
        body = {"id": edit_id, "kind": kind, **body}
        return self.ask.edit_folder("scan", body, self.patterns)

    def undo(self, edit_id: str, undo_id: str) -> dict[str, Any]:
        return self.ask.undo_folder("scan", {"id": edit_id, "undo_id": undo_id}, self.patterns)

    def content(self) -> Content:
        """Every file a loader could see."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and ".dpo_review" not in path.parts
        }


def _no(name: str) -> Any:
    raise KeyError(name)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def refused(call: Any, *arguments: Any, **more: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        call(*arguments, **more)
    return caught.value


def test_the_pairs_are_those_the_loader_reads_train_and_val_together(desk: Desk) -> None:
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        desk.pair(name, f"prompt {number}", number)
    (desk.folder / "chosen" / "train" / "a.txt").write_text("a caption")
    (desk.folder / "preferences.jsonl").write_text(
        json.dumps({"pair": "val/c", "chosen_probability": 0.7, "rating_gap": 0.4}) + "\n"
    )
    desk.look()
    found = {(one["place"], one["prompt"], one["split"], one["probability"], one["gap"])
             for one in desk.pairs()}  # fmt: skip
    read = load_pair_folder(desk.folder).pairs
    assert found == {
        ("train/a", "a caption", "train", 1.0, None), ("train/b", "prompt 1", "train", 1.0, None),
        ("val/c", "prompt 2", "val", 0.7, 0.4),
    }  # fmt: skip
    assert {(one.prompt, one.split, one.chosen_probability, one.rating_gap) for one in read} == {
        one[1:] for one in found
    }
    assert [one["place"] for one in desk.pairs(split="val")] == ["val/c"]


def test_other_patterns_divide_the_folder(tmp_path: Path) -> None:
    desk = Desk(tmp_path, chosen_pattern="{}_good", rejected_pattern="{}_bad")
    for side, seed in (("good", 1), ("bad", 2)):
        write_generation(desk.folder / "sub" / f"1_{side}.png", "a cat", seed)
    desk.look()
    (pair,) = desk.pairs()
    assert pair["place"] == "sub/1" and pair["problems"] == []
    before = desk.content()
    desk.edit("e1", "flip", pair=pair["pair"])
    assert desk.content()["sub/1_bad.png"] == before["sub/1_good.png"]


def test_everything_odd_about_pairs_is_told(desk: Desk) -> None:
    desk.pair("fine", "a", 1)
    desk.pair("copy", "a", 1)
    desk.pair("prompts", "b", 2)
    (desk.folder / "chosen" / "prompts.txt").write_text("one")
    (desk.folder / "rejected" / "prompts.txt").write_text("another")
    write_generation(desk.folder / "chosen" / "sizes.png", "c", 3)
    write_generation(desk.folder / "rejected" / "sizes.png", "c", 4, (16, 24))
    for side in ("chosen", "rejected"):
        write_generation(desk.folder / side / "same.png", "d", 5)
        write_generation(desk.folder / side / "damaged.png", "e", 6)
    (desk.folder / "rejected" / "damaged.png").write_bytes(b"no image")
    write_generation(desk.folder / "chosen" / "alone.png", "f", 7)
    for suffix in ("png", "jpg"):
        write_generation(desk.folder / "rejected" / f"several.{suffix}", "g", 8)
    desk.look()
    assert {one["place"]: one["problems"] for one in desk.pairs()} == {
        "fine": ["repeated"], "copy": ["repeated"], "prompts": ["prompts_differ"],
        "sizes": ["sizes_differ"], "same": ["same_image"], "damaged": ["unreadable"],
    }  # fmt: skip
    told = desk.ask.folder_orphans("scan", {})
    assert [(one["side"], one["pair"], one["reason"]) for one in told["orphans"]] == [
        ("chosen", "alone", "alone"), ("rejected", "several", "several"),
        ("rejected", "several", "several"),
    ]  # fmt: skip
    warned = {one["kind"]: one["count"] for one in
              desk.ask.folder_statistics("scan", {})["warnings"]}  # fmt: skip
    assert warned.pop("few_pairs") == 2
    assert warned == {"unreadable": 1, "sizes_differ": 1, "same_image": 1, "prompts_differ": 1,
                      "repeated": 2, "one_prompt": 2}  # fmt: skip


@pytest.mark.parametrize("suffixes", [(".png", ".png"), (".jpg", ".webp")])
@pytest.mark.parametrize("kind", ["remove", "flip", "prompt"])
def test_a_change_is_seen_by_the_loader_and_is_taken_back_to_the_byte(
    kind: str, suffixes: tuple[str, str], desk: Desk
) -> None:
    desk.pair("train/1", "a cat", 1, suffixes=suffixes)
    desk.pair("train/2", "a dog", 2)
    (desk.folder / "chosen" / "train" / "1.txt").write_bytes(b"a cat\r\nof mine")
    desk.look()
    before, pair = desk.content(), desk.pairs()[0]
    first = load_pair_folder(desk.folder).pairs[0]
    edits = desk.edit("e1", kind, pair=pair["pair"], prompt="a\ntabby")
    assert desk.edit("e1", kind, pair=pair["pair"], prompt="a\ntabby") == edits
    read = load_pair_folder(desk.folder).pairs
    if kind == "remove":
        assert [one.prompt for one in read] == ["a dog"] and len(desk.pairs()) == 1
    if kind == "flip":
        assert (read[0].chosen, read[0].rejected) == (first.rejected, first.chosen)
        assert read[0].prompt == "a cat of mine"
        now = desk.pairs()[0]
        assert (now["chosen"]["width"], now["pair"]) == (24, pair["pair"])
    if kind == "prompt":
        assert read[0].prompt == "a tabby"
        assert [one["place"] for one in desk.pairs(prompt="a tabby")] == ["train/1"]
    desk.again()
    (edit,) = desk.ask.folder_edits("scan", {})["edits"]
    assert (edit["id"], edit["kind"], edit["place"]) == ("e1", kind, "train/1")
    assert desk.undo("e1", "u1")["edits"] == [] == desk.undo("e1", "u1")["edits"]
    assert desk.content() == before and desk.pairs()[0]["prompt"] == pair["prompt"]
    assert refused(desk.undo, "e1", "u2").status == 409
    assert desk.undo("u1", "redo")["total"] == 1, "what was taken back can be brought back"
    assert desk.content() != before
    desk.undo("redo", "last")
    assert desk.content() == before


def test_a_prompt_is_written_where_there_was_none_or_to_both_captions(desk: Desk) -> None:
    desk.pair("bare", None, 1)
    desk.pair("both", "x", 2)
    for side in ("chosen", "rejected"):
        (desk.folder / side / "both.TXT").write_text("x")
    desk.look()
    for number, pair in enumerate(desk.pairs()):
        desk.edit(f"e{number}", "prompt", pair=pair["pair"], prompt="new")
    read = load_pair_folder(desk.folder).pairs
    assert [one.prompt for one in read] == ["new", "new"]
    assert not (desk.folder / "rejected" / "bare.txt").exists()


def test_changes_on_one_pair_are_taken_back_in_their_order(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    before, (pair,) = desk.content(), desk.pairs()
    desk.edit("e1", "flip", pair=pair["pair"])
    desk.edit("e2", "remove", pair=pair["pair"])
    assert "later changes first" in str(refused(desk.undo, "e1", "u1"))
    desk.undo("e2", "u2")
    desk.undo("e1", "u1")
    assert desk.content() == before


def test_two_images_without_partners_are_made_a_pair_or_put_aside(desk: Desk) -> None:
    write_generation(desk.folder / "train" / "chosen" / "1.png", "a cat", 1)
    write_generation(desk.folder / "train" / "rejected" / "one.jpg", "a cat", 2)
    (desk.folder / "train" / "rejected" / "one.txt").write_text("a cat")
    write_generation(desk.folder / "train" / "rejected" / "left.png", "a cat", 3)
    desk.look()
    before = desk.content()
    found = desk.ask.folder_orphans("scan", {})["orphans"]
    by_name = {one["image"]["name"].rpartition("/")[2]: one["image"]["id"] for one in found}
    wrong = {"chosen": by_name["one.jpg"], "rejected": by_name["1.png"]}
    assert refused(desk.edit, "m0", "mend", **wrong).status == 409
    desk.edit("m1", "mend", chosen=by_name["1.png"], rejected=by_name["one.jpg"])
    (pair,) = desk.pairs()
    assert (pair["place"], pair["rejected"]["name"]) == ("train/1", "train/rejected/1.jpg")
    desk.edit("d1", "drop", image=by_name["left.png"])
    assert desk.ask.folder_orphans("scan", {})["total"] == 0
    assert len(load_pair_folder(desk.folder).pairs) == 1
    assert refused(desk.edit, "d2", "drop", image=pair["chosen"]["id"]).status == 404
    desk.undo("d1", "u1")
    desk.undo("m1", "u2")
    assert desk.content() == before


def test_a_file_that_is_in_the_way_stops_a_change_before_it_begins(desk: Desk) -> None:
    desk.pair("1", "a cat", 1, suffixes=(".png", ".jpg"))
    desk.look()
    (pair,) = desk.pairs()
    (desk.folder / "chosen" / "1.jpg").write_bytes(b"not ours")
    before = desk.content()
    assert refused(desk.edit, "e1", "flip", pair=pair["pair"]).status == 409
    assert desk.content() == before and desk.ask.folder_edits("scan", {})["total"] == 0
    (desk.folder / "rejected" / "1.jpg").unlink()
    assert refused(desk.edit, "e2", "remove", pair=pair["pair"]).status == 409


def test_a_link_that_leads_out_is_never_followed_by_a_change(desk: Desk, tmp_path: Path) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    (pair,) = desk.pairs()
    (tmp_path / "elsewhere").mkdir()
    (desk.folder / ".dpo_review").symlink_to(tmp_path / "elsewhere")
    assert refused(desk.edit, "e1", "remove", pair=pair["pair"]).status == 409
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_a_journal_from_a_stranger_touches_nothing_outside(desk: Desk, tmp_path: Path) -> None:
    desk.pair("1", "a cat", 1)
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (desk.folder / ".dpo_review").mkdir()
    steps = [["write", "../outside.txt", "x"], ["move", str(outside), "chosen/x.txt"],
             ["move", "../outside.txt", "a.txt"]]  # fmt: skip
    lines = [
        json.dumps({"v": 1, "id": f"x{n}", "kind": "flip", "place": "", "what": "",
                    "step": "begun", "steps": [step]})
        for n, step in enumerate(steps)
    ]  # fmt: skip
    lines += ['{"v": 1, "id": "y", "step": "begun"}', "{", '{"v":1,"id":"z","steps":3}']
    (desk.folder / ".dpo_review" / "journal.jsonl").write_text("\n".join(lines) + "\n")
    desk.look()
    assert len(desk.pairs()) == 1 and outside.read_text() == "mine"
    assert not (desk.folder / "a.txt").exists() and len(desk.content()) == 2


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.lock"])
def test_a_journal_that_is_a_link_is_neither_followed_nor_written_to(
    name: str, desk: Desk, tmp_path: Path
) -> None:
    desk.pair("1", "a cat", 1)
    before, outside = desk.content(), tmp_path / "outside"
    begun = {"v": 1, "id": "x", "kind": "drop", "place": "", "what": "", "step": "begun",
             "steps": [["move", "chosen/1.png", "1.png"]]}  # fmt: skip
    outside.write_text(json.dumps(begun) + "\n")
    text = outside.read_text()
    (desk.folder / ".dpo_review").mkdir()
    (desk.folder / ".dpo_review" / name).symlink_to(outside)
    desk.look()
    (pair,) = desk.pairs()
    assert "is a link" in str(refused(desk.edit, "e1", "remove", pair=pair["pair"]))
    assert desk.content() == before and outside.read_text() == text


def test_a_journal_writes_over_no_file(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    (desk.folder / "chosen" / "1.txt").write_text("mine")
    (desk.folder / ".dpo_review").mkdir()
    begun = {"v": 1, "id": "x", "kind": "prompt", "place": "", "what": "", "step": "begun",
             "steps": [["write", "chosen/1.txt", "theirs"], ["write", "a\0b", "x"]]}  # fmt: skip
    odd = {**begun, "id": "y", "at": "yesterday"}
    lines = "".join(json.dumps(one) + "\n" for one in (begun, odd))
    (desk.folder / ".dpo_review" / "journal.jsonl").write_text(lines)
    desk.look()
    assert desk.pairs()[0]["prompt"] == "mine"
    assert [one["id"] for one in desk.ask.folder_edits("scan", {})["edits"]] == ["x"]


def test_a_change_is_finished_once_whoever_looks_at_the_folder_meanwhile(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    before, done = desk.content(), threading.Event()

    def look() -> None:
        while not done.is_set():
            FolderEdits(desk.folder).recover()

    others = [threading.Thread(target=look) for _ in range(3)]
    for one in others:
        one.start()
    edits = FolderEdits(desk.folder)
    try:
        for n in range(15):
            ours, theirs, aside = "chosen/1.png", "rejected/1.png", edits.kept(f"f{n}", "1.png")
            steps = [("move", ours, aside), ("move", theirs, ours), ("move", aside, theirs)]
            edits.make(f"f{n}", "flip", "1", "", steps)
            now = (desk.folder / ours).read_bytes()
            assert now == before["chosen/1.png" if n % 2 else "rejected/1.png"], n
    finally:
        done.set()
        for one in others:
            one.join()


def test_what_another_page_has_turned_round_is_not_turned_back(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    (pair,) = desk.pairs()
    other = Desk(desk.root)  # of another user: it has read the folder by itself
    before = desk.content()
    desk.edit("e1", "flip", pair=pair["pair"])
    asked = {"pair": pair["pair"], "chosen": pair["chosen"]["id"]}
    assert refused(other.edit, "e2", "flip", **asked).status == 409
    assert desk.content()["chosen/1.png"] == before["rejected/1.png"]


def test_nothing_is_changed_while_the_folder_is_still_being_read(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    (pair,) = desk.pairs()
    for number in range(40):
        write_generation(desk.folder / f"{number}.png", "other", number)
    desk.curation.scan.start()
    assert "still being read" in str(refused(desk.edit, "e1", "remove", pair=pair["pair"]))
    desk.curation.scan.wait(30)
    assert desk.edit("e1", "remove", pair=pair["pair"])["total"] == 1


def test_a_change_shows_even_if_the_folder_was_listed_just_before(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    review = FolderReview(
        desk.curation, *(SidePattern.parse(f"{side}/{{}}", side) for side in ("chosen", "rejected"))
    )
    (pair,) = review.pairs()
    for number in range(400):
        write_generation(desk.folder / f"{number}.png", "other", number)
    desk.curation.scan.start()
    while desk.curation.scan.status().state == "listing":
        time.sleep(0.001)
    assert desk.curation.scan.status().is_running
    review.edit("e1", "remove", pair, "")
    assert review.pairs() == []


def test_a_change_that_is_broken_off_is_finished_when_the_folder_is_looked_at_again(
    desk: Desk,
) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    (pair,) = desk.pairs()
    before = desk.content()
    program = (
        "import sys, pathlib, itertools\n"
        "from dpo_core.curation.folder_edits import FolderEdits\n"
        "edits = FolderEdits(pathlib.Path(sys.argv[1]))\n"
        "edits.recover()\n"
        "print('ready', flush=True)\n"
        "for n in itertools.count(int(sys.argv[2]) * 100000):\n"
        "    a, b, t = 'chosen/1.png', 'rejected/1.png', edits.kept(f'f{n}', 'x.png')\n"
        "    edits.make(f'f{n}', 'flip', '1', '',\n"
        "               [('move', a, t), ('move', b, a), ('move', t, b)])\n"
    )
    for run in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(desk.folder), str(run)], cwd=ROOT,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(0.01 * run)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        desk.look()
        (now,) = desk.pairs()
        assert now["problems"] == []
        assert sorted(desk.content().values()) == sorted(before.values())
    edits = FolderEdits(desk.folder).edits()
    assert len(edits) >= 12
    flipped = len(edits) % 2 == 1
    assert (desk.content()["chosen/1.png"] == before["rejected/1.png"]) == flipped
    assert now["pair"] == pair["pair"]


@pytest.mark.parametrize(("renamed", "marked"), [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2),
                                                 (3, 3)])  # fmt: skip
def test_a_change_broken_off_between_any_two_steps_is_finished_once(
    renamed: int, marked: int, tmp_path: Path
) -> None:
    ours, theirs, aside = "chosen/1.png", "rejected/1.png", ".dpo_review/kept/0/1.png"
    steps = [(ours, aside), (theirs, ours), (aside, theirs)]
    for name in (ours, theirs, aside):
        (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / ours).write_text("ours")
    (tmp_path / theirs).write_text("theirs")
    for source, target in steps[:renamed]:
        (tmp_path / source).rename(tmp_path / target)
    begun = {"id": "e1", "kind": "flip", "place": "1", "what": "", "step": "begun",
             "steps": [["move", *step] for step in steps]}  # fmt: skip
    marks = [{"id": f"e1/{number}", "kind": "step", "of": "e1"} for number in range(marked)]
    journal = tmp_path / ".dpo_review" / "journal.jsonl"
    journal.write_text("".join(json.dumps({"v": 1, **one}) + "\n" for one in (begun, *marks)))
    edits = FolderEdits(tmp_path)
    assert edits.recover() and not edits.recover()
    assert ((tmp_path / ours).read_text(), (tmp_path / theirs).read_text()) == ("theirs", "ours")
    edits.undo("e1", "u1")
    assert ((tmp_path / ours).read_text(), (tmp_path / theirs).read_text()) == ("ours", "theirs")


def test_the_pack_s_own_folders_and_bad_patterns_are_refused(desk: Desk) -> None:
    desk.pair("1", "a cat", 1)
    desk.look()
    (pair,) = desk.pairs()
    for pattern in ("", "x", "../{}", "/{}", "{}{}"):
        assert refused(desk.pairs, chosen_pattern=pattern).status == 400
    desk.ask._changes = lambda one: False
    assert refused(desk.edit, "e1", "remove", pair=pair["pair"]).status == 409
    assert refused(desk.undo, "e1", "u1").status == 409
