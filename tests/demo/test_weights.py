"""What the shipped base model must be able to do for the demo to mean anything."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import dpo_core.demo.network as network
from dpo_core.demo.network import load_base, sample, to_pictures
from dpo_core.demo.taste import TASTES

FILE = Path(network.__file__).with_name(network.WEIGHTS)
SEEDS = tuple(range(8))


@cache
def pictures(prompt: str) -> np.ndarray:
    return to_pictures(sample(load_base(), [prompt] * len(SEEDS), SEEDS, steps=8))


def test_the_file_is_small_and_says_how_it_was_made() -> None:
    assert FILE.stat().st_size < 4_000_000
    with safe_open(str(FILE), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["command"] == "python -m dpo_core.demo.pretrain --seed 0"
    assert metadata["updates"] == metadata["steps"]


def test_the_prompt_decides_the_time_of_day_and_the_land() -> None:
    day, sunset, night = (
        pictures(f"a tree in the centre, in a meadow, {time}")
        for time in ("by day", "at sunset", "at night")
    )
    top = slice(0, 16)
    assert day[:, top].mean() > sunset[:, top].mean() + 0.1 > night[:, top].mean() + 0.2
    meadow, snow = day[:, 54:], pictures("a tree in the centre, in the snow, by day")[:, 54:]
    assert (meadow[..., 1] - meadow[..., 2]).mean() > (snow[..., 1] - snow[..., 2]).mean() + 0.2


@pytest.mark.parametrize(
    ("name", "spread"), [("warm", 0.05), ("low_horizon", 0.05), ("clean", 0.001)]
)
def test_one_prompt_leaves_room_for_taste(name: str, spread: float) -> None:
    drawn = pictures("a house on the left, in a meadow, by day")
    assert np.std([TASTES[name].score(picture) for picture in drawn]) > spread
