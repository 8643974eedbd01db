from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from dpo_core.pairs.problem import PairError
from dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup

RED = (255, 0, 0)
BLUE = (0, 0, 255)


def grey(value: float, width: int = 2, height: int = 2) -> Picture:
    return Picture.from_pixels(np.full((height, width, 3), value, dtype=np.float32))


def saved(path: Path, image: Image.Image, **options: object) -> Picture:
    image.save(path, **options)
    return Picture.from_file(path)


def two_columns(left: object = RED, right: object = BLUE, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), left)  # type: ignore[arg-type]
    image.putpixel((1, 0), right)  # type: ignore[arg-type]
    return image


def test_a_picture_of_a_missing_file_can_be_made_and_complains_only_when_read() -> None:
    picture = Picture.from_file("/nowhere/a.png")
    for read in (picture.pixels, lambda: picture.size, lambda: picture.digest):
        with pytest.raises(PairError, match=r"/nowhere/a\.png"):
            read()


def test_pixels_of_an_rgb_file_are_float32_rows_by_columns_in_the_unit_range(
    tmp_path: Path,
) -> None:
    picture = saved(tmp_path / "a.png", two_columns(RED, (0, 51, 255)))
    assert picture.size == (2, 1)
    pixels = picture.pixels()
    assert pixels.dtype == np.float32 and pixels.shape == (1, 2, 3)
    np.testing.assert_allclose(pixels, [[[1, 0, 0], [0, 0.2, 1]]], atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_orientation_turns_size_and_pixels_alike(tmp_path: Path, suffix: str) -> None:
    # Orientation 6: the stored picture is to be turned a quarter clockwise to be seen upright,
    # so the stored left (red) is shown on top.
    wide = Image.new("RGB", (64, 32), BLUE)
    wide.paste(RED, (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = saved(tmp_path / f"a.{suffix}", wide, exif=exif)
    assert picture.size == (32, 64)
    pixels = picture.pixels()
    assert pixels.shape == (64, 32, 3)
    np.testing.assert_allclose(pixels[8, 16], [1, 0, 0], atol=0.1)
    np.testing.assert_allclose(pixels[56, 16], [0, 0, 1], atol=0.1)


def test_size_of_a_large_png_does_not_decode_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((256, 256), 50).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert Picture.from_file(path).size == (256, 256)


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    values = np.array([[0, 1, 32768, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        pixels = saved(tmp_path / f"a.{suffix}", Image.fromarray(values)).pixels()
        np.testing.assert_allclose(pixels[0, :, 0], [0, 1 / 65535, 32768 / 65535, 1], atol=1e-7)
        assert (pixels[..., 0] == pixels[..., 2]).all()


def test_float_tiff_is_taken_as_the_unit_range(tmp_path: Path) -> None:
    values = np.array([[0.25, 2.0, np.nan]], dtype=np.float32)
    pixels = saved(tmp_path / "a.tiff", Image.fromarray(values)).pixels()
    np.testing.assert_array_equal(pixels[0, :, 1], [0.25, 1, 0])


def test_greyscale_palette_bilevel_and_cmyk_become_rgb(tmp_path: Path) -> None:
    red_blue = [[[1, 0, 0], [0, 0, 1]]]
    palette = two_columns().convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(saved(tmp_path / "p.png", palette).pixels(), red_blue)
    cmyk = two_columns((0, 255, 255, 0), (255, 255, 0, 0), "CMYK")
    np.testing.assert_array_equal(saved(tmp_path / "c.tiff", cmyk).pixels(), red_blue)
    for mode in ("L", "1"):
        pixels = saved(tmp_path / f"{mode}.png", two_columns(0, 255, mode)).pixels()
        np.testing.assert_array_equal(pixels, [[[0, 0, 0], [1, 1, 1]]])


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = saved(tmp_path / "a.png", two_columns((255, 0, 0, 51), (0, 0, 0, 0), "RGBA"))
    np.testing.assert_allclose(rgba.pixels(), [[[1, 0.8, 0.8], [1, 1, 1]]], atol=1e-6)
    grey_alpha = saved(tmp_path / "b.png", two_columns((0, 255), (0, 0), "LA"))
    np.testing.assert_array_equal(grey_alpha.pixels(), [[[0, 0, 0], [1, 1, 1]]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    indexed = saved(tmp_path / "c.png", palette, transparency=0)
    np.testing.assert_array_equal(indexed.pixels(), [[[1, 1, 1], [0, 0, 1]]])


def test_cut_off_files_are_refused_even_where_the_process_tolerates_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "a.jpg"
    Image.effect_noise((128, 128), 50).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PairError, match="damaged or cut off"):
        Picture.from_file(path).pixels()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_above_pillows_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = saved(tmp_path / "a.png", Image.new("RGB", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 899)
    with pytest.raises(PairError, match="million pixels"):
        picture.pixels()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # from twice the limit Pillow raises
    with pytest.raises(PairError, match="million pixels"):
        picture.pixels()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    assert picture.size == (30, 30)


def test_pixels_in_memory_are_copied_in_and_out() -> None:
    array = np.zeros((2, 3, 3), dtype=np.float32)
    picture = Picture.from_pixels(array)
    array[:] = 1
    out = picture.pixels()
    assert picture.size == (3, 2) and out.max() == 0
    out[:] = 1
    assert picture.pixels().max() == 0


def test_pixels_in_memory_a_hair_outside_the_unit_range_are_clipped() -> None:
    picture = Picture.from_pixels(np.array([[[-0.01, 0.5, 1.01]]]))
    np.testing.assert_array_equal(picture.pixels(), [[[0, 0.5, 1]]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2)), "shape"),
        (np.zeros((2, 2, 4)), "shape"),
        (np.zeros((0, 2, 3)), "shape"),
        (np.full((2, 2, 3), np.nan), "not numbers"),
        (np.full((2, 2, 3), 255.0), "0..1"),
    ],
)
def test_pixels_that_are_no_picture_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(PairError, match=message):
        Picture.from_pixels(array)


def test_digests_tell_contents_and_shapes_apart_and_ignore_names(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.png", Image.new("RGB", (2, 2), RED))
    same = saved(tmp_path / "b.png", Image.new("RGB", (2, 2), RED))
    other = saved(tmp_path / "c.png", Image.new("RGB", (2, 2), BLUE))
    assert a == same and hash(a) == hash(same) and a != other
    assert grey(0.5, 4, 1) != grey(0.5, 2, 2)
    assert grey(0.5) == grey(0.5)


def test_a_pair_groups_by_prompt_unless_told_otherwise() -> None:
    cat = Pair("a cat", grey(0), grey(1))
    assert cat.group == Pair("a cat", grey(0.2), grey(1)).group
    assert cat.group != Pair("a dog", grey(0), grey(1)).group
    assert Pair("a cat", grey(0), grey(1), group="set 7").group == "set 7"


def test_a_pairs_key_depends_on_both_images_their_order_and_the_prompt() -> None:
    pair = Pair("p", grey(0), grey(1))
    keys = {
        pair.key,
        Pair("p", grey(1), grey(0)).key,
        Pair("q", grey(0), grey(1)).key,
        Pair("p", grey(0), grey(0.5)).key,
    }
    assert len(keys) == 4
    assert Pair("p", grey(0), grey(1), chosen_probability=0.7, split="val").key == pair.key


@pytest.mark.parametrize("wrong", [{"chosen_probability": 1.5}, {"split": "test"}])
def test_a_pair_refuses_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"1\.5|test"):
        Pair("p", grey(0), grey(1), **wrong)  # type: ignore[arg-type]


def test_joining_keeps_order_and_folds_exact_duplicates_to_the_first() -> None:
    first = Pair("p", grey(0), grey(1), source="first")
    copy = Pair("p", grey(0), grey(1), source="copy")
    other = Pair("p", grey(0), grey(0.5))
    joined = PairSet((other, first)).join(PairSet((copy,)))
    assert [pair.source for pair in joined] == ["", "first"]
    assert len(joined) == 2 and joined[1] is first


def test_contradictions_are_the_same_two_images_the_other_way_round_under_one_prompt() -> None:
    pair = Pair("p", grey(0), grey(1))
    opposite = Pair("p", grey(1), grey(0))
    elsewhere = Pair("q", grey(1), grey(0))
    pairs = PairSet((pair, elsewhere, opposite))
    assert pairs.contradictions() == ((pair, opposite),)
    assert PairSet((pair, elsewhere)).contradictions() == ()


def test_a_sets_digest_changes_with_all_that_training_depends_on() -> None:
    pair = Pair("p", grey(0), grey(1))
    other = Pair("p", grey(0.5), grey(1))
    digests = {
        PairSet(pairs).digest
        for pairs in (
            (pair, other),
            (other, pair),
            (pair,),
            (dataclasses.replace(pair, chosen_probability=0.8),),
            (dataclasses.replace(pair, split="val"),),
            (dataclasses.replace(pair, group="g"),),
        )
    }
    assert len(digests) == 6
    renamed = dataclasses.replace(pair, source="elsewhere")
    assert PairSet((renamed, other)).digest == PairSet((pair, other)).digest


def test_the_summary_counts_what_a_user_wants_to_know() -> None:
    pairs = PairSet(
        (
            Pair("p", grey(0), grey(1), split="train"),
            Pair("p", grey(1), grey(0), split="val", chosen_probability=0.9),
            Pair("", grey(0, 3, 2), grey(1, 3, 2), split="train"),
        )
    )
    assert pairs.summary() == [
        "3 pairs, 1 prompt",
        "1 pair with an empty prompt (trained without one)",
        "split: 2 train, 1 val",
        "sizes: 2 x 2 (2), 3 x 2 (1)",
        "1 pair with a soft label",
        "1 pair contradicted by the opposite preference",
    ]
    assert PairSet().summary() == ["0 pairs, 0 prompts"]


def test_labelled_images_and_groups_travel_with_the_pairs_and_fold_alike() -> None:
    liked = LabelledImage("p", grey(0), True, source="first")
    disliked = LabelledImage("p", grey(0), False)
    group = RankedGroup("p", (grey(0), grey(1)), (1.0, -1.0))
    pair = Pair("p", grey(0), grey(1))
    one = PairSet((pair,), (liked,), (group,))
    other = PairSet((pair,), (dataclasses.replace(liked, source="copy"), disliked), (group,))
    joined = one.join(other)
    assert joined == PairSet((pair,), (liked, disliked), (group,))
    assert joined.labelled[0].source == "first"
    assert joined.summary()[-2:] == [
        "2 labelled images: 1 liked, 1 disliked, 1 of them both",
        "1 ranked group",
    ]
    assert not joined.is_empty and PairSet().is_empty
    tied = PairSet(ties=(pair,), lineage=("b",)).join(PairSet(ties=(pair,), lineage=("a", "b")))
    assert (tied.ties, tied.lineage, len(tied), tied.is_empty) == ((pair,), ("a", "b"), 0, True)
    assert not PairSet((), (liked,)).is_empty


def test_a_sets_digest_changes_with_labels_groups_and_gaps() -> None:
    pair = Pair("p", grey(0), grey(1))
    liked = LabelledImage("p", grey(0), True)
    group = RankedGroup("p", (grey(0), grey(1)), (1.0, -1.0))
    digests = {
        one.digest
        for one in (
            PairSet((pair,)),
            PairSet((dataclasses.replace(pair, rating_gap=0.5),)),
            PairSet((pair,), (liked,)),
            PairSet((pair,), (dataclasses.replace(liked, liked=False),)),
            PairSet((pair,), (), (group,)),
            PairSet((), (), (), (), (pair,)),
            PairSet((pair,), (), (dataclasses.replace(group, ratings=(2.0, -1.0)),)),
        )
    }
    assert len(digests) == 7


@pytest.mark.parametrize("ratings", [(1.0,), (0.0, 1.0), (1.0, float("nan"))])
def test_a_ranked_group_needs_a_descending_rating_for_each_picture(
    ratings: tuple[float, ...],
) -> None:
    with pytest.raises(ValueError, match="rating"):
        RankedGroup("p", (grey(0), grey(1)), ratings)
    with pytest.raises(ValueError, match="rating_gap"):
        Pair("p", grey(0), grey(1), rating_gap=float("inf"))


def test_a_fixed_set_joined_to_a_growing_one_makes_it_another_collection() -> None:
    growing = PairSet((Pair("p", grey(0), grey(1)),), lineage=("s",))
    fixed = PairSet((Pair("q", grey(0), grey(1)),))
    joined = growing.join(fixed)
    assert joined.lineage == ("s", f"with {fixed.digest}") == fixed.join(growing).lineage
    assert fixed.join(fixed).lineage == () and growing.join(growing).lineage == ("s",)
