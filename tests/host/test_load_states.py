"""However the host holds the weights, gradients are those of a plain, fully loaded model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hostkit.load_states import (
    LOAD_STATES,
    load_state,
    sample,
    upstream_deltas,
    with_upstream_loras,
)
from hostkit.paging import dynamic_paging
from hostkit.plain_lora import Deltas, true_gradients, true_model
from hostkit.tiny_models import TINY_MODELS
from hostkit.training import (
    adapter_gradients,
    compare,
    random_pairs,
    steps,
    training,
    training_rows,
)
from torch import Tensor

STORAGES = {"fp8": {"dtype": torch.float8_e4m3fn}, "quantised": {"quantized": True}}
# Every state for the quickest family, those that page or borrow for the others.
CASES = [("sd3", state) for state in LOAD_STATES] + [
    (kind, state) for kind in ("sd15", "flux_guidance") for state in ("evicted", "partial")
]
TOLERANCE = 2e-5


@functools.cache
def truth(kind: str, storage: str = "fp32", upstream: bool = False) -> dict[str, Tensor]:
    with training(true_model(kind)) as run:
        weights, rows = run.adapter.snapshot(), training_rows(kind, run.denoiser)
    deltas: Deltas | None = upstream_deltas(kind) if upstream else None
    return true_gradients(kind, true_model(kind, storage, deltas), weights, rows)


def gradients(
    kind: str, state: str, checkpointing: bool, upstream: bool = False, **options: object
) -> dict[str, Tensor]:
    prepare = with_upstream_loras(kind) if upstream else lambda patcher: patcher
    with (
        load_state(state, kind, prepare, **options) as (patcher, between),
        training(patcher, checkpointing=checkpointing) as run,
    ):
        return adapter_gradients(run, training_rows(kind, run.denoiser), between)


@pytest.mark.parametrize("state", LOAD_STATES)
@pytest.mark.parametrize("kind", TINY_MODELS)
def test_gradients_of_fp32_weights(kind: str, state: str) -> None:
    error, cosine = compare(gradients(kind, state, checkpointing=False), truth(kind))
    assert error < TOLERANCE and cosine > 0.999999


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_gradients_of_checkpointed_blocks(kind: str, state: str) -> None:
    error, cosine = compare(gradients(kind, state, checkpointing=True), truth(kind))
    assert error < TOLERANCE and cosine > 0.999999


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("kind", "state"), CASES)
def test_gradients_of_fp8_and_quantised_weights(kind: str, storage: str, state: str) -> None:
    found = gradients(kind, state, False, **STORAGES[storage])
    error, cosine = compare(found, truth(kind, storage))
    assert error < TOLERANCE and cosine > 0.999999


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_gradients_in_half_precision(kind: str, state: str) -> None:
    found = gradients(kind, state, True, dtype=torch.bfloat16)
    error, cosine = compare(found, truth(kind, "bf16"))
    assert cosine > 0.999 and error < 0.1  # bf16 keeps 8 bits
    assert all(gradient.dtype == torch.float32 for gradient in found.values())


@pytest.mark.parametrize(("kind", "state"), CASES)
def test_gradients_with_loras_upstream(kind: str, state: str) -> None:
    error, cosine = compare(gradients(kind, state, False, upstream=True), truth(kind, "fp32", True))
    assert error < TOLERANCE and cosine > 0.999999
    without, _ = compare(truth(kind, "fp32", True), truth(kind))
    assert without > 0.1  # the upstream LoRAs are not negligible


@pytest.mark.parametrize("storage", [{"dtype": torch.bfloat16}, *STORAGES.values()])
@pytest.mark.parametrize("mode", ["sequential", "policy_concurrent", "full_concurrent"])
def test_first_margins_are_zero_where_the_host_rounds_loras_upstream(
    storage: dict[str, Any], mode: str
) -> None:
    with dynamic_paging(resident=1.0) as paging:
        patcher = with_upstream_loras("sd3")(paging.load("sd3", **storage))
        with training(patcher, filled=False) as run:
            (report,) = steps(run, random_pairs("sd3"), 1, execution_mode=mode)
    assert report.metrics["dpo/reward_margin"] == 0
    assert report.metrics["prediction_change"] == 0


@pytest.mark.parametrize("storage", [{"dtype": torch.bfloat16}, *STORAGES.values()])
def test_an_eviction_between_reference_and_policy_changes_no_weight(
    storage: dict[str, Any],
) -> None:
    with dynamic_paging(resident=1.0) as paging:
        patcher = with_upstream_loras("sd3")(paging.load("sd3", **storage))
        with training(patcher, filled=False) as run, torch.no_grad():
            rows = training_rows("sd3", run.denoiser)
            first = run.denoiser.predict(rows).residual
            again = run.denoiser.predict(rows).residual
            paging.evict()
            evicted = run.denoiser.predict(rows).residual
            paging.resident = 0.4
            partly = run.denoiser.predict(rows).residual
    assert torch.equal(first, again)
    assert torch.equal(first, evicted)
    assert torch.equal(first, partly)


@pytest.mark.parametrize("storage", [{"dtype": torch.bfloat16}, *STORAGES.values()])
def test_sampling_after_training_meets_loras_upstream_as_ever(storage: dict[str, Any]) -> None:
    with dynamic_paging(resident=1.0) as paging:
        patcher = with_upstream_loras("sd3")(paging.load("sd3", **storage))
        exact, rounded = (sample(patcher, "sd3") for _ in range(2))
        assert not torch.equal(exact, rounded)  # what a page keeps after its first use
        with training(patcher) as run:
            adapter_gradients(run, training_rows("sd3", run.denoiser))
        assert torch.equal(sample(patcher, "sd3"), rounded)
        with training(patcher) as run:
            adapter_gradients(run, training_rows("sd3", run.denoiser))
            assert torch.equal(sample(patcher, "sd3"), rounded)
            adapter_gradients(run, training_rows("sd3", run.denoiser))
        assert torch.equal(sample(patcher, "sd3"), rounded)
        assert paging.pinned_pages() == 0
