"""The dataset as other programs find it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpo_core.exchange import preference_export
from dpo_core.exchange.preference_export import export_preferences
from dpo_core.exchange.preference_table import label_0
from dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup

arrow = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def picture(folder: Path, name: str, shade: int = 0) -> Picture:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 6), (shade, len(name), 7)).save(folder / name)
    return Picture.from_file(folder / name)


def test_pairs_lie_in_the_columns_of_pick_a_pic(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    a, b = picture(inside, "a.jpg"), picture(inside, "b.png", 90)
    sure = Pair("two\nlines", a, b, "g", source="s", rating_gap=1.5)
    doubt = Pair("", a, b, "g", 0.25, split="val")
    records = PairSet((sure, doubt), (), (), (), (Pair("tie", a, b, "g"),))
    folder = export_preferences(records, tmp_path / "out")
    train = parquet.read_table(folder / "data/train-00000-of-00001.parquet")
    binary, string, number = arrow.binary(), arrow.string(), arrow.float64()
    assert dict(zip(train.schema.names, train.schema.types, strict=True)) == {
        "prompt": string, "caption": string, "jpg_0": binary, "jpg_1": binary,
        "label_0": number, "label_1": number, "has_label": arrow.bool_(), "is_tie": arrow.bool_(),
        "chosen_probability": number, "rating_gap": number, "group": string, "split": string,
        "source": string, "position": arrow.int64(),
    }  # fmt: skip
    jpg_0, jpg_1 = ((inside / name).read_bytes() for name in ("a.jpg", "b.png"))
    assert train.to_pylist() == [
        {
            "prompt": "two\nlines", "caption": "two\nlines", "jpg_0": jpg_0, "jpg_1": jpg_1,
            "label_0": 1.0, "label_1": 0.0, "has_label": True, "is_tie": False,
            "chosen_probability": 1.0, "rating_gap": 1.5, "group": "g", "split": None,
            "source": "s", "position": 0,
        },
        {
            "prompt": "tie", "caption": "tie", "jpg_0": jpg_0, "jpg_1": jpg_1,
            "label_0": 0.5, "label_1": 0.5, "has_label": True, "is_tie": True,
            "chosen_probability": 1.0, "rating_gap": None, "group": "g", "split": None,
            "source": "", "position": 2,
        },
    ]  # fmt: skip
    (held_out,) = parquet.read_table(folder / "data/validation-00000-of-00001.parquet").to_pylist()
    assert (held_out["label_0"], held_out["split"], held_out["position"]) == (0, "val", 1)


def test_a_pair_that_might_go_either_way_has_the_label_of_a_tie() -> None:
    labels = [label_0(probability, False) for probability in (1, 0.51, 0.5, 0.49, 0)]
    assert labels == [1, 1, 0.5, 0, 0] and label_0(1, True) == 0.5


def test_the_card_tells_load_dataset_of_every_table_and_split_and_claims_no_licence(
    tmp_path: Path,
) -> None:
    a, b = (picture(tmp_path / "in", name) for name in ("a.png", "bb.png"))
    records = PairSet(
        (Pair("x", a, b, split="train"), Pair("y", a, b, split="val")),
        (LabelledImage("x", a, True),),
        (RankedGroup("x", (a, b), (1, 0)),),
    )
    folder = export_preferences(records, tmp_path / "my <b>set")
    card = (folder / "README.md").read_text()
    own = """\
  - name: group
    dtype: string
  - name: split
    dtype: string
  - name: source
    dtype: string
  - name: position
    dtype: int64
"""
    assert card.startswith(f"""\
---
configs:
- config_name: default
  default: true
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: validation
    path: data/validation-*.parquet
- config_name: labelled
  data_files:
  - split: train
    path: labelled/train-*.parquet
- config_name: ranked
  data_files:
  - split: train
    path: ranked/train-*.parquet
