"""Datasets as other people publish them, and as they should not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dpo_core.exchange import image_folder, preference_file, preference_import
from dpo_core.exchange.image_folder import ImageFolder
from dpo_core.exchange.preference_export import export_preferences
from dpo_core.exchange.preference_import import import_preferences
from dpo_core.pairs.folder import FolderReading
from dpo_core.pairs.image_file import file_digest
from dpo_core.pairs.problem import PairError
from dpo_core.pairs.record import Pair, PairSet, Picture

arrow = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def image(shade: int, size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (shade, 40, 90)).save(file, format)
    return file.getvalue()


RED, BLUE, JPEG, WEBP = image(200), image(3), image(9, format="JPEG"), image(8, format="WEBP")


def write(path: Path, columns: Mapping[str, Any], **types: Any) -> Path:
    """A Parquet file of columns, the types of some of them given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    typed = {name: arrow.array(held, types.get(name)) for name, held in columns.items()}
    parquet.write_table(arrow.table(typed), path)
    return path


def pick_a_pic(path: Path, **columns: list[Any]) -> Path:
    """As yuvalkirstain/pickapic_v2 has it, some columns changed."""
    count = len(next(iter(columns.values())))
    held: dict[str, list[Any]] = {
        "are_different": [True] * count,
        "best_image_uid": ["uid"] * count,
        "caption": ["a cat"] * count,
        "has_label": [True] * count,
        "jpg_0": [RED] * count,
        "jpg_1": [BLUE] * count,
        "label_0": [1.0] * count,
        "label_1": [0.0] * count,
        "ranking_id": [7] * count,
        **columns,
    }
    return write(path, held, jpg_0=arrow.binary(), jpg_1=arrow.binary())


def read(folder: Path, **options: Any) -> FolderReading:
    return import_preferences(folder, ImageFolder(folder.parent / "images"), **options)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(PairError) as error:
        read(folder, **options)
    return str(error.value)


def content(picture: Picture) -> bytes:
    assert picture.path is not None
    return picture.path.read_bytes()


def test_pick_a_pic_is_read_with_its_labels_and_ties(tmp_path: Path) -> None:
    pick_a_pic(
        tmp_path / "set/data/train-00000-of-00001.parquet",
        caption=["one", "two\nlines", "tie", "not asked", "no label"],
        jpg_0=[RED, RED, JPEG, b"", RED],
        jpg_1=[BLUE, BLUE, WEBP, b"", BLUE],
        label_0=[1.0, 0.0, 0.5, 1.0, None],
        has_label=[True, True, True, False, True],
    )
    reading = read(tmp_path / "set")
    first, second = reading.pairs
    assert (first.prompt, content(first.chosen), content(first.rejected)) == ("one", RED, BLUE)
    assert (second.prompt, content(second.chosen)) == ("two\nlines", BLUE)
    assert second.chosen.digest == file_digest(BLUE) and second.chosen.size == (8, 6)
    (tie,) = reading.pairs.ties
    assert (tie.prompt, content(tie.chosen), content(tie.rejected)) == ("tie", JPEG, WEBP)
    assert first.source == "data/train-00000-of-00001.parquet, row 0" and first.split is None
    assert "2 rows without a label passed over" in reading.report
    assert "4 images, 0 MB" in reading.report and reading.problems == ()
    names = {path.suffix for path in (tmp_path / "images").iterdir()}
    assert names == {".png", ".jpg", ".webp"}


def test_chosen_and_rejected_are_read_as_image_columns_store_them(tmp_path: Path) -> None:
    held = [{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": None}]
    write(
        tmp_path / "set/a.parquet",
        {"prompt": ["x", None], "chosen": held, "rejected": held[::-1], "evolution": [1, 2]},
    )
    pairs = read(tmp_path / "set").pairs
    assert [(one.prompt, content(one.chosen)) for one in pairs] == [("x", RED), ("", BLUE)]


def test_every_bad_row_is_told_at_once_or_left_out(tmp_path: Path) -> None:
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    bad = {
        "no PNG, JPEG and WebP image": b"<svg onload=alert(1)>",
        "no PNG, JPEG and WebP image ": image(1, format="GIF"),
        "million pixels": bomb.getvalue(),
        "damaged or cut off": RED[:-30],
        "damaged or cut off (2)": JPEG[:-6],
        "jpg_0 holds no image": None,
        "The same image on both sides": BLUE,
        "Sizes differ": image(1, (9, 6)),
    }
    rows = len(bad)
    pick_a_pic(
        tmp_path / "set/a.parquet",
        caption=["a"] * rows + ["b", "c", "d" * 70_000, "good"],
        jpg_0=[*bad.values(), RED, RED, RED, RED],
        label_0=[1.0] * rows + [0.3, float("nan"), 1, 1],
    )
    text = refusal(tmp_path / "set")
    for told in bad:
        assert told.strip() in text
    for told in ("label_0 is 0.3", "label_0 is not a number", "caption is longer than 64 KB"):
        assert told in text
    for row in range(rows + 3):
        assert f"a.parquet, row {row}" in text
    reading = read(tmp_path / "set", on_problem="skip")
    assert [one.prompt for one in reading.pairs] == ["good"]
    assert len(reading.problems) == rows + 3 and "Left out:" in reading.report


def test_text_that_is_none_and_images_that_are_only_named_are_refused(tmp_path: Path) -> None:
    raw = arrow.array([b"\xff\xfe", b"fine"], arrow.binary()).cast(arrow.binary())
    text = arrow.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    columns = {"caption": text, "jpg_0": [RED] * 2, "jpg_1": [BLUE] * 2, "label_0": [1, 1]}
    write(tmp_path / "set/a.parquet", columns)
    named = [{"bytes": None, "path": "http://example.org/a.png"}]
    write(
        tmp_path / "set/b.parquet",
        {"prompt": ["x"], "chosen": named, "rejected": named},
        chosen=arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]),
        rejected=arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]),
    )
    told = refusal(tmp_path / "set")
    assert "caption is not UTF-8 text:\n  - a.parquet, row 0" in told
    assert "chosen only names an image:\n  - b.parquet, row 0" in told
    assert "nothing is downloaded" in told
    assert len(read(tmp_path / "set", on_problem="skip").pairs) == 1


