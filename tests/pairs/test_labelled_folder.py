from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from dpo_core.pairs.labelled_folder import load_labelled_folder
from dpo_core.pairs.problem import PairError


def image(path: Path, shade: int, prompt: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngImagePlugin.PngInfo()
    if prompt is not None:
        info.add_text("parameters", f"{prompt}\nSteps: 20")
    options = {"pnginfo": info} if path.suffix == ".png" else {}
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(path, **options)
    return path


def refusal(liked: Path | str, disliked: Path | str) -> str:
    with pytest.raises(PairError) as caught:
        load_labelled_folder(liked, disliked)
    return str(caught.value)


def test_every_image_is_a_record_with_its_prompt_label_and_split(tmp_path: Path) -> None:
    liked, disliked = tmp_path / "good", tmp_path / "bad"
    image(liked / "a.png", 1, "from metadata")
    image(liked / "b.jpg", 2).with_suffix(".txt").write_text("from a\ncaption")
    image(disliked / "val/a.png", 3, "ignored").with_suffix(".txt").write_text("the caption")
    image(disliked / "deep/down/c.webp", 4)
    (disliked / "alone.txt").write_text("x")
    reading = load_labelled_folder(liked, disliked)
    assert [
        (one.source, one.prompt, one.liked, one.split) for one in reading.pairs.labelled
    ] == [
        ("liked: a.png", "from metadata", True, None),
        ("liked: b.jpg", "from a caption", True, None),
        ("disliked: deep/down/c.webp", "", False, None),
        ("disliked: val/a.png", "the caption", False, "val"),
    ]
    assert reading.pairs.labelled[0].picture.size == (8, 6)
    assert reading.report == (
        "4 labelled images: 2 liked, 2 disliked\n"
        "prompts: 2 from caption files, 1 from image metadata, "
        "1 without caption and without metadata, left empty\n"
        "split: 1 val\n"
        "lying beside no image: 1 caption (alone.txt)"
    )


def test_one_side_may_be_left_out_but_not_both(tmp_path: Path) -> None:
    image(tmp_path / "bad/a.png", 1)
    assert [one.liked for one in load_labelled_folder("", tmp_path / "bad").pairs.labelled] == [
        False
    ]
    assert "No folder given" in refusal("", " ")


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    liked, disliked = tmp_path / "good", tmp_path / "bad"
    image(liked / "a.png", 1)
    image(liked / "same.png", 2)
    image(disliked / "same too.png", 2)
    (liked / "empty.png").touch()
    (disliked / "b.gif").write_bytes(b"GIF")
    image(disliked / "c.png", 3).with_suffix(".txt").write_bytes(b"\xff\xff\xfa")
    image(disliked / "train/d.png", 4)
    image(disliked / "val/d.png", 4)
    message = refusal(liked, disliked)
    for told in (
        "liked and disliked", "liked: same.png and disliked: same too.png", "zero bytes",
        ".gif files are not read", "c.txt", "The same image in two splits",
    ):  # fmt: skip
        assert told in message, told
    reading = load_labelled_folder(liked, disliked, on_problem="skip")
    assert [one.source for one in reading.pairs.labelled] == [
        "liked: a.png", "disliked: train/d.png",
    ]  # fmt: skip
    assert "Left out:" in reading.report and len(reading.problems) == 5


def test_folders_that_are_missing_empty_or_one_in_the_other_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "good/a.png", 1)
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refusal(tmp_path / "good", tmp_path / "nowhere")
    assert "disliked: " in refusal(tmp_path / "good", tmp_path / "empty")
    assert "Both folders are the same" in refusal(tmp_path / "good", tmp_path / "good")
    assert "lies in the other" in refusal(tmp_path / "good", tmp_path)
    with pytest.raises(ValueError, match="on_problem"):
        load_labelled_folder(tmp_path / "good", "", "maybe")


def test_the_same_image_under_two_prompts_is_two_records_and_a_copy_is_one(
    tmp_path: Path,
) -> None:
    for name, caption in (("a", "x"), ("b", "x"), ("c", "y")):
        image(tmp_path / f"good/{name}.png", 1).with_suffix(".txt").write_text(caption)
    reading = load_labelled_folder(tmp_path / "good", "")
    assert [one.prompt for one in reading.pairs.labelled] == ["x", "y"]
    assert "1 image left out as exact copies" in reading.report
