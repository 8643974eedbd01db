"""What was encoded before a restart, and images that are encoded several at once."""

from __future__ import annotations

import copy
import gc
import importlib
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import numpy as np
import pytest
import torch
from hostkit.checkout import load_pack
from hostkit.paging import CARD, dynamic_paging
from hostkit.tiny_models import tiny_vae, tiny_video_vae
from PIL import Image

PACK = load_pack().__name__
encoding: Any = importlib.import_module(f"{PACK}.nodes.host.encoding")
batched_vae: Any = importlib.import_module(f"{PACK}.nodes.host.batched_vae")
cache: Any = importlib.import_module(f"{PACK}.nodes.host.encoding_cache")
identity: Any = importlib.import_module(f"{PACK}.nodes.host.encoder_identity")
progress: Any = importlib.import_module(f"{PACK}.nodes.host.encoding_progress")
record: Any = importlib.import_module(f"{PACK}.dpo_core.pairs.record")
image_store: Any = importlib.import_module(f"{PACK}.dpo_core.ranking.image_store")
store: Any = importlib.import_module(f"{PACK}.dpo_core.saving.encoding_store")
value_file: Any = importlib.import_module(f"{PACK}.dpo_core.saving.value_file")

SIZES = ((64, 64), (64, 48))


def load_clip(checkpoint: Path) -> Any:
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), output_vae=False, output_model=False
        )[1]


@pytest.fixture(scope="module")
def clips(sd15_checkpoint: Path) -> tuple[Any, Any]:
    """The same text encoder, loaded twice."""
    return load_clip(sd15_checkpoint), load_clip(sd15_checkpoint)