def test_files_of_something_else_are_told_with_their_columns(tmp_path: Path) -> None:
    write(tmp_path / "set/talk.parquet", {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    write(tmp_path / "set/weather.parquet", {"day": [1], "label_0": [2]})
    write(tmp_path / "set/base64.parquet", {
        "caption": ["a"], "jpg_0": ["iVBORw0KGgo="], "jpg_1": ["iVBORw0KGgo="], "label_0": [1.0],
    })  # fmt: skip
    write(tmp_path / "set/digits.parquet", {"prompt": ["a"], "image": [RED], "label": [3]})
    (tmp_path / "set/broken.parquet").write_bytes(b"PAR1 but no more")
    text = refusal(tmp_path / "set")
    assert "image columns hold text (2):\n  - base64.parquet (jpg_0, jpg_1)\n  - talk" in text
    assert "not those of preferences (2):\n  - digits.parquet (prompt, image, label)" in text
    assert "weather.parquet (day, label_0)" in text and "jpg_0, jpg_1 and label_0" in text
    assert "The file is damaged:\n  - broken.parquet" in text
    (tmp_path / "empty").mkdir()
    assert "holds no Parquet files" in refusal(tmp_path / "empty")


def test_a_file_that_is_damaged_further_on_keeps_the_rows_before(tmp_path: Path) -> None:
    path = pick_a_pic(tmp_path / "set/a.parquet", caption=list(map(str, range(40))))
    parquet.write_table(parquet.read_table(path), path, row_group_size=10, compression="none")
    chunks = parquet.read_metadata(path).row_group(2)
    names = [chunks.column(i).path_in_schema for i in range(chunks.num_columns)]
    start = chunks.column(names.index("jpg_0")).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    assert "The file is damaged:\n  - a.parquet, row 20" in refusal(tmp_path / "set")
    kept = read(tmp_path / "set", on_problem="skip").pairs
    assert [one.prompt for one in kept] == list(map(str, range(20)))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = pick_a_pic(tmp_path / "outside.parquet", label_0=[1.0])
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.parquet").symlink_to(outside)
    assert "A link leads out of the folder" in refusal(tmp_path / "set")


def test_files_for_tests_are_kept_out_of_training_by_their_names(tmp_path: Path) -> None:
    for i, name in enumerate(
        ("data/train-00000-of-00001", "data/validation_unique-0", "Test/part-0", "data/dev")
    ):
        pick_a_pic(tmp_path / f"set/{name}.parquet", caption=[name], jpg_0=[image(100 + i)])
    assert {one.prompt: one.split for one in read(tmp_path / "set").pairs} == {
        "data/train-00000-of-00001": "train",
        "data/validation_unique-0": "val",
        "Test/part-0": "val",
        "data/dev": "val",
    }
    alone = tmp_path / "alone/data/test-00000-of-00001.parquet"
    pick_a_pic(alone, caption=["x"])
    assert [one.split for one in read(tmp_path / "alone").pairs] == [None]


def test_the_same_pair_for_training_and_for_validation_is_told(tmp_path: Path) -> None:
    pick_a_pic(tmp_path / "set/train.parquet", caption=["a", "b"])
    pick_a_pic(tmp_path / "set/validation.parquet", caption=["b"])
    text = refusal(tmp_path / "set")
    assert "two splits:\n  - train.parquet, row 1 and validation.parquet, row 0" in text
    kept = read(tmp_path / "set", on_problem="skip").pairs
    assert [(one.prompt, one.split) for one in kept] == [("a", "train"), ("b", "train")]


def test_copies_count_once(tmp_path: Path) -> None:
    pick_a_pic(tmp_path / "set/a.parquet", caption=["a", "a", "b"])
    reading = read(tmp_path / "set")
    assert len(reading.pairs) == 2
    assert "1 row left out as exact copies of another" in reading.report


def test_a_limit_reads_the_first_rows_and_lays_down_only_their_images(tmp_path: Path) -> None:
    images = [image(i) for i in range(50, 90)]
    pick_a_pic(tmp_path / "set/a.parquet", caption=list(map(str, range(20))), jpg_0=images[:20])
    pick_a_pic(tmp_path / "set/b.parquet", caption=list(map(str, range(20, 40))), jpg_0=images[20:])
    seen: list[tuple[int, int]] = []
    reading = read(tmp_path / "set", limit=21, progress=lambda *done: seen.append(done))
    assert [one.prompt for one in reading.pairs] == list(map(str, range(21)))
    assert len(list((tmp_path / "images").iterdir())) == 22
    assert "only the first 21 of 40 rows (limit)" in reading.report
    assert seen[0] == (8, 21) and seen[-1] == (21, 21)
    assert len(read(tmp_path / "set", limit=20).pairs) == 20  # the whole first file, no more
    everything = read(tmp_path / "set")
    assert len(everything.pairs) == 40 and "only the first" not in everything.report


def test_what_progress_raises_ends_the_reading(tmp_path: Path) -> None:
    pick_a_pic(tmp_path / "set/a.parquet", caption=list(map(str, range(30))))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "set", progress=stop)


def test_images_are_laid_down_once_and_mended(tmp_path: Path) -> None:
    pick_a_pic(tmp_path / "set/a.parquet", caption=["a"])
    chosen = read(tmp_path / "set").pairs[0].chosen.path
    assert chosen is not None and chosen.name == f"{file_digest(RED)}.png"
    os.utime(chosen, (1, 1))
    read(tmp_path / "set")
    assert chosen.stat().st_mtime == 1
    chosen.write_bytes(RED[:10])
    read(tmp_path / "set")
    assert chosen.read_bytes() == RED
    chosen.unlink()
    read(tmp_path / "set")
    assert chosen.read_bytes() == RED
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_a_disk_that_is_nearly_full_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick_a_pic(tmp_path / "set/a.parquet", caption=["a"])
    monkeypatch.setattr(image_folder, "LEAVE_FREE", 1 << 62)
    assert "room left on this disk" in refusal(tmp_path / "set", on_problem="skip")
    assert list((tmp_path / "images").iterdir()) == []


def test_a_small_file_that_stands_for_large_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference_file, "BATCH_BYTES", 0)
    one, other = image(1, (300, 300)), image(2, (300, 300))
    path = pick_a_pic(tmp_path / "set/a.parquet", jpg_0=[one] * 1000, jpg_1=[other] * 1000)
    rows = 100 * path.stat().st_size // len(one + other)
    assert rows < 900  # the file holds either image once
    text = refusal(tmp_path / "set")
    row = int(text.partition("a.parquet, row ")[2].split()[0])
    assert "over 100 times as large as itself" in text and rows // 2 < row < rows


