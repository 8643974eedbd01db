from __future__ import annotations

import numpy as np
import pytest
from judgekit.images import noisy_images
from PIL import Image

from dpo_core.judging.clip_encoder import clip_pixels
from dpo_core.judging.clip_pixels import DEVIATION, MEAN, ClipPixels
from dpo_core.judging.judge import JudgeError


@pytest.mark.parametrize(("width", "height"), [(64, 40), (40, 64), (10, 14), (32, 32)])
def test_images_are_brought_to_clip_as_transformers_brings_them(width: int, height: int) -> None:
    from transformers import CLIPImageProcessor

    image = noisy_images(1, width, height)[0]
    theirs = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )(Image.fromarray(image), return_tensors="np")["pixel_values"]
    ours = ClipPixels(16)([image]).numpy()
    assert ours.shape == (1, 3, 16, 16)
    assert np.abs(ours - theirs).max() < 1e-5


def test_the_longer_side_is_cut_short_and_the_middle_taken_out() -> None:
    # 30 x 20 becomes int(16 * 30 / 20) = 24 wide; columns 4 to 20 of it are left.
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 255
    red = ClipPixels(16, (0, 0, 0), (1, 1, 1))([image])[0, 0]
    assert red[:, :7].max() < 0.02
    assert red[:, 9:].min() > 0.98


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    image = np.full((4, 4, 3), [255, 0, 51], np.uint8)
    found = ClipPixels(2)([image])[0, :, 0, 0].tolist()
    wanted = [(x - m) / d for x, m, d in zip((1, 0, 0.2), MEAN, DEVIATION, strict=True)]
    assert found == pytest.approx(wanted, abs=1e-6)


def test_images_of_several_sizes_go_together() -> None:
    images = [*noisy_images(1, 30, 20), *noisy_images(1, 9, 50)]
    assert ClipPixels(8)(images).shape == (2, 3, 8, 8)


def test_a_model_may_say_how_its_images_are_prepared() -> None:
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1]}
    pixels = clip_pixels({"vision_config": {"image_size": 32}}, said)
    assert pixels == ClipPixels(32, (0.5, 0.5, 0.5), (0.25, 0.5, 1))
    assert clip_pixels({}, {}) == ClipPixels()


@pytest.mark.parametrize(
    "said", [{"image_mean": [0.5]}, {"image_std": [1, 1, 0]}, {"image_mean": ["a", "b", "c"]}]
)
def test_a_preprocessor_that_makes_no_sense_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(JudgeError, match=r"preprocessor_config\.json"):
        clip_pixels({}, said)