class Bench:
    """Encodes as the node does, with what it says in `lines`."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, clip: Any
    ) -> None:
        self.folder, self._patch, self._log = folder, patch, log
        self.clip, self.vae = clip, tiny_vae(4)
        patch.setattr(encoding, "encodings_folder", lambda: folder)
        log.set_level(logging.INFO)
        self.restart()

    def restart(self, clip: Any = None, vae: Any = None) -> None:
        """Nothing is left in memory; the same models are loaded again."""
        self._patch.setattr(encoding, "ENCODED", cache.EncodingCache(1 << 26))
        self.clip = clip or self.clip.clone()
        self.vae = vae or tiny_vae(4)

    def encode(self, *pairs: Any, guidance: float = 3.5, megapixels: float = 0.0) -> Any:
        self._log.clear()
        with torch.inference_mode(False), torch.no_grad():
            return encoding.encode_pairs(
                record.PairSet(pairs), self.vae, self.clip, megapixels, guidance
            )

    @property
    def lines(self) -> list[str]:
        """What was said at the end of the last encoding."""
        return [
            line
            for message in self._log.messages
            if message.startswith("DPO: ")
            for line in message.removeprefix("DPO: ").splitlines()
        ]

    def entries(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))


@pytest.fixture
def bench(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clips: tuple[Any, Any],
) -> Iterator[Bench]:
    yield Bench(tmp_path / "cache", monkeypatch, caplog, clips[0])
    comfy.model_management.interrupt_current_processing(False)


def pixels(seed: int, size: tuple[int, int]) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def file(folder: Path, seed: int, size: tuple[int, int] = SIZES[0]) -> Path:
    path = folder / f"{seed}.png"
    Image.fromarray(pixels(seed, size)).save(path)
    return path


def pairs(folder: Path, count: int = 3) -> list[Any]:
    """Pairs of files and pairs in memory in turn, in two sizes, two prompts."""
    found = []
    for i in range(count):
        size = SIZES[i % 2]
        sides = [
            record.Picture.from_pixels(pixels(seed, size) / 255)
            if i % 3 == 2
            else record.Picture.from_file(file(folder, seed, size))
            for seed in (2 * i, 2 * i + 1)
        ]
        found.append(record.Pair(("a cat", "a dog")[i % 2], *sides))
    return found


# After a restart


def test_after_a_restart_nothing_is_encoded_again(
    bench: Bench, tmp_path: Path, clips: tuple[Any, Any]
) -> None:
    made = bench.encode(*pairs(tmp_path))
    assert bench.lines == ["encoded 2 of 2 prompts", "encoded 6 of 6 pictures"]
    bench.restart(clips[1])
    found = bench.encode(*pairs(tmp_path))
    assert bench.lines == [
        "encoded 0 of 2 prompts, 2 known already", "encoded 0 of 6 pictures, 6 known already"
    ]  # fmt: skip
    assert found.digest == made.digest
    for one, other in zip(made, found, strict=True):
        assert one.key == other.key and torch.equal(one.chosen, other.chosen)
        assert torch.equal(one.conditioning[0], other.conditioning[0])
        assert one.conditioning[1].keys() == other.conditioning[1].keys()
    bench.restart()
    bench.encode(*pairs(tmp_path, 4))
    assert bench.lines[1] == "encoded 2 of 8 pictures, 6 known already"


def test_a_dataset_is_what_the_hosts_own_nodes_encode_one_by_one(
    bench: Bench, tmp_path: Path
) -> None:
    (one,) = bench.encode(*pairs(tmp_path, 1))
    for seed, latent in ((0, one.chosen), (1, one.rejected)):
        image = torch.from_numpy(np.array(Image.open(tmp_path / f"{seed}.png"))) / 255
        with torch.inference_mode():
            assert torch.equal(latent, tiny_vae(4).encode(image.float()[None])[0])


def test_an_encoding_that_is_stopped_goes_on_where_it_was(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = batched_vae.BatchedVae._single
    calls = []

    def pressing_stop(vae: Any, image: Any) -> Any:
        calls.append(image)
        if len(calls) == 4:
            comfy.model_management.interrupt_current_processing()
        return single(vae, image)

    with monkeypatch.context() as pressed:
        pressed.setattr(batched_vae.BatchedVae, "_single", pressing_stop)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            bench.encode(*pairs(tmp_path, 8))
    assert len(calls) == 4
    bench.restart()
    bench.encode(*pairs(tmp_path, 8))
    assert bench.lines[1] == "encoded 13 of 16 pictures, 3 known already"


def lora(clip: Any) -> Any:
    name = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    weight = clip.cond_stage_model.state_dict()[name]
    assert clip.add_patches({name: ("diff", (torch.ones_like(weight),))}, 0.5) == [name]
    return clip


def skipped(clip: Any) -> Any:
    clip.clip_layer(-2)
    return clip


def hooked(clip: Any) -> Any:
    injection = comfy.model_patcher.PatcherInjection(lambda patcher: None, lambda patcher: None)
    clip.patcher.set_injections("mine", [injection])
    return clip


@pytest.mark.parametrize(("change", "kept"), [(lora, 1), (skipped, 1), (hooked, 0)])
def test_another_text_encoder_has_entries_of_its_own(
    bench: Bench, clips: tuple[Any, Any], change: Callable[[Any], Any], kept: int
) -> None:
    one = record.Pair("a cat", *(record.Picture.from_pixels(np.zeros((8, 8, 3))),) * 2)
    bench.encode(one)
    for known in (0, kept):
        bench.restart(change(clips[1].clone()))
        bench.encode(one)
        assert bench.lines[0].endswith("1 known already") is bool(known)
    bench.restart(clips[0])
    bench.encode(one, guidance=7.0)  # is not the text encoder's
    assert bench.lines[0] == "encoded 0 of 1 prompts, 1 known already"


def test_another_vae_has_entries_of_its_own(bench: Bench, tmp_path: Path) -> None:
    def encoded(vae: Any, megapixels: float = 0.0) -> str:
        bench.restart(vae=vae)
        bench.encode(*pairs(tmp_path, 1), megapixels=megapixels)
        return bench.lines[1]

    changed, scaled, halved = tiny_vae(4), tiny_vae(4), tiny_vae(4)
    with torch.inference_mode():
        changed.first_stage_model.state_dict()["taesd_encoder.0.weight"][0, 0] += 1
        halved.first_stage_model.vae_scale.mul_(0.5)
    scaled.process_input = lambda image: image * 0.5
    every = [tiny_vae(4), tiny_vae(4, seed=1), changed, scaled, halved]
    assert {encoded(vae) for vae in every} == {"encoded 2 of 2 pictures"}
    assert encoded(tiny_vae(4), 32 * 32 / 2**20) == "encoded 2 of 2 pictures"
    for vae in (tiny_vae(4), scaled):
        assert encoded(vae) == "encoded 0 of 2 pictures, 2 known already"
    unknown = tiny_vae(4)
    unknown.process_input = unknown.first_stage_model.taesd_encoder  # more than can be told
    assert identity.vae_identity(unknown) is None


def test_what_an_encoder_is_does_not_change_as_its_weights_are_paged(
    clips: tuple[Any, Any],
) -> None:
    image = torch.rand(1, 32, 32, 3)
    with dynamic_paging(resident=0.5) as paging, torch.inference_mode():
        vae = comfy.sd.VAE(sd=tiny_vae(4).get_sd(), device=CARD)
        assert vae.patcher.is_dynamic()
        before = cache.vae_state(vae), identity.vae_identity(vae)
        for _ in range(2):
            vae.encode(image)
            assert (cache.vae_state(vae), identity.vae_identity(vae)) == before
            paging.evict()
        assert None not in before
    with torch.inference_mode():
        clip = skipped(lora(clips[1].clone()))
        before = identity.clip_identity(clip)
        clip.encode_from_tokens_scheduled(clip.tokenize("a cat"))
        assert identity.clip_identity(clip) == before
        clips[0].encode_from_tokens_scheduled(clips[0].tokenize("a cat"))
    assert identity.clip_identity(clips[0]) == identity.clip_identity(clips[1]) != before


BAD_LATENTS = (
    torch.zeros(4, 4, 4),
    torch.zeros(4, 8, 8, dtype=torch.float64),
    torch.full((4, 8, 8), float("nan")),
    [torch.zeros(4, 8, 8)],
    "a latent",
)
BAD_PROMPTS = (
    [torch.zeros(1, 77, 768)],
    [torch.full((1, 77, 768), float("inf")), {}],
    [torch.zeros(2, 77, 768), {}],
)


def test_entries_that_cannot_be_right_are_encoded_anew(bench: Bench, tmp_path: Path) -> None:
    good = bench.encode(*pairs(tmp_path, 1))
    contents = {entry: entry.read_bytes() for entry in bench.entries()}
    for is_latent, bad in [(True, bad) for bad in BAD_LATENTS] + [(False, b) for b in BAD_PROMPTS]:
        for entry, content in contents.items():
            if isinstance(value_file.value_of(content), torch.Tensor) is is_latent:
                entry.write_bytes(value_file.value_bytes(bad))
        bench.restart()
        assert bench.encode(*pairs(tmp_path, 1)).digest == good.digest
        assert ["known" in line for line in bench.lines] == [is_latent, not is_latent], bad
        for entry, content in contents.items():
            new, old = map(value_file.value_of, (entry.read_bytes(), content))
            assert identity.content_digest(new) == identity.content_digest(old)


def test_latents_that_are_not_numbers_are_not_kept(bench: Bench, tmp_path: Path) -> None:
    bench.vae.process_input = lambda image: image * float("inf")
    bench.encode(*pairs(tmp_path, 1))
    assert len(bench.entries()) == 1  # the prompt


def test_a_file_written_over_on_the_way_is_not_kept_as_what_it_was(
    bench: Bench, tmp_path: Path
) -> None:
    (given,) = pairs(tmp_path, 1)
    assert given.chosen.digest != given.rejected.digest  # read now, as the loader does
    file(tmp_path, 0).write_bytes(file(tmp_path, 5).read_bytes())
    bench.encode(given)
    bench.restart()
    bench.encode(given)
    assert bench.lines[1] == "encoded 1 of 2 pictures, 1 known already"


def test_a_sessions_images_are_kept_by_what_they_show(bench: Bench, tmp_path: Path) -> None:
    images = image_store.ImageStore(tmp_path / "session" / "images")
    images.folder.mkdir(parents=True)
    shown = [pixels(seed, SIZES[0]) for seed in (0, 1)]
    sides = [
        record.Picture.from_file(images.path(one.id), size=SIZES[0], digest=one.id)
        for one in images.add([image_store.NewImage(one) for one in shown], "a cat")
    ]
    for line in ("encoded 2 of 2 pictures", "encoded 0 of 2 pictures, 2 known already"):
        bench.restart()
        bench.encode(record.Pair("a cat", *sides))
        assert bench.lines[1] == line


def test_without_a_folder_to_write_to_encoding_goes_on_and_says_so(
    bench: Bench, tmp_path: Path
) -> None:
    bench.folder.write_text("")
    bench.encode(*pairs(tmp_path, 2))
    assert bench.lines[:2] == ["encoded 2 of 2 prompts", "encoded 4 of 4 pictures"]
    assert len(bench.lines) == 3 and bench.lines[2].startswith("The folder of encoded images")


def test_a_pixel_models_images_are_its_latents(bench: Bench, tmp_path: Path) -> None:
    pixel = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    for known in (False, True):
        bench.restart(vae=pixel)
        found = bench.encode(*pairs(tmp_path, 2))
        assert ("known" in bench.lines[1]) is known
        for one, (width, height) in zip(found, SIZES, strict=True):
            assert one.chosen.shape == (3, height, width)
        image = torch.from_numpy(pixels(0, SIZES[0])).float() / 255
        assert torch.allclose(found[0].chosen, image.movedim(-1, 0) * 2 - 1, atol=1e-6)


def test_a_video_models_images_are_clips_of_one_frame(bench: Bench, tmp_path: Path) -> None:
    for known in (False, True):
        bench.restart(vae=tiny_video_vae())
        found = bench.encode(*pairs(tmp_path, 2))
        assert ("known" in bench.lines[1]) is known
        for one, (width, height) in zip(found, SIZES, strict=True):
            assert one.chosen.shape == (16, 1, height // 8, width // 8)
    image = torch.from_numpy(pixels(0, SIZES[0])).float() / 255
    with torch.inference_mode():
        assert torch.equal(found[0].chosen, tiny_video_vae().encode(image[None])[0])


# Several at once


class Counted:
    """A VAE, and how many images it was given at each call."""

    def __init__(self, vae: Any, patch: pytest.MonkeyPatch) -> None:
        self.vae, self.calls = vae, []
        encode = type(vae.first_stage_model).encode

        def counting(module: Any, images: Any, *rest: Any) -> Any:
            self.calls.append(len(images))
            return encode(module, images, *rest)

        patch.setattr(type(vae.first_stage_model), "encode", counting)

    def encode(self, count: int, size: int = 16) -> list[Any]:
        made = batched_vae.BatchedVae(self.vae, cache.vae_state(self.vae), (size, size), count)
        images = torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(0))
        found: list[Any] = []
        while len(found) < count:
            found += made.encode(list(images[len(found) : len(found) + made.at_once]))
        for image, latent in zip(images, found, strict=True):
            assert torch.equal(latent.values, copy.copy(self.vae).encode(image[None])[0])
        del self.calls[-count:]
        return found


@pytest.fixture
def pixel_vae(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Of which many at once are as one by one, to the last bit; and said to be quicker."""
    monkeypatch.setattr(batched_vae, "SAVING", 1e9)
    monkeypatch.setattr(batched_vae, "WORTHWHILE", 2)
    return Counted(comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}), monkeypatch)