def test_after_many_problems_the_rest_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference_import, "MAX_PROBLEMS", 10)
    monkeypatch.setattr(preference_import, "MAX_ROWS", 99)
    pick_a_pic(tmp_path / "set/a.parquet", jpg_0=[b"no"] * 100)
    text = refusal(tmp_path / "set", limit=50)
    assert "The rest was not looked at" in text and "row 15" in text and "row 16" not in text
    assert "more than 99 rows" in refusal(tmp_path / "set")


# Datasets of ours, changed by others


def own(tmp_path: Path) -> tuple[Path, Any]:
    pair = Pair("a", Picture.from_file(tmp_path / "a.png"), Picture.from_file(tmp_path / "b.png"))
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)
    folder = export_preferences(PairSet((pair,)), tmp_path / "set")
    path = folder / "data/train-00000-of-00001.parquet"
    return path, parquet.read_table(path)


def test_a_label_that_contradicts_the_columns_of_ours_is_told(tmp_path: Path) -> None:
    path, table = own(tmp_path)
    changes = {
        "label_0": (0.0, "label_0 contradicts"),
        "is_tie": (True, "label_0 contradicts"),
        "chosen_probability": (1.5, "not in 0..1"),
        "rating_gap": (float("inf"), "rating_gap is not a number"),
        "split": ("test", "neither train nor val"),
        "position": (None, "position is empty"),
    }
    for column, (value, told) in changes.items():
        index = table.schema.get_field_index(column)
        field = table.schema.field(column)
        changed = table.set_column(index, field, arrow.array([value], field.type))
        parquet.write_table(changed, path)
        assert told in refusal(tmp_path / "set"), column


def test_without_the_columns_of_ours_it_is_a_dataset_like_any_other(tmp_path: Path) -> None:
    path, table = own(tmp_path)
    parquet.write_table(table.drop_columns(["position", "is_tie"]), path)
    (pair,) = read(tmp_path / "set").pairs
    assert pair.prompt == "a" and pair.source.endswith("row 0")
    for column, type_ in (("group", arrow.int64()), ("is_tie", arrow.string())):
        index, held = table.schema.get_field_index(column), arrow.array([None], type_)
        parquet.write_table(table.set_column(index, column, held), path)
        assert read(tmp_path / "set").pairs[0].source.endswith("row 0"), column
