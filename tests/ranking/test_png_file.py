from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from dpo_core.ranking.png_file import write_png


def written(pixels: np.ndarray, texts: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    write_png(file, pixels, texts or {})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (7, 3), (33, 64), (600, 700), (3, 9000)])
@pytest.mark.parametrize("kind", ["noise", "flat", "gradient"])
def test_every_pixel_comes_back(shape: tuple[int, int], kind: str) -> None:
    height, width = shape
    pixels = np.full((height, width, 3), 200, np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    if kind == "gradient":
        pixels[..., 1] = np.arange(width) % 256
        pixels[..., 2] = (np.arange(height) % 256)[:, None]
    data = written(pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))
        image.verify()  # the checksums of all chunks
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_texts_come_back() -> None:
    texts = {"prompt": '{"a": 1}', "dpo prompt": "Käse 猫", "empty": "", "long": "x" * 100_000}
    with Image.open(io.BytesIO(written(np.zeros((2, 2, 3), np.uint8), texts))) as image:
        image.load()
        assert image.info == texts


def test_a_smooth_picture_with_grain_is_no_larger_than_by_a_common_fast_setting() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:256, 0:256] / 256
    smooth = np.stack([np.sin(3 * x + y), np.cos(4 * y - x), np.sin(5 * x * y)], -1) * 90 + 128
    pixels = np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
    common = io.BytesIO()
    Image.fromarray(pixels).save(common, format="PNG", compress_level=1)
    assert len(written(pixels)) < len(common.getvalue())


def test_a_plain_picture_is_small() -> None:
    plain = np.full((512, 512, 3), 9, np.uint8)
    assert len(written(plain)) < 6000 < len(zlib.compress(plain.tobytes(), 0))
