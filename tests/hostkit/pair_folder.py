"""Pair folders on disk: a warm and a cold picture of each scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WARM, COLD = (0.9, 0.4, 0.2), (0.2, 0.4, 0.9)
PROMPTS = ("a hill", "a warm sky")


def picture(colour: tuple[float, float, float], seed: int, size: tuple[int, int]) -> Image.Image:
    """A gradient of one colour with a little noise; `size` is (width, height)."""
    width, height = size
    shade = np.linspace(0.5, 1, height)[:, None, None]
    noise = np.random.default_rng(seed).normal(0, 0.05, (height, width, 3))
    pixels = np.clip(np.array(colour) * shade + noise, 0, 1)
    return Image.fromarray((pixels * 255).astype(np.uint8))


def write_pair(
    folder: Path, name: str, seed: int, size: tuple[int, int] = (32, 32), caption: str | None = ""
) -> None:
    """`chosen/<name>.png` (warm), `rejected/<name>.png` (cold) and the caption, unless None."""
    for side, colour in (("chosen", WARM), ("rejected", COLD)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        picture(colour, seed, size).save(folder / side / f"{name}.png")
    if caption is not None:
        (folder / "chosen" / f"{name}.txt").write_text(caption)


def write_pairs(
    folder: Path, count: int, size: tuple[int, int] = (32, 32), first: int = 0
) -> None:
    """`count` pairs named by their number from `first` on, under `PROMPTS` in turn."""
    for i in range(first, first + count):
        write_pair(folder, str(i), i, size, PROMPTS[i % len(PROMPTS)])
