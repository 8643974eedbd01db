"""OneTrainer's folders, as its pair tool writes and reads them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dpo_core.curation.curation import CurationStore
from dpo_core.curation.folder_review import FolderReview
from dpo_core.exchange.image_folder import ImageFolder
from dpo_core.exchange.importing import import_folder, import_stamp
from dpo_core.exchange.onetrainer_layout import export_onetrainer
from dpo_core.pairs.folder import FolderReading, load_pair_folder
from dpo_core.pairs.pattern import SidePattern
from dpo_core.pairs.problem import PairError
from dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, prompt_group


def image(path: Path, shade: int, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 40, 90)).save(path)
    return path


def picture(path: Path, shade: int) -> Picture:
    return Picture.from_file(image(path, shade))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(folder: Path, allowed: tuple[Path, ...] = (), **options: Any) -> FolderReading:
    def check(text: str) -> Path | None:
        return Path(text) if Path(text) in allowed else None

    return import_folder(folder, ImageFolder(folder / "never"), check, **options)


def refusal(folder: Path, allowed: tuple[Path, ...] = (), **options: Any) -> str:
    with pytest.raises(PairError) as error:
        read(folder, allowed, **options)
    return str(error.value)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Out


def test_the_folder_is_the_one_the_pair_tool_writes(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "in/a.jfif", 1), picture(tmp_path / "in/b.png", 90)
    records = PairSet(
        (
            Pair("two\nlines", a, b, "g", 0.7, "train", "s", 1.5),
            Pair("", b, a, "g", split="val"),
            Pair("x", a, b, "g"),
        ),
        (LabelledImage("x", a, True, "g"),),
        ties=(Pair("x", a, b, "g"),),
    )
    folder = export_onetrainer(records, tmp_path / "out")
    assert names(folder) == sorted([
        "chosen/train/pair_0000.jpg", "chosen/train/pair_0000.txt", "chosen/train/pair_0002.jpg",
        "chosen/train/pair_0002.txt", "chosen/val/pair_0001.png", "chosen/val/pair_0001.txt",
        "concepts.json", "concepts_patterns.json", "export.json", "manifest.json",
        f"others/{a.digest}.jfif", f"others/{b.digest}.png", "preferences.jsonl",
        "rejected/train/pair_0000.png", "rejected/train/pair_0000.txt",
        "rejected/train/pair_0002.png", "rejected/train/pair_0002.txt",
        "rejected/val/pair_0001.jpg", "rejected/val/pair_0001.txt",
    ])  # fmt: skip
    for side in ("chosen", "rejected"):
        assert (folder / side / "train/pair_0000.txt").read_text() == "two lines"
        assert (folder / side / "val/pair_0001.txt").read_text() == ""
    in_a, in_b = tmp_path / "in/a.jfif", tmp_path / "in/b.png"
    assert (folder / "chosen/train/pair_0000.jpg").read_bytes() == in_a.read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["pairs"][0] == {
        "pair_id": 0, "prompt": "two\nlines", "aspectratio": "4:3",
        "chosen_file": "pair_0000.jpg", "chosen_source": None, "chosen_sha256": sha256(in_a),
        "chosen_size": in_a.stat().st_size,
        "rejected_file": "pair_0000.png", "rejected_source": None, "rejected_sha256": sha256(in_b),
        "rejected_size": in_b.stat().st_size,
        "dpo": {
            "chosen_probability": 0.7, "rating_gap": 1.5, "group": "g", "split": "train",
            "source": "s",
        },
    }  # fmt: skip
    reading = load_pair_folder(folder)
    assert [(one.chosen_probability, one.split) for one in reading.pairs] == [
        (0.7, "train"), (1, "train"), (1, "val"),
    ]  # fmt: skip


def test_both_lists_of_concepts_name_what_is_there(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "in/a.png", 1), picture(tmp_path / "in/b.png", 90)
    both = (Pair("x", a, b, split="train"), Pair("y", a, b, split="val"))
    folder = export_onetrainer(PairSet(both), tmp_path / "out")
    concepts = json.loads((folder / "concepts.json").read_text())
    assert [(one["type"], one["path"], one["enabled"]) for one in concepts] == [
        ("DPO_CHOSEN", str(folder / "chosen/train"), True),
        ("DPO_REJECTED", str(folder / "rejected/train"), True),
        ("DPO_CHOSEN_VAL", str(folder / "chosen/val"), True),
        ("DPO_REJECTED_VAL", str(folder / "rejected/val"), True),
    ]
    patterns = json.loads((folder / "concepts_patterns.json").read_text())
    assert [
        (one["type"], one["path"], one["dpo_chosen_pattern"], one["dpo_rejected_pattern"])
        for one in patterns
    ] == [
        ("STANDARD", str(folder), "chosen/train/{}", "rejected/train/{}"),
        ("VALIDATION", str(folder), "chosen/val/{}", "rejected/val/{}"),
    ]
    for one in (*concepts, *patterns):
        assert one["image"]["enable_crop_jitter"] is False and one["__version"] == 2
    # Without a pair for validation there is no concept for it: OneTrainer would find it empty.
    folder = export_onetrainer(PairSet(both[:1]), tmp_path / "train only")
    assert len(json.loads((folder / "concepts.json").read_text())) == 2
    assert len(json.loads((folder / "concepts_patterns.json").read_text())) == 1


# In: the pair tool's list


class PairTool:
    """A folder as the pair tool leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []

    def add(self, prompt: str, caption: str | None, split: str = "", **more: Any) -> dict[str, Any]:
        number = len(self.entries)
        name = f"pair_{number:04d}"
        entry = {
            "pair_id": number, "prompt": prompt, "aspectratio": "4:3",
            "chosen_file": f"{name}.png", "rejected_file": f"{name}.jpg",
            **more,
        }  # fmt: skip
        for side, suffix, shade in (("chosen", "png", 1), ("rejected", "jpg", 120)):
            path = image(self.folder / side / split / f"{name}.{suffix}", shade + number)
            if caption is not None and side == "chosen":
                path.with_suffix(".txt").write_text(caption)
        self.entries.append(entry)
        return entry

    def save(self, **more: Any) -> Path:
        text = json.dumps({"pairs": self.entries, **more}, indent=2)
        (self.folder / "manifest.json").write_text(text)
        return self.folder