dataset_info:
- config_name: default
  features:
  - name: prompt
    dtype: string
  - name: caption
    dtype: string
  - name: jpg_0
    dtype: image
  - name: jpg_1
    dtype: image
  - name: label_0
    dtype: float64
  - name: label_1
    dtype: float64
  - name: has_label
    dtype: bool
  - name: is_tie
    dtype: bool
  - name: chosen_probability
    dtype: float64
  - name: rating_gap
    dtype: float64
{own}- config_name: labelled
  features:
  - name: prompt
    dtype: string
  - name: image
    dtype: image
  - name: label
    dtype: bool
{own}- config_name: ranked
  features:
  - name: prompt
    dtype: string
  - name: images
    list: image
  - name: ratings
    list: float64
{own}---
""")
    assert "license:" not in card and "\n# my  b set\n" in card and "<b>" not in card
    assert "Rows: 1 in train, 1 in validation." in card


def test_labelled_images_alone_are_the_default(tmp_path: Path) -> None:
    records = PairSet((), (LabelledImage("x", picture(tmp_path / "in", "a.png"), False),))
    folder = export_preferences(records, tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"README.md", "export.json", "labelled"}
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n- config_name: labelled\n  default: true\n")


def test_formats_that_not_every_reader_knows_become_png(tmp_path: Path) -> None:
    for name in ("a.bmp", "b.tif"):
        picture(tmp_path / "in", name, len(name))
    a, b = (Picture.from_file(tmp_path / "in" / name) for name in ("a.bmp", "b.tif"))
    folder = export_preferences(PairSet((Pair("x", a, b),)), tmp_path / "out")
    (row,) = parquet.read_table(folder / "data").to_pylist()
    for column, original in (("jpg_0", a), ("jpg_1", b)):
        with Image.open(BytesIO(row[column])) as image:
            assert image.format == "PNG"
            np.testing.assert_allclose(np.asarray(image) / 255, original.pixels(), atol=1e-6)


def test_files_are_cut_at_their_size_and_written_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (picture(tmp_path / "in", name) for name in ("a.png", "bb.png"))
    row = sum(one.path.stat().st_size for one in (a, b) if one.path)
    monkeypatch.setattr(preference_export, "SHARD_BYTES", 4 * row)
    monkeypatch.setattr(preference_export, "ROW_GROUP_BYTES", 2 * row)
    records = PairSet(tuple(Pair(f"prompt {i}", a, b) for i in range(9)))
    folder = export_preferences(records, tmp_path / "out")
    files = sorted((folder / "data").iterdir())
    assert [file.name for file in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    metadata = [parquet.read_metadata(file) for file in files]
    assert [one.num_rows for one in metadata] == [4, 4, 1]
    assert [one.num_row_groups for one in metadata] == [2, 2, 1]


KILLED = """
import sys, time
from pathlib import Path
from PIL import Image
from dpo_core.exchange import preference_export
from dpo_core.pairs.record import Pair, PairSet, Picture
a, b = (Picture.from_file(Path(sys.argv[1]) / name) for name in ("a.png", "bb.png"))
preference_export.SHARD_BYTES = preference_export.ROW_GROUP_BYTES = 1
add, count = preference_export._Shards.add, []
def slow(self, row, size):
    add(self, row, size)
    count.append(row)
    if len(count) == 3:
        print("three files", flush=True)
        time.sleep(60)
preference_export._Shards.add = slow
records = PairSet(tuple(Pair(f"prompt {i}", a, b) for i in range(9)))
preference_export.export_preferences(records, Path(sys.argv[1]) / "out")
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process as POSIX does")
def test_a_kill_between_two_files_leaves_nothing_half(tmp_path: Path) -> None:
    a, b = (picture(tmp_path, name) for name in ("a.png", "bb.png"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout and process.stdout.readline() == b"three files\n"
        process.send_signal(signal.SIGKILL)
    target = tmp_path / "out"
    assert not target.exists()
    (left,) = tmp_path.glob(".out.*.part")
    assert len(list(left.rglob("*.parquet"))) == 3
    records = PairSet((Pair("x", a, b),))
    export_preferences(records, target)
    assert left.exists()  # it may be that of a program still at work
    for path in (left, *left.rglob("*")):
        os.utime(path, (time.time() - 4000,) * 2)
    more = PairSet((*records.pairs, Pair("y", a, b)))
    export_preferences(more, target)
    assert not left.exists() and len(parquet.read_table(target / "data")) == 2
