"""Every objective in all three modes, against autograd through one graph of everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toykit.flow import PROMPT, ToyFlow, stir, toy_adapter, toy_lora, widen

from dpo_core.training.adapter import Adapter
from dpo_core.training.batch import Batch
from dpo_core.training.denoiser import Rows
from dpo_core.training.four_passes import SCHEDULES, PassResult
from dpo_core.training.objectives import (
    LOSSES,
    Errors,
    Labels,
    Objective,
    ObjectiveLoss,
    ObjectiveState,
)

MODES = list(SCHEDULES)
BETA = 3.0
OBJECTIVES = {
    **{
        name: Objective(name, BETA, simpo_beta=BETA, supervised_mix=0.3 if name == "rpo" else 0.0)
        for name in LOSSES
    },
    "sum": Objective(
        "ipo", BETA, supervised_mix=0.2, weight=0.5,
        also=Objective("nft_pair", weight=2.0, also=Objective("simpo", simpo_beta=2.0)),
    ),
    "beta per epoch": Objective(beta_per_epoch=(5000.0, 4.0)),
    "adaptive beta": Objective(beta=2.0, adaptive_beta="tanh"),
}
STATE = ObjectiveState(steps=40, mean_reward=0.03, beta_factor=1.3)
SHAPE = (2, 5, 4)


def batch_of(objective: Objective, records: int, shared: bool = True) -> Batch:
    images = {"pairs": 2, "images": 1, "groups": 3}[objective.reads]
    g = torch.Generator().manual_seed(records)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64)

    def draw() -> tuple[Tensor, Tensor]:
        return torch.rand(records, generator=g) * 0.8 + 0.1, normal(records, *SHAPE).float()

    prompts = tuple(normal(PROMPT) for _ in range(records))
    common = draw()
    rows = []
    for image in range(images):
        sigma, noise = common if shared or image == 0 else draw()
        rows.append(Rows(normal(records, *SHAPE), prompts, sigma, noise))
    column = torch.arange(records).double()
    if objective.reads == "images":
        labels = Labels(column * 0 + 1, liked=column % 2, weight=1 + column / 10)
    elif objective.reads == "groups":
        labels = Labels(column * 0 + 1, ratings=normal(3, records).sort(0, True).values)
    else:
        labels = Labels(0.9 - column / 20, rating_gap=column / 3 + 0.2, tie=column % 2)
    return Batch(tuple(rows), labels, epoch=1)


def policy_and_reference(existing: bool) -> tuple[ToyFlow, Adapter]:
    model = ToyFlow(torch.float64)
    adapter = toy_adapter(model, existing=toy_lora(model) if existing else None)
    widen(adapter)
    stir(adapter)
    return model, adapter


def mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)


def in_one_graph(model: ToyFlow, adapter: Adapter, batch: Batch) -> tuple[Errors, list[Tensor]]:
    """Errors and changes of all images with their graphs, and the residuals."""
    policy = [model.predict(rows).residual for rows in batch.images]
    with torch.no_grad(), adapter.reference():
        reference = [model.predict(rows).residual for rows in batch.images]
    change = [mean_square(a - b) for a, b in zip(policy, reference, strict=True)]
    errors = Errors(
        torch.stack([mean_square(x) for x in policy]),
        torch.stack([mean_square(x) for x in reference]),
        torch.stack(change),
    )
    return errors, policy


def gradients(adapter: Adapter) -> dict[str, Tensor]:
    found = {}
    for name, parameter in adapter.parameters().items():
        assert parameter.grad is not None
        found[name], parameter.grad = parameter.grad, None
    return found


def expected(
    model: ToyFlow, adapter: Adapter, batch: Batch, objective: Objective, scale: float
) -> tuple[ObjectiveLoss, dict[str, Tensor]]:
    errors, _ = in_one_graph(model, adapter, batch)
    if not objective.needs_reference:
        errors = Errors(errors.policy)
    losses = objective(errors, batch.labels, batch.epoch, STATE)
    (losses.total.sum() * scale).backward()
    model.calls.clear()
    return losses, gradients(adapter)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(
        bool((ours[name] - theirs[name]).norm() <= 1e-9 * theirs[name].norm())
        and bool(theirs[name].norm() > 1e-7)
        for name in theirs
    )


def passes(
    mode: str, model: ToyFlow, adapter: Adapter, batch: Batch, objective: Objective
) -> PassResult:
    return SCHEDULES[mode](model, adapter, batch, objective, 0.7, STATE)


@pytest.mark.parametrize(
    ("records", "existing"), [(1, False), (5, True)], ids=["one record", "five records"]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_modes_give_the_loss_and_the_gradient_of_one_graph(
    name: str, records: int, existing: bool
) -> None:
    objective = OBJECTIVES[name]
    model, adapter = policy_and_reference(existing)
    batch = batch_of(objective, records, shared=not existing)
    losses, wanted = expected(model, adapter, batch, objective, 0.7)
    for mode in MODES:
        result = passes(mode, model, adapter, batch, objective)
        assert same(gradients(adapter), wanted), mode
        torch.testing.assert_close(result.losses.total, losses.total, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            result.losses.preference, losses.preference, rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if not o.needs_reference])
def test_without_a_reference_no_reference_pass_is_run(name: str, mode: str) -> None:
    class Forbidden:
        def reference(self) -> Any:
            raise AssertionError("asked for the reference")

    objective = OBJECTIVES[name]
    model, _ = policy_and_reference(False)
    batch = batch_of(objective, 2)
    result = SCHEDULES[mode](model, Forbidden(), batch, objective, 1.0, STATE)  # type: ignore[arg-type]
    assert len(model.calls) == {"sequential": 3, "policy_concurrent": 2, "full_concurrent": 1}[mode]
    assert result.errors.reference is None and result.errors.change is None
    assert result.change.isnan().all() and result.power.isnan().all()
    assert torch.equal(result.errors.margin, result.errors.rejected - result.errors.chosen)


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if o.reads == "pairs"])
def test_the_safeguard_scales_the_rejected_gradient_of_each_pair(name: str) -> None:
    plain = OBJECTIVES[name]
    objective = replace(plain, safeguard=0.8)
    model, adapter = policy_and_reference(False)
    batch = batch_of(objective, 4)
    chosen, rejected = batch.images
    # Alike, as two images of one prompt are: what spoils one spoils the other.
    alike = replace(rejected, latents=chosen.latents + 0.5 * rejected.latents)
    batch = replace(batch, images=(chosen, alike))
    errors, residuals = in_one_graph(model, adapter, batch)
    if not objective.needs_reference:
        errors = Errors(errors.policy)
    losses, slopes = plain.slopes(errors, batch.labels, batch.epoch, STATE)
    factors, pushed = [], False
    for i in range(4):
        a, b = residuals[0][i].detach().flatten(), residuals[1][i].detach().flatten()
        c_w, c_l = slopes.policy[0, i].item(), -slopes.policy[1, i].item()
        together = (a @ b).item()
        factor = 1.0
        if together > 0 and c_l > 0:
            pushed = True
            factor = min(max(0.2 * c_w * (a @ a).item() / (c_l * together), 0.0), 1.0)
        factors.append(factor)
    assert pushed or name in ("discopop", "davidson", "sppo_hard"), "its margin is there"
    assert min(factors) < 1 or not pushed, "never held back"
    held = slopes.policy[1] * torch.tensor(factors, dtype=torch.float64)
    weights = torch.stack([slopes.policy[0], held])
    total = (errors.policy * weights).sum()
    if slopes.change is not None:
        total = total + (errors.change * slopes.change).sum()
    (0.7 * total).backward()
    wanted = gradients(adapter)
    for mode in MODES:
        result = passes(mode, model, adapter, batch, objective)
        assert same(gradients(adapter), wanted), mode
        # The loss itself stays what it is.
        torch.testing.assert_close(result.losses.total, losses.total, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_a_single_image_takes_one_graph_and_one_pass_of_each_kind(mode: str) -> None:
    model, adapter = policy_and_reference(False)
    passes(mode, model, adapter, batch_of(OBJECTIVES["kto"], 3), OBJECTIVES["kto"])
    assert [(len(call.rows), call.graph) for call in model.calls] == [(3, False), (3, True)]


def test_sequential_runs_every_image_of_a_group_but_the_first_once_more() -> None:
    model, adapter = policy_and_reference(False)
    passes("sequential", model, adapter, batch_of(OBJECTIVES["dgpo"], 2), OBJECTIVES["dgpo"])
    graphs = [call.graph for call in model.calls]
    assert graphs == [False] * 3 + [False] * 2 + [True] * 3


def test_ktos_baseline_is_that_of_the_micro_batch() -> None:
    """Accumulating 8 single images is not a batch of 8: what the tooltip says."""
    objective = OBJECTIVES["kto"]
    model, adapter = policy_and_reference(False)
    batch = batch_of(objective, 8)
    together = passes("full_concurrent", model, adapter, batch, objective).losses.total
    alone = []
    for i in range(8):
        rows = batch.images[0]
        one = Rows(
            rows.latents[i : i + 1], rows.conditioning[i : i + 1], rows.sigma[i : i + 1],
            rows.noise[i : i + 1],
        )
        assert batch.labels.liked is not None and batch.labels.weight is not None
        labels = Labels(
            torch.ones(1), liked=batch.labels.liked[i : i + 1],
            weight=batch.labels.weight[i : i + 1],
        )
        single = Batch((one,), labels, 1)
        alone.append(passes("sequential", model, adapter, single, objective).losses.total.item())
    assert together.tolist() != pytest.approx(alone, rel=1e-6)
