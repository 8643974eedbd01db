from __future__ import annotations

import numpy as np
from PIL import Image

from dpo_core.evaluation.strip import GAP, HEAD, LINE, PAPER, SIDE, draw_strip, few_of, thumbnail

RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (255, 255, 255)
COLOURS = [[RED, GREEN], [BLUE, WHITE]]


def column(colours: list[tuple[int, int, int]], size: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in colours]


def test_columns_stand_for_moments_and_rows_for_prompts() -> None:
    size = (2 * SIDE, SIDE)  # drawn at half its size
    strip = draw_strip(
        [("base", column(COLOURS[0], size)), ("step 50", column(COLOURS[1], size))],
        ["a warm sky", "a cold sea"],
    )
    across, down = SIDE + GAP, LINE + SIDE // 2 + GAP
    assert strip.size == (GAP + 2 * across, HEAD + 2 * down)
    for i in (0, 1):
        for k in (0, 1):
            left, top = GAP + i * across, HEAD + k * down + LINE
            assert strip.getpixel((left, top)) == COLOURS[i][k]
            assert strip.getpixel((left + SIDE - 1, top + SIDE // 2 - 1)) == COLOURS[i][k]
            assert strip.getpixel((left + SIDE, top)) == PAPER


def written(box: tuple[int, int, int, int], prompts: list[str]) -> np.ndarray:
    """Where there is ink in a strip of grey pictures without columns' names."""
    grey = column([PAPER] * len(prompts), (SIDE, SIDE))
    image = draw_strip([("", grey)], prompts).crop(box)
    return (np.asarray(image) != PAPER).any(-1)


def test_each_prompt_stands_above_its_row_and_within_the_strip() -> None:
    line = (0, HEAD, 2 * GAP + SIDE, HEAD + LINE)
    short, long = written(line, ["sky"]), written(line, ["a warm sky " * 40])
    assert short.any() and not written(line, [" "])[:, SIDE // 2 :].any()
    assert long[:, SIDE // 2 :].any() and not long[:, -GAP:].any()
    # A script the font has no letters for is not drawn as boxes.
    assert (written(line, ["暖かい空"]) == written(line, ["prompt 1"])).all()


def test_a_long_strip_shows_a_few_columns_evenly_with_first_and_last() -> None:
    assert few_of(range(5), 5) == [0, 1, 2, 3, 4]
    assert few_of(range(101), 5) == [0, 25, 50, 75, 100]
    assert few_of(range(7), 3) == [0, 3, 6]


def test_small_pictures_are_enlarged_without_blur_and_large_ones_fit() -> None:
    dots = Image.new("RGB", (2, 1))
    dots.putpixel((1, 0), WHITE)
    large = thumbnail(dots)
    assert large.size == (SIDE, SIDE // 2)
    assert {large.getpixel((x, 3)) for x in range(SIDE)} == {(0, 0, 0), WHITE}
    assert thumbnail(Image.new("RGB", (3 * SIDE, 6 * SIDE))).size == (SIDE // 2, SIDE)
