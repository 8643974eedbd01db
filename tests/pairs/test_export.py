from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dpo_core.metadata.reading import read_metadata
from dpo_core.pairs.export import export_pair_folder
from dpo_core.pairs.folder import folder_manifest, load_pair_folder
from dpo_core.pairs.labelled_folder import load_labelled_folder
from dpo_core.pairs.problem import PairError
from dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture


def grey(value: float) -> Picture:
    return Picture.from_pixels(np.full((6, 8, 3), value, dtype=np.float32))


def saved(path: Path, shade: int, **chunks: str) -> Picture:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngImagePlugin.PngInfo()
    for name, text in chunks.items():
        info.add_text(name, text)
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(path, **({"pnginfo": info} if chunks else {}))
    return Picture.from_file(path)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


PAIR = Pair("a cat", grey(0), grey(1), "set 7", 0.63, source="s", rating_gap=0.67)


def test_pairs_come_back_with_prompts_soft_labels_gaps_groups_and_splits(tmp_path: Path) -> None:
    records = PairSet(
        (
            PAIR,
            Pair("two\nlines", grey(0.2), grey(0.4), split="train"),
            Pair("", grey(0.6), grey(0.8), split="val"),
        )
    )
    folder = export_pair_folder(records, tmp_path / "out")
    assert names(folder) == [
        "chosen/0001.png", "chosen/0001.txt", "chosen/train/0002.png", "chosen/train/0002.txt",
        "chosen/val/0003.png", "chosen/val/0003.txt", "export.json", "preferences.jsonl",
        "rejected/0001.png", "rejected/train/0002.png", "rejected/val/0003.png",
    ]  # fmt: skip
    reading = load_pair_folder(folder)
    assert reading.problems == ()
    back = reading.pairs
    assert [pair.prompt for pair in back] == ["a cat", "two lines", ""]
    assert [pair.chosen_probability for pair in back] == [0.63, 1, 1]
    assert [pair.rating_gap for pair in back] == [0.67, None, None]
    assert [pair.split for pair in back] == [None, "train", "val"]
    assert back[0].group == "set 7"
    for before, after in zip(records, back, strict=True):
        np.testing.assert_allclose(after.chosen.pixels(), before.chosen.pixels(), atol=0.002)
        np.testing.assert_allclose(after.rejected.pixels(), before.rejected.pixels(), atol=0.002)
    assert read_metadata(folder / "chosen/0001.png").prompt == "a cat"


def test_files_keep_their_bytes_and_an_empty_prompt_stays_empty(tmp_path: Path) -> None:
    graph = "a cat\nNegative prompt: dog\nSteps: 20"
    chosen = saved(tmp_path / "in/a.png", 1, parameters=graph)
    rejected = saved(tmp_path / "in/b.jpg", 2)
    folder = export_pair_folder(PairSet((Pair("", chosen, rejected),)), tmp_path / "out")
    assert (folder / "chosen/0001.png").read_bytes() == (tmp_path / "in/a.png").read_bytes()
    assert (folder / "rejected/0001.jpg").read_bytes() == (tmp_path / "in/b.jpg").read_bytes()
    assert load_pair_folder(folder).pairs[0].prompt == ""


def test_labelled_images_come_back(tmp_path: Path) -> None:
    records = PairSet(
        (),
        (
            LabelledImage("a cat", grey(0), True),
            LabelledImage("a dog", grey(1), False, split="val"),
        ),
    )
    folder = export_pair_folder(records, tmp_path / "out")
    back = load_labelled_folder(folder / "liked", folder / "disliked").pairs.labelled
    assert [(one.prompt, one.liked, one.split) for one in back] == [
        ("a cat", True, None), ("a dog", False, "val"),
    ]  # fmt: skip


def test_the_same_export_again_leaves_the_files_alone_and_more_replaces_them(
    tmp_path: Path,
) -> None:
    target = tmp_path / "deep/out"
    folder = export_pair_folder(PairSet((PAIR,)), target)
    before = (folder / "chosen/0001.png").stat().st_mtime_ns
    export_pair_folder(PairSet((PAIR,)), target)
    assert (folder / "chosen/0001.png").stat().st_mtime_ns == before
    more = PairSet((PAIR, Pair("b", grey(0.1), grey(0.2))))
    assert len(load_pair_folder(export_pair_folder(more, target)).pairs) == 2
    surer = PairSet((dataclasses.replace(PAIR, chosen_probability=0.9),))
    assert load_pair_folder(export_pair_folder(surer, target)).pairs[0].chosen_probability == 0.9
    assert os.listdir(target.parent) == ["out"]


def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    export_pair_folder(PairSet((PAIR,)), target)  # an empty folder is fine
    other = PairSet((Pair("b", grey(0.1), grey(0.2)),))
    for change in ("mine.txt", "chosen/0001.txt"):
        path = target / change
        before = path.read_text() if path.exists() else None
        path.write_text("a dog")  # as long as the caption it may replace
        with pytest.raises(PairError, match="no earlier export"):
            export_pair_folder(other, target)
        assert path.read_text() == "a dog"
        path.unlink() if before is None else path.write_text(before)
    export_pair_folder(other, target)
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "link").symlink_to(target)
    for wrong in (file, tmp_path / "link"):
        with pytest.raises(PairError, match="file or link"):
            export_pair_folder(PairSet((PAIR,)), wrong)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "out"]


def test_an_image_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    gone = Picture.from_file(tmp_path / "gone.png", size=(8, 6), digest="0" * 32)
    gone_too = Picture.from_file(tmp_path / "gone too.png", size=(8, 6), digest="1" * 32)
    with pytest.raises(PairError, match=r"(?s)gone\.png.*gone too\.png"):
        export_pair_folder(PairSet((PAIR, Pair("b", gone, gone_too))), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_nothing_to_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="nothing to export"):
        export_pair_folder(PairSet(), tmp_path / "out")


# Soft labels as they are read


def test_a_damaged_soft_label_is_a_problem_and_a_change_is_noticed(tmp_path: Path) -> None:
    folder = export_pair_folder(PairSet((PAIR,)), tmp_path / "out")
    path = folder / "preferences.jsonl"
    record = json.loads(path.read_text())
    stamp = folder_manifest(folder)
    for line in (
        "{", "[]", json.dumps({**record, "chosen_probability": 1.5}),
        json.dumps({**record, "chosen_probability": True}), json.dumps({**record, "pair": 1}),
        json.dumps({**record, "rating_gap": "NaN"}), '{"pair": "0001", "rating_gap": NaN}',
        json.dumps({**record, "group": "g" * 201}),
    ):  # fmt: skip
        path.write_text(line + "\n")
        with pytest.raises(PairError, match=r"cannot be understood(?s:.*)line 1"):
            load_pair_folder(folder)
        assert load_pair_folder(folder, on_problem="skip").pairs[0].chosen_probability == 1
    assert folder_manifest(folder) != stamp
    path.write_text(f"{json.dumps(record)}\n\n{json.dumps(record)}\n")
    with pytest.raises(PairError, match=r"two soft labels(?s:.*)line 3 \(0001\)"):
        load_pair_folder(folder)
    path.write_text(json.dumps({"pair": "0001", "chosen_probability": 0.7, "later": [1]}))
    pair = load_pair_folder(folder).pairs[0]
    assert pair.chosen_probability == 0.7 and pair.group == Pair("a cat", grey(0), grey(1)).group
