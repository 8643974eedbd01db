"""Pictures to rank: small landscapes that a person tells apart at a glance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def landscape(seed: int, width: int, height: int) -> Image.Image:
    """A sun over hills in random colours; the same for the same seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    sky, ground, sun = random.random(3), 0.6 * random.random(3), np.array([1.0, 0.8, 0.4])
    horizon = random.uniform(0.45, 0.75)
    shade = y[..., None]
    picture = sky * (1 - shade) + (0.6 * sky + 0.4 * sun) * shade
    centre_x, centre_y = random.uniform(0.2, 0.8), random.uniform(0.15, horizon)
    distance = np.hypot((x - centre_x) * width / height, y - centre_y)
    disc = np.clip((random.uniform(0.05, 0.13) - distance) / 0.02, 0, 1)[..., None]
    picture = picture * (1 - disc) + sun * disc
    for layer in range(4):
        waves, swell = random.uniform(2, 7), random.uniform(0.03, 0.12)
        phase = random.uniform(0, 6.28)
        ridge = horizon - 0.18 + 0.09 * layer + swell * np.sin(3.14 * waves * x + phase)
        hill = ground * (1 - 0.2 * layer) + 0.1 * sky * (3 - layer) / 3
        below = (y > ridge)[..., None]
        picture = np.where(below, hill * (1 - 0.35 * (y - ridge)[..., None]), picture)
    return Image.fromarray((255 * np.clip(picture, 0, 1)).astype(np.uint8))


def write_batch(file: Path, count: int, size: tuple[int, int] = (96, 96), first: int = 0) -> None:
    """A PNG of several frames, which the host's image loader gives as a batch.

    Frames are those of the seeds `first`, `first + 1`, ...
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    frames = [landscape(first + i, *size) for i in range(count)]
    frames[0].save(file, format="PNG", save_all=True, append_images=frames[1:], compress_level=1)
