from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dpo_core.demo.pictures import (
    ATTRIBUTES,
    Scene,
    all_prompts,
    draw,
    encode,
    mirrored,
    prompt,
    sample_scene,
)

HOUSE = Scene("house", "left", "meadow", "day")


def picture(scene: Scene, seed: int = 0) -> np.ndarray:
    return draw(scene, np.random.default_rng(seed))


def test_a_picture_is_64_by_64_rgb_float32_in_the_unit_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = draw(sample_scene(rng), rng)
        assert drawn.shape == (64, 64, 3) and drawn.dtype == np.float32
        assert drawn.min() >= 0 and drawn.max() <= 1


def test_the_same_scene_and_seed_draw_the_same_picture() -> None:
    scene = sample_scene(np.random.default_rng(5))
    assert np.array_equal(picture(scene, 1), picture(scene, 1))
    assert not np.array_equal(picture(scene, 1), picture(scene, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "tree"},
        {"subject": "flower"},
        {"subject": "balloon"},
        {"place": "centre"},
        {"place": "right"},
        {"land": "desert"},
        {"land": "snow"},
        {"time": "sunset"},
        {"time": "night"},
        {"warmth": 0.5},
        {"horizon": 0.5},
        {"size": 1.2},
        {"offset": 0.05},
        {"accent": 0.5},
        {"light_x": 0.3},
        {"roll": 1.0},
        {"damage": 0.5},
    ],
    ids=str,
)
def test_every_trait_can_be_seen(change: dict[str, object]) -> None:
    different = np.abs(picture(HOUSE) - picture(replace(HOUSE, **change))).max(axis=2) > 0.02
    assert different.mean() > 0.005


def test_the_subject_stands_where_its_place_says() -> None:
    columns = {}
    for place in ATTRIBUTES["place"]:
        drawn = picture(Scene("house", place, "meadow", "day", accent=0.75))
        roof = drawn[..., 0] - drawn[..., 1:].max(axis=2) > 0.25
        columns[place] = (np.argwhere(roof)[:, 1].mean() + 0.5) / 64
    assert columns == pytest.approx({"left": 0.24, "centre": 0.5, "right": 0.76}, abs=0.04)


def test_a_larger_drawing_shows_the_same_picture() -> None:
    large = draw(HOUSE, np.random.default_rng(0), size=128)
    halved = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - picture(HOUSE)).mean() < 0.01


def test_a_prompt_names_the_four_attributes_and_encodes_back_to_them() -> None:
    scene = Scene("balloon", "centre", "desert", "sunset", warmth=0.9, damage=1.0)
    assert prompt(scene) == "a balloon in the centre, over the desert, at sunset"
    assert encode(prompt(scene)) == (4, 2, 2, 2)
    assert prompt(replace(scene, warmth=-0.9, damage=0.0)) == prompt(scene)


def test_all_prompts_are_the_108_combinations() -> None:
    codes = [encode(text) for text in all_prompts()]
    assert len(codes) == len(set(codes)) == 4 * 3 * 3 * 3
    assert 0 not in np.array(codes)


def test_what_a_prompt_leaves_out_is_zero() -> None:
    assert encode("") == (0, 0, 0, 0)
    assert encode("A Tree, please") == (1, 0, 0, 0)
    assert encode("dusk in the middle of the snowy plain") == (0, 2, 3, 2)


def test_a_contradicting_prompt_reports_every_clash() -> None:
    with pytest.raises(ValueError) as error:
        encode("a tree and a house by day and night")
    assert "subject: 'tree' and 'house'" in str(error.value)
    assert "time: 'day' and 'night'" in str(error.value)


def test_the_mirror_image_swaps_left_and_right_in_the_prompt_alone() -> None:
    assert mirrored(HOUSE) == replace(HOUSE, place="right")
    assert mirrored(mirrored(HOUSE)) == HOUSE
    centred = replace(HOUSE, place="centre")
    assert mirrored(centred) == centred
