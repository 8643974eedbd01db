from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toykit.flow import ToyFlow, stir, toy_adapter, widen
from toykit.pairs import toy_pairs

from dpo_core.run import TrainSettings, TrainState, train
from dpo_core.training.batch import Batch, gather
from dpo_core.training.four_passes import SCHEDULES
from dpo_core.training.noise import NoiseSettings
from dpo_core.training.objectives import Objective
from dpo_core.training.optimizer import OptimizerSettings
from dpo_core.training.plan import MicroBatch
from dpo_core.training.reference_cache import ReferenceCache

PAIRS = toy_pairs(3)
SETTINGS = TrainSettings(
    objective=Objective(beta=20.0),
    noise=NoiseSettings(cached_draws=2),
    optimizer=OptimizerSettings(1e-2, warmup_steps=0),
    batch_size=2,
    grad_accumulation_steps=1,
    execution_mode="full_concurrent",
)


def run(
    steps: int, cache: ReferenceCache | None, **changes: Any
) -> tuple[TrainState, list[dict[str, float]], ToyFlow]:
    model = ToyFlow()
    settings = replace(SETTINGS, **changes)
    reports = list(train(model, toy_adapter(model), PAIRS, settings, steps, cache=cache))
    return reports[-1].state(), [report.metrics for report in reports], model


def passes(model: ToyFlow) -> tuple[int, int]:
    """Calls with and without a graph."""
    graphs = [call.graph for call in model.calls]
    return sum(graphs), len(graphs) - sum(graphs)


def equal(one: TrainState, other: TrainState) -> bool:
    return all(torch.equal(one.adapter[name], other.adapter[name]) for name in one.adapter)


@pytest.mark.parametrize("mode", SCHEDULES)
def test_known_errors_save_the_reference_and_change_nothing(mode: str) -> None:
    # Batches of 2 and 1 pairs in a visit, two visits until all draws are known: 4 of 8 steps.
    plain, before, every = run(8, None, execution_mode=mode)
    cached, after, some = run(8, ReferenceCache(1e-4), execution_mode=mode)
    assert passes(every)[0] == passes(some)[0]
    of_reference = 1 if mode == "full_concurrent" else 2
    assert passes(every)[1] - passes(some)[1] == 4 * of_reference
    for name in cached.adapter:
        assert torch.allclose(cached.adapter[name], plain.adapter[name], rtol=1e-4, atol=1e-7)
    for one, other in zip(before, after, strict=True):
        assert one["loss/dpo"] == pytest.approx(other["loss/dpo"], rel=1e-4)
        assert one["rho"] == pytest.approx(other["rho"], rel=1e-4)


def test_it_goes_on_from_what_was_kept() -> None:
    filled = ReferenceCache(1e-4)
    state, _, _ = run(6, filled)
    assert len(filled) == 6  # 3 pairs, 2 draws
    loaded = ReferenceCache(1e-4)
    loaded.load(filled.state())
    again, _, model = run(6, loaded)
    assert not loaded.discarded and equal(state, again)
    # The first step is computed again, and at least one entry with its batch.
    assert 1 <= passes(model)[1] <= 3


def test_a_file_of_something_else_is_found_out_and_dropped() -> None:
    filled = ReferenceCache(1e-4)
    state, _, _ = run(8, filled)
    wrong = ReferenceCache(1e-4)
    wrong.load({name: errors * 1.01 for name, errors in filled.state().items()})
    assert len(wrong) == 6
    run(8, wrong)
    assert wrong.discarded
    assert all(torch.equal(errors, wrong.state()[name]) for name, errors in filled.state().items())
    assert not filled.discarded and state.step == 8


def test_losses_that_need_the_references_predictions_cannot_do_without() -> None:
    (problem,) = replace(SETTINGS, objective=Objective(loss="nft_pair")).problems()
    assert "cached_draws" in problem and "nft_pair" in problem


def batch_of(draws: int, model: ToyFlow) -> Batch:
    noise = NoiseSettings("uniform", draws_per_pair=draws)
    return gather(PAIRS.records, MicroBatch((0, 2), 1), model, noise, 0, True)


@pytest.mark.parametrize("mode", SCHEDULES)
def test_errors_are_means_over_the_draws(mode: str) -> None:
    model = ToyFlow(torch.float64)
    adapter = toy_adapter(model)
    stir(adapter)
    batch = batch_of(3, model)
    assert (len(batch), len(batch.images[0])) == (2, 6)

    def error(image: int, row: int) -> Tensor:
        residual, _ = model.predict(batch.images[image])
        return residual[row].square().mean()

    result = SCHEDULES[mode](model, adapter, batch, Objective(beta=3.0), 1.0)
    with torch.no_grad():
        for image in range(2):
            for record in range(2):
                mean = sum(error(image, 3 * record + i) for i in range(3)) / 3
                assert result.errors.policy[image, record].item() == pytest.approx(float(mean))


def test_all_modes_have_the_same_gradient_with_several_draws() -> None:
    found = []
    for mode in SCHEDULES:
        model = ToyFlow(torch.float64)
        adapter = toy_adapter(model)
        widen(adapter)
        stir(adapter)
        objective = Objective(beta=3.0, safeguard=0.5)
        SCHEDULES[mode](model, adapter, batch_of(3, model), objective, 1.0)
        gradients = [p.grad for p in adapter.parameters().values() if p.grad is not None]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert found[0].norm() > 1e-6
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-9 * found[0].norm()
