"""Pictures made while training runs: what they show, what they leave, and that training is deaf."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.load_states import LOAD_STATES, load_state, sample, with_upstream_loras
from hostkit.tiny_models import TINY_MODELS, tiny_patcher, tiny_vae
from hostkit.training import pack_module, prompt, random_pairs, train_settings
from PIL import Image

Interrupted = comfy.model_management.InterruptProcessingException
PROMPTS = ("a warm sky", "a cold sea")
SIDE = 64
STEPS = 3
TIMES = ("run.json",)


class HungryVae:
    """A VAE whose decoding needs the whole card, unless it is not `hungry`, or fails."""

    def __init__(
        self, kind: str, end: Callable[[], object] = lambda: None, hungry: bool = True
    ) -> None:
        self._vae = tiny_vae(TINY_MODELS[kind].latent_format().latent_channels)
        self._end, self._hungry, self.decoded = end, hungry, 0

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled() and not comfy.model_management.in_training
        self.decoded += 1
        if self._hungry:
            comfy.model_management.unload_all_models()
        # What a sampler or a model may do with the generators that everybody shares.
        torch.rand(1)
        np.random.rand()
        random.random()
        self._end()
        return self._vae.decode(latent)


def preview_of(kind: str, vae: Any, **options: Any) -> Any:
    module = pack_module("nodes.host.preview")
    values = {"every": 2, "steps": 2, "cfg": 2.0, "width": SIDE, "height": SIDE} | options
    settings = module.PreviewSettings(prompts="\n\n".join(PROMPTS) + "\n", **values)
    entries = tuple(prompt(kind, seed) for seed in range(21, 22 + len(PROMPTS)))
    return module.Preview(settings, entries[:-1], entries[-1], vae)


def trainer_of(
    patcher: ModelPatcher,
    kind: str,
    preview: Any = None,
    origin: Any = None,
    adapter_kind: str = "lora",
    **settings: Any,
) -> Any:
    adapter = pack_module("dpo_core.training.adapter").AdapterSettings(2, 2.0, adapter_kind)
    with torch.inference_mode(False):
        pairs = random_pairs(kind)
        nothing = pack_module("dpo_core.training.dataset").EncodedPairs(())
        return pack_module("nodes.host.trainer").build_trainer(
            patcher, pairs, train_settings(grad_accumulation_steps=1, **settings), adapter, True,
            origin or pack_module("nodes.host.lineage").Origin(), nothing, preview=preview,
        )


def train(trainer: Any, steps: int = STEPS) -> Any:
    """Steps as DPOTrainSteps does them: under inference mode, as nodes are run."""
    progress = pack_module("nodes.host.progress").Progress(steps, None)
    with torch.inference_mode():
        return pack_module("nodes.host.training").train_steps(trainer, steps, progress)


def results(run: Path) -> dict[str, bytes]:
    """What training leaves, byte for byte, besides pictures and the times of day."""
    files = [path for path in run.iterdir() if path.is_file() and path.name not in TIMES]
    return {path.name: path.read_bytes() for path in files if not path.name.startswith(".")}


def columns(run: Path) -> list[int | None]:
    index = json.loads((run / "previews" / "index.json").read_text())
    for column in index["columns"]:
        assert len(column["files"]) == len(index["prompts"])
        assert all((run / "previews" / name).is_file() for name in column["files"])
    return [column["step"] for column in index["columns"]]


def picture(run: Path, name: str) -> np.ndarray:
    with Image.open(run / "previews" / f"{name}.png") as image:
        assert image.size == (SIDE, SIDE)
        return np.asarray(image.convert("RGB"), dtype=np.int16)


@contextmanager
def output(folder: Path) -> Iterator[Path]:
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(folder))
    try:
        yield folder
    finally:
        folder_paths.set_output_directory(before)


def as_ksampler(patcher: ModelPatcher, kind: str, number: int) -> np.ndarray:
    """What the host makes of a prompt with this model, by its own nodes' code."""
    import nodes

    preview = preview_of(kind, None)
    latent = {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8), "downscale_ratio_spacial": 8}
    with torch.inference_mode():
        (sampled,) = nodes.common_ksampler(
            patcher, number, 2, 2.0, "euler", "normal", [preview.positive[number]],
            [preview.negative], latent,
        )
        vae = tiny_vae(TINY_MODELS[kind].latent_format().latent_channels)
        (pixels,) = vae.decode(sampled["samples"])
    return (255 * pixels.clamp(0, 1)).round().numpy().astype(np.int16)