def test_a_list_of_the_pair_tool_is_read(tmp_path: Path) -> None:
    tool = PairTool(tmp_path / "pairs")
    tool.add("<lora:x:1> a cat", "a cat", "train")
    tool.add("two\nlines", "two\nlines", "train")
    tool.add("UNCONDITIONAL", "UNCONDITIONAL", "val")
    tool.add("as listed", "as corrected later", "val")
    tool.add("no caption", None)
    image(tool.folder / "chosen/stray.png", 77)
    reading = read(tool.save())
    assert [(one.prompt, one.split, one.source) for one in reading.pairs] == [
        ("a cat", "train", "chosen/train/pair_0000.png"),
        ("two\nlines", "train", "chosen/train/pair_0001.png"),
        ("", "val", "chosen/val/pair_0002.png"),
        ("as corrected later", "val", "chosen/val/pair_0003.png"),
        ("no caption", None, "chosen/pair_0004.png"),
    ]
    assert reading.pairs[2].group == prompt_group("")
    assert "not in the list: 1 image (chosen/stray.png)" in reading.report


def test_everything_missing_or_wrong_in_a_list_is_told_at_once(tmp_path: Path) -> None:
    tool = PairTool(tmp_path / "pairs")
    image(tmp_path / "secret.png", 5)
    gone, climbing, absolute = (tool.add("a", "a") for _ in range(3))
    (tool.folder / "chosen" / gone["chosen_file"]).unlink()
    climbing["chosen_file"] = "../../secret.png"
    absolute["rejected_file"] = str(tmp_path / "secret.png")
    torn = tool.add("a", "a", "train")
    (tool.folder / "rejected/val").mkdir(parents=True)
    (tool.folder / "rejected/train" / torn["rejected_file"]).rename(
        tool.folder / "rejected/val" / torn["rejected_file"]
    )
    same = tool.add("same", "same")
    data = (tool.folder / "chosen" / same["chosen_file"]).read_bytes()
    (tool.folder / "rejected" / same["rejected_file"]).write_bytes(data)
    tool.add("soft", "soft", dpo={"chosen_probability": 2})
    tool.add("good", "good")
    tool.entries += [{"prompt": 1}, "no entry", {"prompt": "a", "chosen_file": "a.png"}]  # type: ignore[list-item]
    folder = tool.save()
    text = refusal(folder)
    for told in (
        "An image of the list is missing (3):", "manifest.json, pair 0: chosen/pair_0000.png",
        "pair 1: chosen/../../secret.png", f"pair 2: rejected/{tmp_path}/secret.png",
        "A pair is split between train and val:\n  - chosen/train/pair_0003.png",
        "The same image on both sides:\n  - chosen/pair_0004.png",
        "What is known of a pair cannot be understood:\n  - manifest.json, pair 5",
        "An entry of the list cannot be understood (3):\n  - manifest.json, pair 7",
    ):  # fmt: skip
        assert told in text, told
    reading = read(folder, on_problem="skip")
    assert [one.prompt for one in reading.pairs] == ["good"]
    assert len(reading.problems) == 9 and "Left out:" in reading.report


