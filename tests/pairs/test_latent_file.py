from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpo_core.pairs.latent_file import KnownLatent, latent_bytes, read_latent
from dpo_core.pairs.record import Pair, PairSet, Picture

VALUES = np.arange(4 * 3 * 5, dtype=np.float32).reshape(4, 3, 5) / 7


def written(path: Path, latent: KnownLatent) -> Path:
    path.write_bytes(latent_bytes(latent))
    return path


@pytest.mark.parametrize("values", [VALUES, VALUES[:, None], VALUES.transpose(0, 2, 1)])
@pytest.mark.parametrize("vae", ["", "sdxl_vae.safetensors", "Käse.safetensors"])
def test_a_latent_comes_back_with_the_vae_it_belongs_to(
    tmp_path: Path, values: np.ndarray, vae: str
) -> None:
    latent = KnownLatent(values, vae)
    found = read_latent(written(tmp_path / "a.safetensors", latent))
    assert found is not None and found.vae == vae and found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, values)
    assert latent_bytes(found) == latent_bytes(latent)


def test_what_is_missing_or_damaged_is_no_latent(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert read_latent(path) is None
    whole = latent_bytes(KnownLatent(VALUES))
    for data in (b"", b"x" * 100, whole[:-4], whole[:20], b"\xff" * 8 + whole[8:]):
        path.write_bytes(data)
        assert read_latent(path) is None
    for values in (VALUES[0], VALUES * np.nan):
        assert read_latent(written(path, KnownLatent(values))) is None


def test_a_picture_is_the_same_with_and_without_its_latent(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(path)
    latent = written(tmp_path / "a.safetensors", KnownLatent(VALUES))
    plain = [Picture.from_file(path) for path in paths]
    known = [Picture.from_file(path, latent=latent) for path in paths]
    assert plain == known and [hash(one) for one in plain] == [hash(one) for one in known]
    pairs = [Pair("a cat", *pictures) for pictures in (plain, known)]
    assert pairs[0].key == pairs[1].key
    assert PairSet((pairs[0],)).digest == PairSet((pairs[1],)).digest
    assert plain[0].latent() is None and Picture.from_pixels(np.zeros((2, 2, 3))).latent() is None
    found = known[0].latent()
    assert found is not None
    np.testing.assert_array_equal(found.values, VALUES)
    latent.unlink()
    assert known[0].latent() is None
