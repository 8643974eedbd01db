"""Copies are told by the bytes of the picture, whatever the metadata."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from toykit.generations import picture, write_generation

from dpo_core.curation.picture_bytes import picture_digest, picture_hint

KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


@pytest.mark.parametrize("suffix", KINDS)
def test_the_same_picture_with_other_metadata_is_a_copy(suffix: str, tmp_path: Path) -> None:
    one = write_generation(tmp_path / f"a.{suffix}", "a cat", 1, (200, 80))
    bare = write_generation(tmp_path / f"b.{suffix}", None, 1, (200, 80))
    assert one.read_bytes() != bare.read_bytes()
    assert picture_digest(one, KINDS[suffix]) == picture_digest(bare, KINDS[suffix])
    assert picture_hint(one, KINDS[suffix]) == picture_hint(bare, KINDS[suffix])


@pytest.mark.parametrize("suffix", KINDS)
def test_a_picture_that_differs_in_its_last_rows_is_no_copy(suffix: str, tmp_path: Path) -> None:
    image = picture(1, (200, 200))
    one = write_generation(tmp_path / f"a.{suffix}", "a cat", 1, image=image)
    image.paste((0, 0, 0), (190, 190, 200, 200))
    other = write_generation(tmp_path / f"b.{suffix}", "a cat", 1, image=image)
    assert picture_digest(one, KINDS[suffix]) != picture_digest(other, KINDS[suffix])


def test_how_a_png_divides_its_data_does_not_matter(tmp_path: Path) -> None:
    path = write_generation(tmp_path / "a.png", "a cat", 1, (120, 80))
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    content = data[at + 8 : at + 8 + length]
    halves = [content[:1000], content[1000:]]
    chunks = b"".join(len(h).to_bytes(4, "big") + b"IDAT" + h + b"\0\0\0\0" for h in halves)
    divided = tmp_path / "b.png"
    divided.write_bytes(data[:at] + chunks + data[at + length + 12 :])
    assert picture_digest(path, "PNG") == picture_digest(divided, "PNG")


@pytest.mark.parametrize("suffix", KINDS)
def test_a_picture_that_is_cut_off_is_an_error_or_another(
    suffix: str, tmp_path: Path
) -> None:
    path = write_generation(tmp_path / f"a.{suffix}", "a cat", 1, (120, 80))
    whole, data = picture_digest(path, KINDS[suffix]), path.read_bytes()
    for end in range(0, len(data) // 2, 97):  # a WebP's metadata comes last
        path.write_bytes(data[:end])
        try:
            assert picture_digest(path, KINDS[suffix]) != whole
        except ValueError:
            continue


def test_a_length_that_leads_beyond_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="cut off"):
        picture_digest(path, "PNG")