TRIED = [1] + [1] * 8 + [8] * 2


def test_images_are_encoded_together_where_that_changes_no_bit(pixel_vae: Counted) -> None:
    pixel_vae.encode(35)
    assert pixel_vae.calls == TRIED + [8] * 3 + [1] * 3
    pixel_vae.calls.clear()
    pixel_vae.encode(35)  # is known now
    assert pixel_vae.calls == [8] * 4 + [1] * 3
    pixel_vae.calls.clear()
    pixel_vae.encode(5)
    assert pixel_vae.calls[-3:] == [2, 2, 1]


def test_images_are_encoded_one_by_one_where_it_saves_no_time(
    pixel_vae: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_vae, "SAVING", 0)
    pixel_vae.encode(20)
    assert pixel_vae.calls == TRIED + [1] * 12


def test_images_are_encoded_one_by_one_where_a_batch_changes_bits(
    pixel_vae: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = type(pixel_vae.vae.first_stage_model).encode

    def rounding(module: Any, images: Any, *rest: Any) -> Any:
        return encode(module, images, *rest) * (1 + 2**-23 * (len(images) > 1))

    monkeypatch.setattr(type(pixel_vae.vae.first_stage_model), "encode", rounding)
    pixel_vae.encode(20)
    assert pixel_vae.calls == [*TRIED[:-1], *[1] * 12]


@pytest.mark.parametrize("most", [1, 0])
def test_out_of_memory_fewer_are_encoded_and_then_tiles_as_the_host_does(
    pixel_vae: Counted, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    encode = type(pixel_vae.vae.first_stage_model).encode
    pixel_vae.encode(16)
    pixel_vae.calls.clear()

    def full(module: Any, images: Any, *rest: Any) -> Any:
        out = encode(module, images, *rest)
        if len(images) > most and not tiled:
            raise torch.OutOfMemoryError("out of memory")
        return out

    tiled: list[Any] = []

    def tiles(vae: Any, images: Any, **options: Any) -> Any:
        tiled.append(images)
        return images

    monkeypatch.setattr(type(pixel_vae.vae.first_stage_model), "encode", full)
    monkeypatch.setattr(type(pixel_vae.vae), "encode_tiled_", tiles)
    made = batched_vae.BatchedVae(pixel_vae.vae, cache.vae_state(pixel_vae.vae), (16, 16), 16)
    assert made.at_once == 8
    found = made.encode(list(torch.zeros(8, 16, 16, 3)))
    assert made.at_once == 1 and pixel_vae.calls[0] == 8
    assert [one.tiled for one in found][:1] == [most == 0] and bool(tiled) is (most == 0)


def test_a_latent_made_in_tiles_is_not_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type(bench.vae.first_stage_model)
    encode = module.encode

    def full(self: Any, images: Any) -> Any:
        if not tiling:
            tiling.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return encode(self, images)

    tiling: list[bool] = []
    monkeypatch.setattr(module, "encode", full)
    bench.encode(*pairs(tmp_path, 1))
    assert len(bench.entries()) == 2  # the prompt, and the other picture


def test_a_vae_is_let_go_of_after_encoding(pixel_vae: Counted) -> None:
    gone = weakref.ref(pixel_vae.vae.patcher)
    gc.disable()
    try:
        pixel_vae.encode(20)
        comfy.model_management.unload_all_models()
        del pixel_vae.vae
        assert gone() is None
    finally:
        gc.enable()


def test_a_video_models_images_are_never_a_batch(pixel_vae: Counted) -> None:
    video = copy.copy(pixel_vae.vae)
    video.latent_dim = 3
    assert batched_vae.BatchedVae(video, cache.vae_state(video), (16, 16), 999).at_once == 1
    assert batched_vae.BatchedVae(pixel_vae.vae, None, (16, 16), 999).at_once == 1


def test_a_batch_fits_into_memory_twice(
    pixel_vae: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = pixel_vae.vae
    need = vae.memory_used_encode((1, 3, 16, 16), vae.vae_dtype)
    for fitting, at_once in ((1, 1), (3.9, 1), (4, 2), (11, 4), (99, 8)):
        monkeypatch.setattr(
            type(vae.patcher), "get_free_memory", lambda *_, free=fitting * need: free
        )
        made = batched_vae.BatchedVae(vae, cache.vae_state(vae), (16, 16), 999)
        assert made.at_once == at_once
