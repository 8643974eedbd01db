"""Sampling in the middle of training changes neither the pictures nor the training."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.load_states import LOAD_STATES, load_state, sample, with_upstream_loras
from hostkit.plain_lora import upstream_lora
from hostkit.tiny_models import tiny_patcher
from hostkit.training import (
    Training,
    adapter_gradients,
    random_pairs,
    steps,
    training,
    training_rows,
)
from torch import Tensor

STEPS = 3


def with_another_lora(patcher: ModelPatcher, kind: str) -> ModelPatcher:
    lora, _ = upstream_lora(kind, seed=7)
    return comfy.sd.load_lora_for_models(patcher, None, lora, 0.5, 0)[0]


def train(run: Training, kind: str, previews: list[ModelPatcher]) -> tuple[Tensor, list[Tensor]]:
    """All parameters after training, and what the previews between the steps showed."""
    shown = []
    for report in steps(run, random_pairs(kind), STEPS, grad_accumulation_steps=1):
        if report.step < STEPS:
            shown += [sample(patcher, kind) for patcher in previews]
    parameters = run.adapter.parameters().values()
    return torch.cat([p.detach().flatten().clone() for p in parameters]), shown


@pytest.mark.parametrize(
    ("kind", "state"), [("sd3", state) for state in LOAD_STATES] + [("flux_guidance", "resident")]
)
def test_previews_show_the_users_models_and_training_goes_on(kind: str, state: str) -> None:
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
        without = sample(tiny_patcher(kind), kind)
        users = [patcher, with_another_lora(patcher, kind)]
        expected = [sample(user, kind) for user in users]
        with training(patcher, filled=False) as run:
            undisturbed, _ = train(run, kind, [])
        with training(patcher, filled=False) as run:
            disturbed, shown = train(run, kind, users)
            before = adapter_gradients(run, training_rows(kind, run.denoiser))
            sample(patcher, kind)
            after = adapter_gradients(run, training_rows(kind, run.denoiser))
    assert torch.equal(undisturbed, disturbed)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(shown) == (STEPS - 1) * len(users)
    for picture, alone in zip(shown, expected * (STEPS - 1), strict=True):
        assert torch.equal(picture, alone)
        assert (picture - without).abs().max() > 1e-2  # the upstream LoRAs act


def make_room(patcher: ModelPatcher, memory: float) -> None:
    """What the host does to a model when another one needs this many bytes."""
    models = comfy.model_management.current_loaded_models
    loaded = next(loaded for loaded in models if loaded.model is patcher)
    with torch.inference_mode():
        if loaded.model_unload(memory):
            models.remove(loaded)


def bare(patcher: ModelPatcher) -> ModelPatcher:
    return patcher


@pytest.mark.parametrize(
    ("state", "prepare"),
    [(state, with_upstream_loras("sd3")) for state in LOAD_STATES] + [("plain", bare)],
)
def test_unloading_in_between_changes_no_gradient(
    state: str, prepare: Callable[[ModelPatcher], ModelPatcher]
) -> None:
    with (
        load_state(state, "sd3", prepare) as (patcher, _),
        training(patcher) as run,
    ):
        rows = training_rows("sd3", run.denoiser)
        before = adapter_gradients(run, rows)
        make_room(run.trained.patcher, run.trained.patcher.loaded_size() / 2)
        partly = adapter_gradients(run, rows)
        make_room(run.trained.patcher, 1e30)
        fully = adapter_gradients(run, rows)
    for name, gradient in before.items():
        for after in (partly, fully):
            assert (after[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_lora_of_a_small_layer_survives_another_models_need_for_memory() -> None:
    fp8 = {"dtype": torch.float8_e4m3fn}  # small enough for layers that are loaded whole
    with (
        load_state("resident", "sd3", with_upstream_loras("sd3"), **fp8) as (patcher, _),
        training(patcher) as run,
        torch.no_grad(),
    ):
        rows = training_rows("sd3", run.denoiser)
        before = run.denoiser.predict(rows).residual
        # More than all pages hold: what was loaded whole goes as well.
        make_room(run.trained.patcher, run.trained.patcher.loaded_size() - 1)
        after = run.denoiser.predict(rows).residual
    assert torch.equal(before, after)