@pytest.mark.parametrize(
    ("kind", "state", "adapter", "hungry"),
    [("sd3", state, "lora", True) for state in LOAD_STATES]
    + [("sd3", state, "lora", False) for state in ("half_resident", "partial")]
    + [("sd3", "half_resident", adapter, True) for adapter in ("dora", "lokr")]
    + [("flux_guidance", "half_resident", "lora", True)],
)
def test_training_is_the_same_to_the_byte_with_and_without_them(
    kind: str, state: str, adapter: str, hungry: bool, tmp_path: Path
) -> None:
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
        users = sample(patcher, kind)
        with output(tmp_path / "without"):
            plain = train(trainer_of(patcher, kind, adapter_kind=adapter))
        vae = HungryVae(kind, hungry=hungry)
        generators = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
        with output(tmp_path / "with"):
            preview = preview_of(kind, vae)
            shown = train(trainer_of(patcher, kind, preview, adapter_kind=adapter))
        assert torch.equal(torch.get_rng_state(), generators[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == generators[1:]
        assert not comfy.model_management.in_training
        assert torch.equal(sample(patcher, kind), users)
    one, other = plain.trainer.run, shown.trainer.run
    assert one.id == other.id and one.path != other.path
    assert results(one.path) == results(other.path)
    assert f"step_{STEPS:08d}.safetensors" in results(one.path)
    assert all(torch.equal(shown.lora[name], tensor) for name, tensor in plain.lora.items())
    assert vae.decoded == 3 * len(PROMPTS)
    assert columns(other.path) == [None, 2, 3]
    assert (picture(other.path, "base_0") != picture(other.path, "step_00000002_0")).any()


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("state", ["plain", "half_resident"])
def test_they_show_what_ksampler_makes_of_the_users_model_and_of_the_saved_lora(
    state: str, ema: float, tmp_path: Path
) -> None:
    kind = "sd3"
    optimizer = pack_module("dpo_core.training.optimizer").OptimizerSettings(
        0.05, warmup_steps=0, ema=ema
    )
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _), output(tmp_path):
        preview = preview_of(kind, HungryVae(kind))
        trained = train(trainer_of(patcher, kind, preview, optimizer=optimizer))
        run = trained.trainer.run.path
        lora = {name: tensor.clone() for name, tensor in trained.lora.items()}
        with_lora, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0)
        for number in range(len(PROMPTS)):
            base, last = (picture(run, f"{name}_{number}") for name in ("base", "step_00000003"))
            # To a level of 255: the host rounds a LoRA into the weights, training adds it beside.
            assert abs(base - as_ksampler(patcher, kind, number)).max() <= 1
            assert abs(last - as_ksampler(with_lora, kind, number)).max() <= 1
            assert abs(base - last).max() > 5


def stop() -> None:
    comfy.model_management.interrupt_current_processing()
    comfy.model_management.throw_exception_if_processing_interrupted()


def on_call(number: int, end: Callable[[], object]) -> Callable[[], object]:
    calls = iter(range(1, 1000))
    return lambda: end() if next(calls) == number else None


@pytest.mark.parametrize(("picture_number", "kept"), [(1, 0), (3, 1), (8, 3)])
def test_stop_is_obeyed_at_once_and_nothing_learned_is_lost(
    picture_number: int, kept: int, tmp_path: Path
) -> None:
    kind = "sd3"
    with load_state("half_resident", kind, with_upstream_loras(kind)) as (patcher, _):
        users = sample(patcher, kind)
        with output(tmp_path / "whole"):
            whole = train(trainer_of(patcher, kind))
        with output(tmp_path / "stopped"):
            vae = HungryVae(kind, on_call(picture_number, stop))
            trainer = trainer_of(patcher, kind, preview_of(kind, vae, every=1))
            with pytest.raises(Interrupted):
                train(trainer)
            assert vae.decoded == picture_number
            assert torch.equal(sample(patcher, kind), users)
            assert trainer.run.checkpoints() == ([kept] if kept else [])
            gone_on = train(trainer)
        assert gone_on.trainer.run.id == whole.trainer.run.id
        last = f"step_{STEPS:08d}.safetensors"
        assert results(trainer.run.path)[last] == results(whole.trainer.run.path)[last]
        # Where training was over, nothing is sampled any more.
        assert columns(trainer.run.path) == ([None, 1, 2] if kept == STEPS else [None, 1, 2, 3])


def test_stop_in_the_sampler_leaves_the_model_clean(tmp_path: Path) -> None:
    kind = "sd3"
    with load_state("half_resident", kind, with_upstream_loras(kind)) as (patcher, _):
        users = sample(patcher, kind)
        passes: list[int] = []

        def stop_in_the_second_preview(*_: Any) -> None:
            if not comfy.model_management.in_training:
                passes.append(1)
                if len(passes) == 6:  # four of the base: two pictures of two steps
                    stop()

        model = patcher.model.diffusion_model
        handle = model.register_forward_pre_hook(stop_in_the_second_preview)
        with output(tmp_path):
            vae = HungryVae(kind)
            trainer = trainer_of(patcher, kind, preview_of(kind, vae))
            with pytest.raises(Interrupted):
                train(trainer)
            handle.remove()
            assert (len(passes), vae.decoded) == (6, len(PROMPTS))
            assert trainer.run.checkpoints() == [2]
        assert torch.equal(sample(patcher, kind), users)


