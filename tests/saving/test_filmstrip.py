from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from PIL import Image

from dpo_core.saving.filmstrip import BASE, Filmstrip

PROMPTS = ["a warm sky", "a cold sea"]
SETTINGS = {"seed": 3, "cfg": 7.0}


def pictures(red: int) -> list[Image.Image]:
    return [Image.new("RGB", (32, 16), (red, 0, blue)) for blue in (10, 20)]


def opened(folder: Path, prompts: list[str] = PROMPTS, **settings: float) -> Filmstrip:
    return Filmstrip(folder / "previews", prompts, SETTINGS | settings)


def colour(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        assert image.size == (32, 16)
        return image.getpixel((5, 5))


def test_it_is_found_again_with_every_picture_under_its_name(tmp_path: Path) -> None:
    strip = opened(tmp_path)
    assert strip.strip is None and strip.steps == []
    strip.add(100, pictures(100))
    strip.add(BASE, pictures(0))
    strip.add(50, pictures(50))
    again = opened(tmp_path)
    assert again.steps == [50, 100] and again.has(BASE) and not again.has(0)
    folder = tmp_path / "previews"
    assert sorted(path.name for path in folder.iterdir()) == [
        "base_0.png", "base_1.png", "index.json", "step_00000050_0.png", "step_00000050_1.png",
        "step_00000100_0.png", "step_00000100_1.png", "strip.png",
    ]
    assert colour(folder / "step_00000050_1.png") == (50, 0, 20)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert index["columns"] == [
        {"step": None, "files": ["base_0.png", "base_1.png"]},
        {"step": 50, "files": ["step_00000050_0.png", "step_00000050_1.png"]},
        {"step": 100, "files": ["step_00000100_0.png", "step_00000100_1.png"]},
    ]
    assert (index["prompts"], index["settings"]) == (PROMPTS, SETTINGS)
    assert again.strip == folder / "strip.png"


def test_a_step_done_again_takes_its_place(tmp_path: Path) -> None:
    strip = opened(tmp_path)
    strip.add(50, pictures(1))
    strip.add(50, pictures(2))
    assert opened(tmp_path).steps == [50]
    assert colour(tmp_path / "previews" / "step_00000050_0.png") == (2, 0, 10)


@pytest.mark.parametrize(
    "other", [{"cfg": 1.0}, {"prompts": ["a warm sky"]}], ids=["settings", "prompts"]
)
def test_pictures_of_other_settings_are_kept_beside(tmp_path: Path, other: dict) -> None:
    opened(tmp_path).add(50, pictures(50))
    strip = opened(tmp_path, **other)
    assert strip.steps == [] and strip.strip is None
    assert not (tmp_path / "previews_1").exists()  # until there is something to show
    strip.add(100, pictures(100)[: len(other.get("prompts", PROMPTS))])
    assert strip.steps == [100]
    assert colour(tmp_path / "previews_1" / "step_00000050_0.png") == (50, 0, 10)
    assert not (tmp_path / "previews" / "step_00000050_0.png").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"columns": [{"step": "../x"}]}', '{"columns": 1}'])
def test_a_damaged_index_is_begun_anew(tmp_path: Path, text: str) -> None:
    opened(tmp_path).add(50, pictures(50))
    (tmp_path / "previews" / "index.json").write_text(text)
    strip = opened(tmp_path)
    assert strip.steps == []
    strip.add(100, pictures(100))
    assert opened(tmp_path).steps == [100]


def test_a_column_with_a_file_gone_is_none_and_a_damaged_one_stays_empty(tmp_path: Path) -> None:
    strip = opened(tmp_path)
    for step in (50, 100):
        strip.add(step, pictures(step))
    (tmp_path / "previews" / "step_00000050_1.png").unlink()
    (tmp_path / "previews" / "step_00000100_0.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    strip = opened(tmp_path)
    assert strip.steps == [100]
    strip.add(150, pictures(150))
    assert strip.steps == [100, 150]


def test_a_full_disk_leaves_the_columns_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip = opened(tmp_path)
    strip.add(50, pictures(50))
    save, calls = Image.Image.save, iter(range(100))

    def full(image: Image.Image, *args: object, **options: object) -> None:
        if next(calls) == 1:  # the second picture
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, *args, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        strip.add(100, pictures(100))
    monkeypatch.undo()
    assert opened(tmp_path).steps == [50]
    assert not [path for path in (tmp_path / "previews").iterdir() if ".part" in path.name]
    strip.add(100, pictures(100))
    assert opened(tmp_path).steps == [50, 100]


def test_what_another_strip_of_the_same_settings_has_is_taken_over(tmp_path: Path) -> None:
    before = opened(tmp_path / "before")
    for step in (BASE, 50, 100):
        before.add(step, pictures(max(step, 0)))
    strip = opened(tmp_path / "after")
    strip.adopt(before, (BASE, 100, 7))
    assert strip.has(BASE) and strip.steps == [100]
    assert colour(tmp_path / "after" / "previews" / "step_00000100_0.png") == (100, 0, 10)
    other = opened(tmp_path / "other", seed=4)
    other.adopt(before, (BASE, 100))
    assert not other.has(BASE) and not (tmp_path / "other").exists()
