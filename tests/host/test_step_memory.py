"""A step takes no more memory than an ordinary one, keeps nothing of the base, and is foreseen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.full_size import full_size_pairs, full_size_patcher, shape_training
from hostkit.load_states import load_state
from hostkit.tiny_models import tiny_patcher
from hostkit.training import (
    Training,
    objective,
    pack_module,
    random_pairs,
    steps,
    trainer_on,
    training,
    training_rows,
)

FULL_SIZE = ["sd15", "sdxl", "sd35", "flux", "qwen_image"]
KINDS = ["sd1", "sdxl", "sd35", "flux_dev", "qwen_image"]
WAYS = [(kind, "sequential", True, 1, 4) for kind in KINDS] + [
    ("sdxl", "full_concurrent", False, 2, 16), ("flux_dev", "policy_concurrent", True, 2, 16)
]  # fmt: skip
MOST = 1.05


@functools.cache
def model(kind: str) -> ModelPatcher:
    return tiny_patcher(kind)


@functools.cache
def wide(kind: str) -> ModelPatcher:
    return full_size_patcher(kind, shallow=True)


@pytest.fixture(scope="module", autouse=True)
def _models_go_in_time() -> Iterator[None]:
    yield
    wide.cache_clear()
    model.cache_clear()  # the host takes models apart with modules that are gone at exit


def batch_of(denoiser: Any, pairs: Any) -> Any:
    plan, noise = pack_module("dpo_core.training.plan"), pack_module("dpo_core.training.noise")
    return pack_module("dpo_core.training.batch").gather(
        pairs.pairs, plan.MicroBatch(tuple(range(len(pairs))), 0), denoiser, noise.NoiseSettings(),
        0, True,
    )


def peak(action: Callable[[], object], counter: Any = None) -> int:
    counter = counter or pack_module("dpo_core.training.live_bytes").LiveBytes
    with counter() as memory:
        action()
    return int(memory.peak)


def step(run: Training, batch: Any, mode: str, cache: Any = None, **objective: Any) -> None:
    objectives = pack_module("dpo_core.training.objectives")
    schedule = pack_module("dpo_core.training.four_passes").SCHEDULES[mode]
    with run.adapter.micro_batch(0, 1, 0):
        schedule(
            run.denoiser, run.adapter, batch, objectives.Objective(**objective), 1.0, cache=cache
        )


def shape_peak(action: Callable[[], object]) -> int:
    return peak(action, pack_module("nodes.host.step_memory")._Memory)


def ordinary(run: Training, batch: Any) -> int:
    """One forward and backward pass of one image."""
    rows = batch.images[0]
    return shape_peak(lambda: run.denoiser.predict(rows).residual.square().mean().backward())


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("kind", FULL_SIZE)
def test_score_first_peaks_where_one_ordinary_step_does(kind: str, checkpointing: bool) -> None:
    with shape_training(wide(kind), checkpointing) as run:
        batch = batch_of(run.denoiser, full_size_pairs(kind))
        most = MOST * ordinary(run, batch)
        assert shape_peak(lambda: step(run, batch, "sequential")) <= most


@pytest.mark.parametrize("checkpointing", [True, False])
def test_no_objective_and_no_cache_of_the_reference_changes_that(checkpointing: bool) -> None:
    cache = pack_module("dpo_core.training.reference_cache").ReferenceCache(1e-4)
    with shape_training(wide("flux"), checkpointing) as run:
        batch = batch_of(run.denoiser, full_size_pairs("flux"))
        one = ordinary(run, batch)
        assert shape_peak(lambda: step(run, batch, "sequential", safeguard=0.5)) <= MOST * one
        assert shape_peak(lambda: step(run, batch, "sequential", loss="nft_pair")) <= MOST * one
        cache.learn(batch, torch.ones(2, 1))
        assert shape_peak(lambda: step(run, batch, "sequential", cache)) <= MOST * one
        assert shape_peak(lambda: step(run, batch, "full_concurrent")) > 1.5 * one


@pytest.mark.parametrize(("kind", "mode", "checkpointing", "batch_size", "rank"), WAYS)
def test_what_a_training_needs_is_known_beforehand(
    kind: str, mode: str, checkpointing: bool, batch_size: int, rank: int
) -> None:
    settings = {"execution_mode": mode, "batch_size": batch_size}
    pairs = random_pairs(kind, 2, size=None if kind == "sd35" else 16)
    given = trainer_on(model(kind), pairs, checkpointing, rank, **settings)
    need = pack_module("nodes.host.memory").need_of(given)
    with training(model(kind), rank=rank, filled=False, checkpointing=checkpointing) as run:
        run.denoiser.load()
        parameters = sum(parameter.nbytes for parameter in run.adapter.parameters().values())
        taken = parameters + peak(lambda: list(steps(run, pairs, 2, **settings)))
    assert need.exact
    assert need.total == pytest.approx(taken, rel=0.15)


def look(tensor: torch.Tensor) -> tuple[int, float]:
    """The same for a copy, in whatever shape."""
    return tensor.numel(), round(float(tensor.detach().double().sum()), 3)


@pytest.mark.parametrize(
    ("kind", "state"), [*[(kind, "evicted") for kind in KINDS], ("sd35", "plain")]
)
def test_nothing_of_the_base_is_kept_for_backward(kind: str, state: str) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with load_state(state, kind) as (patcher, _), training(patcher, checkpointing=False) as run:
        rows = training_rows(kind, run.denoiser)
        layers = [m for m in patcher.model.modules() if hasattr(m, "comfy_cast_weights")]
        weights = [w for m in layers for w in m.parameters(recurse=False) if w.ndim > 1]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = objective(run.denoiser.predict(rows).residual)
        own = {w.untyped_storage().data_ptr() for w in weights}
        assert len(own) > 10 and len(kept) > 50
        assert not [t.shape for t in kept if t.untyped_storage().data_ptr() in own]
        values = {look(weight) for weight in weights}
        assert not [t.shape for t in kept if look(t) in values], "copies"
        value.backward()
