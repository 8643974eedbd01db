"""What is encoded anew, what is taken from memory, and what need not be encoded at all."""

from __future__ import annotations

import copy
import gc
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import pytest
import torch
from hostkit.checkout import load_pack

PACK = load_pack().__name__
encoding: Any = importlib.import_module(f"{PACK}.nodes.host.encoding")
cache: Any = importlib.import_module(f"{PACK}.nodes.host.encoding_cache")
record: Any = importlib.import_module(f"{PACK}.dpo_core.pairs.record")
MEGAPIXEL = 1024 * 1024
latent_file: Any = importlib.import_module(f"{PACK}.dpo_core.pairs.latent_file")


@pytest.fixture(autouse=True)
def empty_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(encoding, "encodings_folder", lambda: tmp_path / "cache")
    memory = cache.EncodingCache(64 * 1024 * 1024)
    monkeypatch.setattr(encoding, "ENCODED", memory)
    return memory


@pytest.fixture(scope="module")
def loaded(sd15_checkpoint: Path) -> tuple[Any, Any]:
    with torch.inference_mode():
        _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(sd15_checkpoint))
    return clip, vae


class Models:
    """A text encoder and a VAE, and how often each has encoded."""

    def __init__(self, clip: Any, vae: Any) -> None:
        self.clip, self.vae = clip, vae
        self.prompts = self.images = 0

    def encode(self, *pairs: Any, megapixels: float = 0.0, guidance: float = 3.5) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            records = record.PairSet(pairs)
            return encoding.encode_pairs(records, self.vae, self.clip, megapixels, guidance)

    def counted(self) -> tuple[int, int]:
        """Prompts and images encoded since the last time."""
        found = self.prompts, self.images
        self.prompts = self.images = 0
        return found


@pytest.fixture
def models(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Models]:
    models = Models(loaded[0].clone(), copy.copy(loaded[1]))
    clips, vaes = map(type, loaded)
    encode_tokens, encode_pixels = clips.encode_from_tokens_scheduled, vaes.encode

    def prompt(*args: Any, **named: Any) -> Any:
        models.prompts += 1
        return encode_tokens(*args, **named)

    def image(*args: Any, **named: Any) -> Any:
        models.images += 1
        return encode_pixels(*args, **named)

    monkeypatch.setattr(clips, "encode_from_tokens_scheduled", prompt)
    monkeypatch.setattr(vaes, "encode", image)
    yield models


def picture(seed: int, size: int = 64) -> Any:
    return record.Picture.from_pixels(np.random.default_rng(seed).random((size, size, 3)))


def pair(seed: int, prompt: str = "a cat", size: int = 64) -> Any:
    return record.Pair(prompt, picture(2 * seed, size), picture(2 * seed + 1, size))


def same(one: Any, other: Any) -> bool:
    return one.digest == other.digest


# Taken from memory


def test_a_new_pair_alone_is_encoded(models: Models) -> None:
    first = models.encode(pair(0), pair(1))
    assert models.counted() == (1, 4)
    more = models.encode(pair(0), pair(1), pair(2, "a dog"))
    assert models.counted() == (1, 2)
    assert [one.key for one in more][:2] == [one.key for one in first]
    assert same(models.encode(pair(0), pair(1)), first) and models.counted() == (0, 0)


