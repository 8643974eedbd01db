from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from dpo_core.pairs.folder import FolderReading, folder_manifest, load_pair_folder
from dpo_core.pairs.problem import PairError

GOOD, BAD = (200, 40, 40), (40, 40, 200)


def image(path: Path, colour: tuple[int, int, int] = GOOD, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def pair(folder: Path, stem: str, caption: str | None = None, shade: int = 0) -> None:
    image(folder / f"chosen/{stem}.png", (200, 40, shade))
    image(folder / f"rejected/{stem}.png", (40, 200, shade))
    if caption is not None:
        (folder / f"chosen/{stem}.txt").write_text(caption, encoding="utf-8")


def sources(reading: FolderReading) -> list[str]:
    return [one.source for one in reading.pairs]


def refusal(folder: Path, *patterns: str) -> str:
    with pytest.raises(PairError) as caught:
        load_pair_folder(folder, *patterns)
    return str(caught.value)


# What is read


def test_equal_stems_pair_up_whatever_their_extensions(tmp_path: Path) -> None:
    image(tmp_path / "chosen/a.jpg")
    image(tmp_path / "rejected/a.WEBP", BAD)
    image(tmp_path / "chosen/cats/b.png", (1, 2, 3))
    image(tmp_path / "rejected/cats/b.bmp", BAD)
    reading = load_pair_folder(tmp_path)
    assert sources(reading) == ["chosen/a.jpg", "chosen/cats/b.png"]
    first = reading.pairs[0]
    assert first.chosen.path is not None and first.chosen.path.name == "a.jpg"
    assert first.rejected.path is not None and first.rejected.path.name == "a.WEBP"
    assert first.chosen.size == (8, 6)
    assert first.split is None and first.chosen_probability == 1.0
    assert reading.problems == ()


def test_facts_learnt_while_reading_are_those_of_the_file(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    known = load_pair_folder(tmp_path).pairs[0].chosen
    fresh = type(known).from_file(tmp_path / "chosen/a.png")
    assert (known.size, known.digest) == (fresh.size, fresh.digest)


@pytest.mark.parametrize("layout", ["{side}/{split}", "{split}/{side}"])
def test_train_and_val_folders_on_either_level_tag_the_split(tmp_path: Path, layout: str) -> None:
    for split, shade in (("train", 1), ("val", 2)):
        for side in ("chosen", "rejected"):
            folder = tmp_path / layout.format(side=side, split=split)
            image(folder / "a.png", (shade, len(side), 0))
    reading = load_pair_folder(tmp_path)
    assert [one.split for one in reading.pairs] == ["train", "val"]
    assert "split: 1 train, 1 val" in reading.report


def test_two_patterns_in_one_folder(tmp_path: Path) -> None:
    image(tmp_path / "a_good.png").with_suffix(".txt").write_text("a cat")
    image(tmp_path / "a_bad.jpg", BAD)
    image(tmp_path / "cover.png")
    reading = load_pair_folder(tmp_path, "{}_good", "{}_bad")
    assert sources(reading) == ["a_good.png"]
    assert reading.pairs[0].prompt == "a cat"
    assert "fitting neither pattern: 1 image (cover.png)" in reading.report


def test_accents_written_in_two_ways_are_one_name(tmp_path: Path) -> None:
    image(tmp_path / "chosen/caf\u00e9.png")
    image(tmp_path / "rejected/cafe\u0301.png", BAD)
    assert len(load_pair_folder(tmp_path).pairs) == 1


def test_hidden_files_thumbnails_and_other_files_are_passed_over(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    image(tmp_path / "chosen/.hidden.png")
    image(tmp_path / "chosen/.cache/b.png")
    image(tmp_path / "chosen/@eaDir/a.png")
    (tmp_path / "chosen/Thumbs.db").write_bytes(b"x")
    (tmp_path / "concepts.json").write_text("{}")
    reading = load_pair_folder(tmp_path)
    assert len(reading.pairs) == 1 and "neither" not in reading.report


def test_a_link_inside_the_folder_is_followed_and_a_loop_ends(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    (tmp_path / "chosen/b.png").symlink_to(tmp_path / "rejected/a.png")
    (tmp_path / "rejected/b.png").symlink_to(tmp_path / "chosen/a.png")
    (tmp_path / "chosen/loop").symlink_to(tmp_path)
    for name in ("A", "z"):  # before or after, a link must not hide the folder it leads to
        (tmp_path / name).symlink_to(tmp_path / "chosen")
    reading = load_pair_folder(tmp_path)
    assert sources(reading) == ["chosen/a.png", "chosen/b.png"]
    assert "1 pair contradicted" in reading.report


def test_order_and_digest_do_not_depend_on_when_files_were_made(tmp_path: Path) -> None:
    for name, stems in (("one", "abc"), ("two", "cab")):
        for stem in stems:
            pair(tmp_path / name, stem, shade=ord(stem))
    one, two = (load_pair_folder(tmp_path / name).pairs for name in ("one", "two"))
    assert one.digest == two.digest


def test_exact_copies_of_a_pair_count_once(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    pair(tmp_path, "copy_of_a")
    reading = load_pair_folder(tmp_path)
    assert sources(reading) == ["chosen/a.png"]
    assert "1 pair left out as exact copies" in reading.report


# Prompts


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"a cat\n", "a cat"),
        (b"\xef\xbb\xbfa cat", "a cat"),
        ("a cat, caf\u00e9".encode(), "a cat, caf\u00e9"),
        ("a cat".encode("utf-16"), "a cat"),
        (b"a cat,\r\n\r\n  on a mat \r\n", "a cat, on a mat"),
        (b"", ""),
        (b" \n", ""),
    ],
)
def test_the_caption_beside_the_chosen_image_is_the_prompt(
    tmp_path: Path, data: bytes, prompt: str
) -> None:
    pair(tmp_path, "a")
    (tmp_path / "chosen/a.txt").write_bytes(data)
    assert load_pair_folder(tmp_path).pairs[0].prompt == prompt


def with_parameters(path: Path, prompt: str, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"{prompt}\nNegative prompt: ugly\nSteps: 20, Seed: 1")
    Image.new("RGB", (8, 8), colour).save(path, pnginfo=info)


def test_without_captions_the_metadata_is_the_prompt_and_else_it_is_empty(tmp_path: Path) -> None:
    pair(tmp_path, "a", "a cat")
    with_parameters(tmp_path / "chosen/b.png", "a dog", GOOD)
    with_parameters(tmp_path / "rejected/b.png", "a dog", BAD)
    pair(tmp_path, "c", shade=7)
    reading = load_pair_folder(tmp_path)
    assert [one.prompt for one in reading.pairs] == ["a cat", "a dog", ""]
    assert (
        "prompts: 1 from caption files, 1 from image metadata, "
        "1 without caption and without metadata, left empty"
    ) in reading.report
    assert "1 pair with an empty prompt" in reading.report
    assert "beside no image" not in reading.report


def test_a_prompt_that_the_metadata_does_not_tell_for_certain_is_left_empty_and_said(
    tmp_path: Path,
) -> None:
    regional = "a cat\nNegative prompt: ugly\nSteps: 20, Seed: 1, RP Active: True"
    for side, colour in (("chosen", GOOD), ("rejected", BAD)):
        path = tmp_path / side / "a.png"
        path.parent.mkdir(parents=True)
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", regional)
        Image.new("RGB", (8, 8), colour).save(path, pnginfo=info)
    reading = load_pair_folder(tmp_path)
    assert [one.prompt for one in reading.pairs] == [""]
    assert (
        "prompts: 1 whose metadata does not tell the prompt for certain, left empty"
    ) in reading.report


def test_a_caption_goes_before_the_metadata_even_when_empty(tmp_path: Path) -> None:
    for stem, caption, shade in (("a", "mine", 1), ("b", "", 2)):
        with_parameters(tmp_path / f"chosen/{stem}.png", "from metadata", (200, 0, shade))
        image(tmp_path / f"rejected/{stem}.png", (0, 200, shade), (8, 8))
        (tmp_path / f"chosen/{stem}.txt").write_text(caption)
    assert [one.prompt for one in load_pair_folder(tmp_path).pairs] == ["mine", ""]


def test_a_caption_beside_the_rejected_image_serves_when_it_is_the_only_one(
    tmp_path: Path,
) -> None:
    pair(tmp_path, "a")
    (tmp_path / "rejected/a.txt").write_text("a cat")
    assert load_pair_folder(tmp_path).pairs[0].prompt == "a cat"


def test_captions_that_differ_only_in_line_breaks_are_equal(tmp_path: Path) -> None:
    pair(tmp_path, "a", "a cat\non a mat\n")
    (tmp_path / "rejected/a.txt").write_text("a cat on a mat")
    assert load_pair_folder(tmp_path).pairs[0].prompt == "a cat on a mat"


def test_a_caption_beside_no_image_is_told(tmp_path: Path) -> None:
    image(tmp_path / "a_good.png")
    image(tmp_path / "a_bad.png", BAD)
    (tmp_path / "a.txt").write_text("a cat")
    reading = load_pair_folder(tmp_path, "{}_good", "{}_bad")
    assert "lying beside no image: 1 caption (a.txt)" in reading.report


def test_captions_and_metadata_that_differ_between_the_sides_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", "a cat")
    (tmp_path / "rejected/a.txt").write_text("a dog")
    with_parameters(tmp_path / "chosen/b.png", "a cat", GOOD)
    with_parameters(tmp_path / "rejected/b.png", "a dog", BAD)
    text = refusal(tmp_path)
    assert (
        "Prompts differ between the sides (caption):\n  - chosen/a.png and rejected/a.png" in text
    )
    assert (
        "Prompts differ between the sides (metadata):\n  - chosen/b.png and rejected/b.png" in text
    )


def test_captions_that_are_no_text_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    (tmp_path / "chosen/a.txt").write_bytes(b"caf\xe9")
    pair(tmp_path, "b", "x" * 70_000)
    text = refusal(tmp_path)
    assert "Caption is not UTF-8 text:\n  - chosen/a.txt" in text
    assert "Caption is longer than 64 KB:\n  - chosen/b.txt" in text


# What is refused


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "There is no such folder" in refusal(tmp_path / "missing")
    assert "There is no such folder" in refusal(Path("a\0b"))
    file = tmp_path / "file"
    file.touch()
    assert "This is a file, not a folder" in refusal(file)
    with pytest.raises(PairError, match="No folder given"):
        load_pair_folder("  ")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chosen").mkdir()
    (tmp_path / "rejected").mkdir()
    (tmp_path / "chosen/a.txt").write_text("a cat")
    assert "The folder holds no images" in refusal(tmp_path)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"")
    assert "with the node Import Preferences" in refusal(tmp_path)


def test_missing_sides_are_told_once_with_what_was_found(tmp_path: Path) -> None:
    for i in range(30):
        image(tmp_path / f"Good/{i}.png")
    text = refusal(tmp_path)
    assert "No image fits the chosen pattern chosen/{}" in text
    assert "No image fits the rejected pattern rejected/{}" in text
    assert "found: Good" in text and "29.png" not in text


def test_bad_patterns_and_a_missing_folder_are_told_together(tmp_path: Path) -> None:
    text = refusal(tmp_path / "missing", "/abs/{}", "{}/{}")
    assert "The chosen pattern is an absolute path" in text
    assert "The rejected pattern needs exactly one {}" in text
    assert "There is no such folder" in text
    assert "Both patterns are the same" in refusal(tmp_path, "a/{}", "a/{}")


def truncated_png(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped_byte(path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncated_jpeg(path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:900])


def truncated_webp(path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(path, "WEBP", lossless=True)
    path.write_bytes(path.read_bytes()[:900])


def text_compression_bomb(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a" * 20_000_000, zip=True)
    Image.new("RGB", (8, 6)).save(path, pnginfo=info)


def pixel_bomb(path: Path, width: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda path: path.write_bytes(b""), "File is empty (zero bytes)"),
        (lambda path: path.write_text("no image"), "File is not an image of a known format"),
        (
            lambda path: Image.new("L", (8, 6)).save(path, "PPM"),
            "File is not an image of a known format",
        ),
        (truncated_png, "Image is damaged or cut off"),
        (flipped_byte, "Image is damaged or cut off"),
        (truncated_jpeg, "Image is damaged or cut off"),
        (truncated_webp, "Image is damaged or cut off"),
        (text_compression_bomb, "Image is damaged or cut off"),
        (lambda path: pixel_bomb(path, 30_000), "Image has more than 89 million pixels"),
    ],
)
def test_files_that_hold_no_whole_image_are_refused(
    tmp_path: Path, spoil: object, what: str
) -> None:
    pair(tmp_path, "a")
    pair(tmp_path, "b", shade=9)
    spoil(tmp_path / "rejected/b.png")  # type: ignore[operator]
    assert f"{what}:\n  - rejected/b.png" in refusal(tmp_path)
    reading = load_pair_folder(tmp_path, on_problem="skip")
    assert sources(reading) == ["chosen/a.png"]
    assert what in reading.report


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_between_pillows_warning_and_its_refusal_is_refused_too(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    pixel_bomb(tmp_path / "chosen/a.png", 10_000)
    assert "chosen/a.png (10000 x 10000)" in refusal(tmp_path)


def test_the_pixel_limit_holds_where_another_program_switched_pillows_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    pair(tmp_path, "a")
    pixel_bomb(tmp_path / "chosen/a.png", 30_000)
    assert "Image has more than 89 million pixels" in refusal(tmp_path)


def test_an_animated_png_of_whole_frames_is_read(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    frames = [Image.new("RGB", (8, 6), colour) for colour in (GOOD, BAD)]
    frames[0].save(tmp_path / "chosen/a.png", save_all=True, append_images=frames[1:])
    chosen = load_pair_folder(tmp_path).pairs[0].chosen
    assert chosen.pixels()[0, 0, 0] == pytest.approx(200 / 255)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside = image(tmp_path / "outside/a.png", BAD)
    folder = tmp_path / "pairs"
    image(folder / "chosen/a.png")
    (folder / "rejected").mkdir()
    (folder / "rejected/a.png").symlink_to(outside)
    (folder / "more").symlink_to(tmp_path / "outside")
    (folder / "chosen/a.txt").symlink_to(outside)
    text = refusal(folder)
    assert "A link leads out of the folder (3)" in text
    for name in ("rejected/a.png", "more", "chosen/a.txt"):
        assert f"  - {name}\n" in text


def test_a_pipe_or_broken_link_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    for stem in "ab":
        pair(tmp_path, stem)
        (tmp_path / f"chosen/{stem}.png").unlink()
    os.mkfifo(tmp_path / "chosen/a.png")
    (tmp_path / "chosen/b.png").symlink_to(tmp_path / "gone.png")
    pair(tmp_path, "c")
    os.mkfifo(tmp_path / "chosen/c.txt")
    text = refusal(tmp_path)
    assert "This is not a file (2):\n  - chosen/a.png\n  - chosen/c.txt" in text
    assert "File cannot be opened:\n  - chosen/b.png" in text


def test_every_problem_of_a_folder_is_told_in_one_error(tmp_path: Path) -> None:
    pair(tmp_path, "fine")
    image(tmp_path / "chosen/only_here.png")
    image(tmp_path / "rejected/only_there.png")
    pair(tmp_path, "twice")
    image(tmp_path / "chosen/twice.jpg")
    pair(tmp_path, "zero")
    (tmp_path / "chosen/zero.png").write_bytes(b"")
    image(tmp_path / "chosen/same.png", GOOD)
    image(tmp_path / "rejected/same.png", GOOD)
    image(tmp_path / "chosen/sizes.png", GOOD, (8, 8))
    image(tmp_path / "rejected/sizes.png", BAD, (9, 8))
    (tmp_path / "chosen/film.gif").write_bytes(b"GIF89a")
    (tmp_path / "notes.psd").write_bytes(b"8BPS")  # where no image of a pair would be
    text = refusal(tmp_path)
    for told in (
        "Chosen image without a rejected one:\n  - chosen/only_here.png",
        "Rejected image without a chosen one:\n  - rejected/only_there.png",
        "Several images of one name:\n  - chosen/twice.jpg, chosen/twice.png",
        "File is empty (zero bytes):\n  - chosen/zero.png",
        "The same image on both sides:\n  - chosen/same.png and rejected/same.png",
        "Sizes differ between the sides:\n"
        "  - chosen/sizes.png is 8 x 8, rejected/sizes.png is 9 x 8",
        ".gif files are not read:\n  - chosen/film.gif",
    ):
        assert told in text
    assert text.count("Fix: ") == 7
    reading = load_pair_folder(tmp_path, on_problem="skip")
    assert sources(reading) == ["chosen/fine.png"]
    assert len(reading.problems) == 7 and "Left out:\nChosen image without" in reading.report


def test_sizes_are_compared_as_the_images_are_shown(tmp_path: Path) -> None:
    image(tmp_path / "chosen/a.png", GOOD, (6, 8))
    turned = Image.new("RGB", (8, 6), BAD)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "rejected").mkdir()
    turned.save(tmp_path / "rejected/a.jpg", exif=exif)
    assert load_pair_folder(tmp_path).pairs[0].rejected.size == (6, 8)


def test_one_pair_in_train_and_val_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pair(tmp_path / split, "a")
    text = refusal(tmp_path)
    assert "The same pair in two splits:\n  - train/chosen/a.png and val/chosen/a.png" in text
    kept = load_pair_folder(tmp_path, on_problem="skip").pairs
    assert [one.split for one in kept] == ["train"]


def test_skipping_everything_is_still_an_error(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    (tmp_path / "chosen/a.png").write_bytes(b"")
    with pytest.raises(PairError, match="zero bytes"):
        load_pair_folder(tmp_path, on_problem="skip")


def test_an_unknown_way_with_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="error, skip"):
        load_pair_folder(tmp_path, on_problem="ignore")


# The manifest


def test_the_manifest_changes_with_any_image_or_caption_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    pair(tmp_path, "a", "a cat")
    (tmp_path / "chosen/empty").mkdir()
    seen = [folder_manifest(tmp_path)]
    (tmp_path / "notes.json").write_text("{}")
    assert folder_manifest(tmp_path) == seen[0]

    os.utime(tmp_path / "rejected/a.png", ns=(1, 1))
    seen.append(folder_manifest(tmp_path))
    (tmp_path / "chosen/a.txt").write_text("a dog, longer")
    seen.append(folder_manifest(tmp_path))
    (tmp_path / "chosen/a.png").rename(tmp_path / "chosen/b.png")
    seen.append(folder_manifest(tmp_path))
    pair(tmp_path, "c")
    seen.append(folder_manifest(tmp_path))
    assert len(set(seen)) == 5


def test_the_manifest_of_a_missing_folder_is_a_digest_too(tmp_path: Path) -> None:
    missing = folder_manifest(tmp_path / "pairs")
    pair(tmp_path / "pairs", "a")
    assert missing and folder_manifest(tmp_path / "pairs") != missing
