"""What goes out comes back: every field of every record, whatever it holds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dpo_core.exchange.image_folder import ImageFolder
from dpo_core.exchange.importing import import_folder
from dpo_core.exchange.onetrainer_layout import export_onetrainer
from dpo_core.exchange.preference_export import export_preferences
from dpo_core.pairs.problem import PairError
from dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup
from dpo_core.pairs.split import split_by_prompt

try:
    import pyarrow  # noqa: F401
except ImportError:
    PARQUET = pytest.param(
        "huggingface", export_preferences, marks=pytest.mark.skip(reason="pyarrow is missing")
    )
else:
    PARQUET = pytest.param("huggingface", export_preferences, id="huggingface")
LAYOUTS = pytest.mark.parametrize(
    ("layout", "export"),
    [pytest.param("onetrainer", export_onetrainer, id="onetrainer"), PARQUET],
)
Export = Callable[[PairSet, Path], Path]

PROMPTS = [
    "", "a cat", "two\nlines\r\nand three", "  spaces around  ",
    "Ünïcode, 猫, עברית, 🐈‍⬛ \u2028 end",
    'quotes " and \\ and <b>&amp;</b>', "<lora:x:0.8> a dog", "UNCONDITIONAL", "x" * 5000,
    "Negative prompt: none\nSteps: 20", "tab\tand\0nothing", "a cat.",
]  # fmt: skip
GROUPS = ["", "", "", "set 7", "группа"]


class Album:
    """Image files of all formats that keep their bytes, each with other pixels."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._count = folder, 0

    def picture(self) -> Picture:
        self._count += 1
        suffix = (".png", ".jpg", ".webp")[self._count % 3]
        path = self._folder / f"{self._count}{suffix}"
        shade = (self._count % 256, self._count // 256, 90)
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("parameters", f"prompt of its own {self._count}")
        options = {"pnginfo": chunks} if suffix == ".png" else {"quality": 90}
        Image.new("RGB", (24, 16), shade).save(path, **options)
        return Picture.from_file(path)


def mixed(seed: int, album: Album) -> PairSet:
    """Records of all kinds with all that they can hold."""
    draw = random.Random(seed)
    split = (lambda: draw.choice(["train", "val", None])) if seed % 2 else (lambda: None)

    def pair() -> Pair:
        return Pair(
            draw.choice(PROMPTS),
            album.picture(),
            album.picture(),
            draw.choice(GROUPS),
            draw.choice([1.0, 1.0, 0.5, 0.0, draw.random()]),
            split(),
            draw.choice(["", "session a: 3 votes", "ü\n"]),
            draw.choice([None, 0.0, -1.25, draw.gauss(0, 3)]),
        )

    def labelled() -> LabelledImage:
        liked, source = draw.random() < 0.5, draw.choice(["", "b"])
        prompt, group = draw.choice(PROMPTS), draw.choice(GROUPS)
        return LabelledImage(prompt, album.picture(), liked, group, split(), source)

    def ranked() -> RankedGroup:
        ratings = sorted((draw.choice([0.0, draw.gauss(0, 2)]) for _ in range(4)), reverse=True)
        pictures = tuple(album.picture() for _ in ratings)
        prompt, group = draw.choice(PROMPTS), draw.choice(GROUPS)
        return RankedGroup(prompt, pictures, tuple(ratings), group, split(), "c")

    return PairSet(
        tuple(pair() for _ in range(10)),
        tuple(labelled() for _ in range(5)),
        tuple(ranked() for _ in range(3)),
        (),
        tuple(pair() for _ in range(4)),
    )


def back(layout: str, folder: Path) -> PairSet:
    images = ImageFolder(folder.parent / "images")
    return import_folder(folder, images, lambda _: None, layout).pairs


@LAYOUTS
@pytest.mark.parametrize("seed", range(4))
def test_records_of_all_kinds_come_back_as_they_were(
    layout: str, export: Export, seed: int, tmp_path: Path
) -> None:
    records = mixed(seed, Album(tmp_path / "in"))
    folder = export(records, tmp_path / "out")
    found = back("auto", folder)
    assert found == records  # pictures are equal when their files are, byte for byte
    assert found.digest == records.digest
    if seed == 0:
        assert back(layout, export(found, tmp_path / "again")) == records


@LAYOUTS
def test_a_split_made_for_the_export_is_the_only_thing_added(
    layout: str, export: Export, tmp_path: Path
) -> None:
    records = mixed(0, Album(tmp_path / "in"))
    # Without groups that hold many prompts together.
    records = replace(records, pairs=tuple(replace(one, group="") for one in records.pairs))
    marked = split_by_prompt(replace(records, labelled=(), groups=(), ties=()), 30)
    found = back(layout, export(marked, tmp_path / "out"))
    assert found == marked and {one.split for one in found} == {"train", "val"}


@LAYOUTS
def test_pictures_in_memory_come_back_as_8_bit_pixels(
    layout: str, export: Export, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).random((2, 6, 8, 3), dtype=np.float32)
    pair = Pair("a cat", Picture.from_pixels(pixels[0]), Picture.from_pixels(pixels[1]))
    (found,) = back(layout, export(PairSet((pair,)), tmp_path / "out"))
    np.testing.assert_array_equal(found.chosen.pixels() * 255, np.rint(pixels[0] * 255))
    np.testing.assert_array_equal(found.rejected.pixels() * 255, np.rint(pixels[1] * 255))
    assert found.prompt == "a cat"


@LAYOUTS
def test_an_image_that_cannot_be_read_leaves_nothing_behind(
    layout: str, export: Export, tmp_path: Path
) -> None:
    album = Album(tmp_path / "in")
    good = Pair("good", album.picture(), album.picture())
    gone = Picture.from_file(tmp_path / "gone.png", size=(8, 6), digest="0" * 32)
    gone_too = Picture.from_file(tmp_path / "gone too.png", size=(8, 6), digest="1" * 32)
    gone_last = Picture.from_file(tmp_path / "gone last.png", size=(8, 6), digest="2" * 32)
    records = PairSet((good, Pair("b", gone, gone_too), good, Pair("c", good.chosen, gone_last)))
    with pytest.raises(PairError, match=r"(?s)gone\.png.*gone too\.png.*gone last\.png"):
        export(records, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@LAYOUTS
def test_an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(
    layout: str, export: Export, tmp_path: Path
) -> None:
    album = Album(tmp_path / "in")
    few = PairSet((Pair("a", album.picture(), album.picture()),))
    more = PairSet((*few.pairs, Pair("b", album.picture(), album.picture())))
    folder = export(few, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    export(few, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert back(layout, export(more, folder)) == more
    (folder / "mine.txt").write_text("x")
    with pytest.raises(PairError, match="no earlier export"):
        export(few, folder)
    assert (folder / "mine.txt").read_text() == "x"


@LAYOUTS
def test_nothing_to_export_is_told(layout: str, export: Export, tmp_path: Path) -> None:
    with pytest.raises(PairError, match="to export"):
        export(PairSet(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