def test_what_is_remembered_is_what_would_be_encoded(
    models: Models, empty_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.encode(pair(0), pair(1))
    remembered = models.encode(pair(0), pair(1))
    monkeypatch.setattr(encoding, "ENCODED", cache.EncodingCache(0))
    assert same(models.encode(pair(0), pair(1)), remembered)
    assert models.counted() == (2, 8)


def test_other_sizes_guidances_and_pictures_are_encoded(models: Models) -> None:
    models.encode(pair(0))
    assert models.counted() == (1, 2)
    models.encode(pair(0), megapixels=32 * 32 / MEGAPIXEL)
    assert models.counted() == (0, 2)
    models.encode(pair(0), megapixels=64 * 64 / MEGAPIXEL)  # the size it has
    assert models.counted() == (0, 0)
    models.encode(pair(0), guidance=2.0)
    assert models.counted() == (1, 0)
    models.encode(pair(5))
    assert models.counted() == (0, 2)


def test_a_text_encoder_that_encodes_otherwise_does_not_share(models: Models) -> None:
    plain = models.encode(pair(0))
    last = models.clip
    models.clip = last.clone()
    models.clip.clip_layer(-2)
    other = models.encode(pair(0))
    assert models.counted() == (2, 2) and not same(plain, other)
    models.clip.clip_layer(-3)  # in place
    assert not same(models.encode(pair(0)), other) and models.counted() == (1, 0)
    models.clip = last
    name = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    weight = last.cond_stage_model.state_dict()[name]
    assert last.add_patches({name: ("diff", (torch.ones_like(weight),))}, 0.5) == [name]
    models.encode(pair(0))
    assert models.counted() == (1, 0)
    last.set_tokenizer_option("clip_l_min_length", 70)
    models.encode(pair(0))
    assert models.counted() == (1, 0)


def test_a_prompt_with_an_embedding_is_encoded_again(models: Models) -> None:
    for _ in range(2):
        models.encode(pair(0, "a cat, embedding:mine"))
        assert models.prompts == 1
        models.counted()


def test_a_vae_changed_in_place_or_copied_does_not_share(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.encode(pair(0))
    models.counted()
    convolution = next(
        layer
        for layer in models.vae.first_stage_model.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size != (1, 1)
    )
    for name, value in (
        ("groups", 2),
        ("padding_mode", "circular"),
        ("_conv_forward", lambda *args: torch.nn.functional.conv2d(*args, padding=1)),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(convolution, name, value)
            state = cache.vae_state(models.vae)
        assert state != cache.vae_state(models.vae)
    process = models.vae.process_input
    models.vae.process_input = lambda image: process(image) * 0.5
    models.encode(pair(0))
    assert models.counted() == (0, 2)
    models.vae.process_input = process
    models.encode(pair(0))
    assert models.counted() == (0, 0)
    models.vae = copy.copy(models.vae)
    models.encode(pair(0))
    assert models.counted() == (0, 2)


def test_what_was_encoded_goes_with_its_vae(models: Models, empty_memory: Any) -> None:
    models.encode(pair(0))
    before = empty_memory.size()
    models.vae = None
    gc.collect()
    latents = 2 * 4 * 8 * 8 * 4
    assert empty_memory.size() == before - latents
    models.clip = None
    gc.collect()
    assert empty_memory.size() == 0


class Owner:
    pass


def test_memory_is_bounded_and_the_longest_unused_goes_first() -> None:
    memory = cache.EncodingCache(100)
    one, two = Owner(), Owner()
    made: list[str] = []

    def get(owner: Owner, key: str, size: int = 10) -> None:
        def make() -> dict[str, Any]:
            made.append(key)
            return {"a": [torch.zeros(size // 2, dtype=torch.uint8)], "b": (
                torch.zeros(size // 2, dtype=torch.uint8), "text",
            )}  # fmt: skip

        memory.get(owner, key, make)

    get(one, "a", 40)
    get(two, "b", 40)
    get(one, "a")
    assert made == ["a", "b"] and memory.size() == 80
    get(two, "c", 30)  # "b" is the one that was not asked for
    assert memory.size() == 70
    get(one, "a")
    get(two, "c")
    assert made == ["a", "b", "c"]
    get(one, "large", 200)
    assert memory.size() == 70
    get(two, "b", 40)
    assert made == ["a", "b", "c", "large", "b"] and memory.size() == 70


# Not encoded at all


def known(tmp_path: Path, seed: int, values: Any, vae: str = "", size: int = 64) -> Any:
    """A picture with a latent."""
    path = tmp_path / f"{seed}.safetensors"
    path.write_bytes(latent_file.latent_bytes(latent_file.KnownLatent(values, vae)))
    plain = picture(seed, size)
    return record.Picture(None, plain._array, None, None, path)


def known_pair(tmp_path: Path, *shape: int, vae: str = "", size: int = 64) -> Any:
    rng = np.random.default_rng(7)
    values = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
    sides = (known(tmp_path, i, one, vae, size) for i, one in enumerate(values))
    return record.Pair("a cat", *sides)


def stored(side: Any) -> torch.Tensor:
    return torch.from_numpy(side.latent().values)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1, 8, 8)])
@pytest.mark.parametrize("megapixels", [0.0, 64 * 64 / (1024 * 1024)])
def test_known_latents_are_trained_on_and_the_vae_is_not_called(
    models: Models, tmp_path: Path, shape: tuple[int, ...], megapixels: float
) -> None:
    given = known_pair(tmp_path, *shape)
    (found,) = models.encode(given, megapixels=megapixels)
    assert models.counted() == (1, 0)
    for side, latent in ((given.chosen, found.chosen), (given.rejected, found.rejected)):
        assert latent.shape == (4, 8, 8) and latent.dtype == torch.float32
        assert torch.equal(latent, stored(side).reshape(4, 8, 8))


@pytest.mark.parametrize(
    "shape", [(16, 8, 8), (4, 8, 7), (4, 16, 16), (4, 2, 8, 8)], ids=lambda shape: str(shape)
)
def test_latents_of_another_shape_than_the_vae_gives_are_passed_over(
    models: Models, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    found = models.encode(known_pair(tmp_path, *shape))
    assert models.counted() == (1, 2)
    assert same(found, models.encode(pair(0)))


def test_latents_are_passed_over_where_the_size_changes(models: Models, tmp_path: Path) -> None:
    found = models.encode(
        known_pair(tmp_path, 4, 4, 4), megapixels=32 * 32 / MEGAPIXEL
    )
    assert models.counted() == (1, 2) and found[0].chosen.shape == (4, 4, 4)


def test_a_pair_is_never_half_known(models: Models, tmp_path: Path) -> None:
    given = known_pair(tmp_path, 4, 8, 8)
    half = record.Pair("a cat", given.chosen, picture(1))
    assert same(models.encode(half), models.encode(pair(0)))
    assert models.counted() == (1, 2)


def test_latents_of_another_vaes_file_are_passed_over(
    models: Models, tmp_path: Path, sd15_checkpoint: Path
) -> None:
    ours = known_pair(tmp_path, 4, 8, 8, vae=f"folder\\{sd15_checkpoint.name}")
    models.encode(ours)
    assert models.counted() == (1, 0)
    models.encode(known_pair(tmp_path, 4, 8, 8, vae="sdxl_vae.safetensors"))
    assert models.counted() == (0, 2)
    models.vae.patcher = models.vae.patcher.clone()
    models.vae.patcher.cached_patcher_init = None  # loaded by a node that does not tell
    models.encode(known_pair(tmp_path, 4, 8, 8, vae="sdxl_vae.safetensors"))
    assert models.counted() == (0, 0)


@pytest.mark.parametrize("shape", [(16, 8, 8), (16, 1, 8, 8)])
def test_a_video_models_latent_has_its_one_frame(tmp_path: Path, shape: tuple[int, ...]) -> None:
    class VideoVae:
        latent_channels, latent_dim = 16, 3

        def spacial_compression_encode(self) -> int:
            return 8

    latents: Any = importlib.import_module(f"{PACK}.nodes.host.latents")
    side = known_pair(tmp_path, *shape).chosen
    found = latents.usable_latent(side, VideoVae(), (64, 64))
    assert torch.equal(found, stored(side).reshape(16, 1, 8, 8))
    assert latents.usable_latent(side, VideoVae(), (64, 72)) is None


# What a run is found again by


def test_datasets_of_before_keep_their_keys_and_digests() -> None:
    data: Any = importlib.import_module(f"{PACK}.dpo_core.training.dataset")
    ramp = torch.arange(16.0).reshape(1, 4, 4) / 16
    options = {
        "pooled_output": None,
        "guidance": 3.5,
        "attention_mask": torch.ones(1, 2, dtype=torch.int64),
        "size": (8, [True, "a"]),
    }
    entry = [ramp.reshape(1, 2, 8), options]
    pair = replace(encoding.encoded_pair(ramp, -ramp, entry), rating_gap=0.5)
    tie = replace(
        encoding.encoded_pair(ramp, 2 * ramp, entry), tie=True, chosen_probability=0.75
    )
    image = data.EncodedImage(ramp, entry, "an image", True)
    group = data.EncodedGroup((ramp, -ramp), (1.0, 0.0), entry, "a group")
    # Of the first release: another value here begins every training anew.
    assert pair.key == "e8f023f24f731ea01a63b9c25c815695"
    digest = data.EncodedPairs((pair, tie), (image,), (group,)).digest
    assert digest == "c6878e8b0cf522ce95441364f7e3a6d3"