def test_a_missing_copy_is_read_where_it_was_made_only_if_allowed_and_unchanged(
    tmp_path: Path,
) -> None:
    source = image(tmp_path / "made/source.png", 200)
    tool = PairTool(tmp_path / "pairs")
    known = {"chosen_source": str(source), "chosen_sha256": sha256(source),
             "chosen_size": source.stat().st_size}  # fmt: skip
    entry = tool.add("a", None, "train", **known)
    (tool.folder / "chosen/train" / entry["chosen_file"]).unlink()
    folder = tool.save()
    assert "An image of the list is missing" in refusal(folder)
    reading = read(folder, (source.parent,))
    (pair,) = reading.pairs
    assert pair.chosen.path == source and pair.split == "train"
    assert "1 image read from where they were made" in reading.report
    image(source, 201)
    assert "An image of the list is missing" in refusal(folder, (source.parent,))
    outside = image(tmp_path / "outside.png", 200)
    source.unlink()
    source.symlink_to(outside)
    assert sha256(source) == known["chosen_sha256"]
    assert "An image of the list is missing" in refusal(folder, (source.parent,))


def _listed(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder of three pairs in a list, whose images are also where they were made."""
    folder, entries, sources = tmp_path / "listed", [], {}
    for number in range(3):
        entry: dict[str, Any] = {"prompt": f"p{number}"}
        for side, kind, shade in (("chosen", "png", 10), ("rejected", "jpg", 90)):
            source = image(tmp_path / "made" / f"{side}{number}.{kind}", shade + number)
            copy = folder / side / f"pair_{number}.{kind}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
            sources[f"{side}{number}"] = source.read_bytes()
            entry |= {f"{side}_file": copy.name, f"{side}_source": str(source),
                      f"{side}_sha256": sha256(source), f"{side}_size": source.stat().st_size}
        entries.append(entry)
    (folder / "manifest.json").write_text(json.dumps({"pairs": entries}))
    return folder, sources


def test_what_a_review_changed_is_not_undone_by_the_list(tmp_path: Path) -> None:
    folder, sources = _listed(tmp_path)
    curation = CurationStore(tmp_path / "curation").open(folder)
    curation.scan.start()
    assert curation.scan.wait(30)
    review = FolderReview(
        curation, *(SidePattern.parse(f"{side}/{{}}", side) for side in ("chosen", "rejected"))
    )
    one, other, _ = review.pairs()
    review.edit("e1", "remove", one, "")
    review.edit("e2", "flip", other, "")
    reading = read(folder, (tmp_path / "made",))
    assert [pair.prompt for pair in reading.pairs] == ["p1", "p2"] and reading.problems == ()
    assert "1 pair left out that a review has removed" in reading.report
    assert Path(str(reading.pairs.pairs[0].chosen.path)).read_bytes() == sources["rejected1"]
    review.undo("e1", "u1")
    review.undo("e2", "u2")
    assert [pair.prompt for pair in read(folder).pairs] == ["p0", "p1", "p2"]


def test_damaged_records_besides_pairs_are_told(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "in/a.png", 1), picture(tmp_path / "in/b.png", 90)
    records = PairSet(
        (Pair("x", a, b),), (LabelledImage("x", a, True),), ties=(Pair("x", a, b),)
    )
    folder = export_onetrainer(records, tmp_path / "out")
    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    for kind, field, value in (
        ("ties", "chosen_file", "../in/a.png"), ("ties", "chosen_file", ["a"]),
        ("ties", "chosen_probability", "no"), ("ties", "rejected_file", f"{a.digest}.png"),
        ("labelled", "liked", 1), ("labelled", "split", "test"), ("labelled", "group", "g" * 201),
        ("labelled", "prompt", None), ("groups", "files", [f"{a.digest}.png"] * 2),
    ):  # fmt: skip
        changed = json.loads(json.dumps(whole))
        entries = changed["dpo"][kind] or [{"prompt": "", "ratings": [0, 1]}]
        entries[0][field] = value
        changed["dpo"][kind] = entries
        path.write_text(json.dumps(changed))
        text = refusal(folder)
        assert kind in text or "missing" in text or "same image" in text, (kind, field)
        assert read(folder, on_problem="skip").pairs[0].prompt == "x"
    path.write_text(json.dumps({**whole, "dpo": {"ties": "none", "labelled": [None]}}))
    assert "cannot be understood (2)" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"pairs": 1}', "[" * 100_000, "\xff\xfe"])
def test_a_damaged_list_is_told(text: str, tmp_path: Path) -> None:
    PairTool(tmp_path / "pairs").add("a", "a")
    (tmp_path / "pairs/manifest.json").write_text(text, encoding="latin-1")
    assert "manifest.json" in refusal(tmp_path / "pairs")


def test_a_list_that_is_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    tool = PairTool(tmp_path / "pairs")
    tool.add("a", "a")
    (tool.save() / "manifest.json").rename(tmp_path / "outside.json")
    (tool.folder / "manifest.json").symlink_to(tmp_path / "outside.json")
    assert "A link leads out of the folder" in refusal(tool.folder)


# In: lists of concepts


def concepts(folder: Path, *listed: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "concepts.json").write_text(json.dumps([{"name": "x", **one} for one in listed]))
    return folder


def test_concepts_of_four_types_are_paired_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    places = []
    for i, type_ in enumerate(("DPO_CHOSEN", "DPO_REJECTED", "DPO_CHOSEN_VAL", "DPO_REJECTED_VAL")):
        image(folder / f"{i}/sub/a.png", 10 * i)
        if i % 2 == 0:
            (folder / f"{i}/sub/a.txt").write_text(f"prompt {i}")
        places.append({"type": type_, "path": str(folder / str(i))})
    off = {"type": "DPO_CHOSEN", "path": str(folder / "0"), "enabled": False}
    standard = {"type": "STANDARD", "path": "/anywhere"}
    concepts(folder, off, standard, *places)
    reading = read(folder)
    assert [(one.prompt, one.split) for one in reading.pairs] == [
        ("prompt 0", "train"), ("prompt 2", "val"),
    ]  # fmt: skip
    assert reading.pairs[0].rejected.path == folder / "1/sub/a.png"
    # Sizes are compared although both images have the same name in their own folders.
    image(folder / "1/sub/a.png", 9, (9, 6))
    assert "0/sub/a.png is 8 x 6, project/1/sub/a.png is 9 x 6" in refusal(folder)
    concepts(folder, *places[:3])
    assert "There are 1 chosen but 0 rejected concepts" in refusal(folder)


def test_concepts_with_patterns_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for split, shade in (("train", 0), ("val", 50)):
        image(folder / f"{split}/a_good.png", shade)
        image(folder / f"{split}/a_bad.png", shade + 1)
    listed = [
        {"type": type_, "path": str(folder), "dpo_chosen_pattern": f"{split}/{{}}_good",
         "dpo_rejected_pattern": f"{split}/{{}}_bad"}
        for split, type_ in (("train", "STANDARD"), ("val", "VALIDATION"))
    ]  # fmt: skip
    pairs = read(concepts(folder, *listed)).pairs
    assert [one.split for one in pairs] == ["train", "val"]
    pairs = read(concepts(folder, listed[0])).pairs
    assert [one.split for one in pairs] == [None]
    wrong = {**listed[0], "dpo_chosen_pattern": "../{}"}
    assert "leads out of the folder" in refusal(concepts(folder, wrong))


def test_folders_of_concepts_are_read_where_allowed_or_found_beside_the_list(
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    image(elsewhere / "chosen/a.png", 1)
    image(elsewhere / "rejected/a.png", 2)
    listed = [
        {"type": f"DPO_{side.upper()}", "path": str(elsewhere / side)}
        for side in ("chosen", "rejected")
    ]
    folder = concepts(tmp_path / "project", *listed)
    text = refusal(folder)
    assert "missing, or may not be read from here (2)" in text
    assert str(elsewhere / "chosen") in text and str(elsewhere / "rejected") in text
    allowed = (elsewhere / "chosen", elsewhere / "rejected")
    assert len(read(folder, allowed).pairs) == 1
    # Moved, and written on another system.
    image(folder / "chosen/train/b.png", 3)
    image(folder / "rejected/train/b.png", 4)
    moved = [
        {"type": f"DPO_{side.upper()}", "path": f"D:\\me\\{side}\\train"}
        for side in ("chosen", "rejected")
    ]
    (pair,) = read(concepts(folder, *moved)).pairs
    assert pair.chosen.path == folder / "chosen/train/b.png"
    for path in ("../elsewhere/chosen", "a\0b", "", 5):
        climbing = [{**one, "path": path} for one in listed]
        assert "may not be read from here" in refusal(concepts(folder, *climbing))
    (folder / "link").symlink_to(tmp_path)
    linked = [{**one, "path": "/x/link/elsewhere"} for one in listed]
    assert "may not be read from here" in refusal(concepts(folder, *linked))


@pytest.mark.parametrize("text", ["{}", "[1, null]", "[]", '[{"type": []}]', "nonsense"])
def test_a_list_without_preferences_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "concepts.json").write_text(text)
    assert "concepts.json" in refusal(tmp_path)


# Which it is


def test_a_folder_without_lists_is_read_by_its_names(tmp_path: Path) -> None:
    for side, shade in (("chosen", 1), ("rejected", 2)):
        image(tmp_path / "pairs" / side / "val/a.png", shade)
    assert [one.split for one in read(tmp_path / "pairs").pairs] == ["val"]


def test_what_holds_both_layouts_has_to_be_chosen(tmp_path: Path) -> None:
    tool = PairTool(tmp_path / "pairs")
    tool.add("a", "a")
    folder = tool.save()
    (folder / "a.parquet").write_bytes(b"")
    assert "Choose a layout" in refusal(folder)
    assert len(read(folder, layout="onetrainer").pairs) == 1


def test_the_stamp_changes_with_every_file_that_is_read(tmp_path: Path) -> None:
    tool = PairTool(tmp_path / "pairs")
    tool.add("a", "a")
    folder = tool.save()
    stamps = [import_stamp(folder, lambda _: None)]

    def changed() -> bool:
        stamps.append(import_stamp(folder, lambda _: None))
        return stamps[-1] not in stamps[:-1]

    assert not changed()
    (folder / "chosen/pair_0000.txt").write_text("another prompt")
    assert changed()
    tool.entries[0]["prompt"] = "a longer prompt"
    tool.save()
    assert changed()
    (folder / "a.parquet").write_bytes(b"")
    assert changed()
    concepts(folder, {"type": "STANDARD"})
    assert changed()