def test_the_host_makes_room_for_training_again_before_it_goes_on(tmp_path: Path) -> None:
    kind = "sd3"
    with load_state("half_resident", kind, with_upstream_loras(kind)) as (patcher, _):
        first = []

        def note(*_: Any) -> None:
            if comfy.model_management.in_training:
                last_loaded = comfy.model_management.loaded_models()[0]
                first.append(last_loaded.model is patcher.model)

        handle = patcher.model.diffusion_model.register_forward_pre_hook(note)
        with output(tmp_path):
            train(trainer_of(patcher, kind, preview_of(kind, HungryVae(kind, hungry=False))))
        handle.remove()
    assert first and all(first)


@pytest.mark.parametrize("shape", [(1, 8, 16, 3), (1, 5, 8, 16, 3)], ids=["image", "clip"])
def test_the_first_frame_is_shown_in_its_own_colours(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1

    class Decoder:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return pixels

    sampling = pack_module("nodes.host.sampling")
    shown = np.asarray(sampling.picture(sampling.decoded(Decoder(), torch.zeros(1))))
    frame = pixels[0] if len(shape) == 4 else pixels[0, 0]
    assert shown.shape == (8, 16, 3)
    assert abs(shown.astype(float) - 255 * frame.numpy().clip(0, 1)).max() <= 0.5


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("in a layer")


def broken() -> None:
    raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize(
    ("end", "said"), [(out_of_memory, "ran out of memory"), (broken, "shapes do not fit")]
)
@pytest.mark.parametrize("state", ["resident", "partial"])
def test_a_preview_that_fails_ends_the_previews_and_not_the_training(
    end: Callable[[], None], said: str, state: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kind = "sd3"
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
        users = sample(patcher, kind)
        with output(tmp_path / "without"):
            plain = train(trainer_of(patcher, kind))
        vae = HungryVae(kind, on_call(3, end))  # at the second of three columns
        with output(tmp_path / "with"), caplog.at_level(logging.WARNING):
            shown = train(trainer_of(patcher, kind, preview_of(kind, vae)))
        assert torch.equal(sample(patcher, kind), users)
    assert results(plain.trainer.run.path) == results(shown.trainer.run.path)
    assert vae.decoded == 3
    (warning,) = [line for line in caplog.messages if "previews could not go on" in line]
    assert said in warning and warning.endswith("Training goes on without them.")
    assert columns(shown.trainer.run.path) == [None]


def test_a_folder_that_cannot_be_written_ends_the_previews_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "sd3"
    with load_state("plain", kind) as (patcher, _), output(tmp_path):
        trainer = trainer_of(patcher, kind, preview_of(kind, HungryVae(kind)))
        trainer.run.open()
        (trainer.run.path / "previews").write_text("in the way")
        assert train(trainer).trainer.step == STEPS
    assert sum("the pictures cannot be written" in line for line in caplog.messages) == 1


def test_start_and_end_are_shown_whatever_the_interval_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "sd3"
    with load_state("plain", kind) as (patcher, _), output(tmp_path):
        vae = HungryVae(kind)
        with caplog.at_level(logging.INFO):
            first = train(trainer_of(patcher, kind, preview_of(kind, vae, every=1000)), 1)
            second = train(first.trainer, 2)
        run = second.trainer.run.path
        assert columns(run) == [None, 1, 3]
        assert vae.decoded == 3 * len(PROMPTS)
        assert any(
            "preview of the base: 2 pictures in " in line for line in caplog.messages
        )
        assert any("previews have taken" in line for line in caplog.messages)

        # Found on disk: nothing is sampled, and what is there is shown.
        found = train(trainer_of(patcher, kind, preview_of(kind, vae, every=1000)), 3)
        assert found.found and vae.decoded == 3 * len(PROMPTS)
        (image,) = pack_module("nodes.host.filmstrip").strip_on_node(found.trainer)
        assert image == {
            "filename": "strip.png", "subfolder": f"dpo/runs/{run.name}/previews",
            "type": "output",
        }

        # Another training that goes on from there takes the base and its start over.
        origin = pack_module("nodes.host.lineage").Origin(run=second.trainer.run, step=3)
        other = train(
            trainer_of(patcher, kind, preview_of(kind, vae, every=1000), origin, seed=1), 2
        )
        assert columns(other.trainer.run.path) == [None, 3, 5]
        assert vae.decoded == 4 * len(PROMPTS)


def test_of_a_refined_lora_base_and_start_are_two_pictures(tmp_path: Path) -> None:
    kind = "sd3"
    with load_state("plain", kind) as (patcher, _), output(tmp_path):
        learned = train(trainer_of(patcher, kind)).lora
        weights = pack_module("nodes.host.lora_keys").read_existing(
            patcher, {name: 20 * tensor for name, tensor in learned.items()}
        ).weights
        origin = pack_module("nodes.host.lineage").Origin(existing=weights)
        preview = preview_of(kind, HungryVae(kind), every=1000)
        run = train(trainer_of(patcher, kind, preview, origin), 1).trainer.run.path
        assert columns(run) == [None, 0, 1]
        assert abs(picture(run, "base_0") - as_ksampler(tiny_patcher(kind), kind, 0)).max() <= 1
        assert (picture(run, "base_0") != picture(run, "step_00000000_0")).any()
