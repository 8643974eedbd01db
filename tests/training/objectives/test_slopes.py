"""Derivatives of every objective against finite differences, and at numbers far out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives import (
    LOSSES,
    Errors,
    Labels,
    Objective,
    ObjectiveState,
    Slopes,
)
from dpo_core.training.objectives.safeguard import safeguard

OBJECTIVES = {
    **{
        name: Objective(name, 2.0, simpo_beta=2.0, supervised_mix=0.25 if name == "rpo" else 0.0)
        for name in LOSSES
    },
    "label smoothing": Objective("sigmoid", 2.0, label_smoothing=0.1, supervised_mix=0.3),
    "robust, wrong labels": Objective("robust", 2.0, label_smoothing=0.2),
    "sum": Objective(
        "nft_pair", weight=0.5,
        also=Objective("simpo", simpo_beta=3.0, weight=2.0, also=Objective("ipo", 2.0)),
    ),
}
STATE = ObjectiveState(mean_reward=0.05)


def records(objective: Objective, count: int, size: float = 1.0) -> tuple[Errors, Labels]:
    """Random errors in [0, size) and labels of ``count`` records as the objective reads them."""
    images = {"pairs": 2, "images": 1, "groups": 3}[objective.reads]
    generator = torch.Generator().manual_seed(5)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    errors = Errors(*(size * uniform(images, count) for _ in range(3)))
    if objective.reads == "images":
        liked = (torch.arange(count) % 2).double()
        return errors, Labels(torch.ones(count), liked=liked, weight=1 + uniform(count))
    if objective.reads == "groups":
        return errors, Labels(torch.ones(count), ratings=uniform(3, count).sort(0, True).values)
    tie = (torch.arange(count) % 3 == 1).double()
    return errors, Labels(0.5 + uniform(count) / 2, rating_gap=uniform(count), tie=tie)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "dgpo"])
def test_slopes_are_those_of_finite_differences(name: str) -> None:
    # Three records: too few for KTO to take its baseline from them, which would move along.
    objective = OBJECTIVES[name]
    errors, labels = records(objective, 3)
    _, slopes = objective.slopes(errors, labels, 0, STATE)
    step = 1e-6
    for which in ("policy", "change"):
        found = getattr(slopes, which)
        if found is None:
            assert not objective.needs_change
            continue
        values = getattr(errors, which)
        for place in range(values.numel()):
            moved = torch.zeros_like(values)
            moved.view(-1)[place] = step

            def total(by: Tensor, which: str = which, values: Tensor = values) -> float:
                there = Errors(**{**vars(errors), which: values + by})
                return objective(there, labels, 0, STATE).total.sum().item()

            difference = (total(moved) - total(-moved)) / (2 * step)
            assert found.reshape(-1)[place].item() == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_ktos_baseline_of_a_batch_is_held_still() -> None:
    objective = OBJECTIVES["kto"]
    errors, labels = records(objective, 6)
    errors = Errors(errors.policy, errors.policy + 0.1 * errors.change)  # a mean above 0
    losses, slopes = objective.slopes(errors, labels)
    mean = errors.rewards.mean().item()
    assert mean > 0.01
    for i in range(6):  # one by one, with this baseline as what came before
        alone = Errors(errors.policy[:, i : i + 1], errors.rewards[:, i : i + 1]
                       + errors.policy[:, i : i + 1])
        assert labels.liked is not None and labels.weight is not None
        one = Labels(torch.ones(1), liked=labels.liked[i : i + 1], weight=labels.weight[i : i + 1])
        value, slope = objective.slopes(alone, one, 0, ObjectiveState(mean_reward=mean))
        assert value.total.item() == pytest.approx(losses.total[i].item())
        assert slope.policy.item() == pytest.approx(slopes.policy[0, i].item())


def test_dgpos_weight_is_held_still() -> None:
    objective = OBJECTIVES["dgpo"]
    errors, labels = records(objective, 4)
    _, slopes = objective.slopes(errors, labels)
    assert labels.ratings is not None and errors.reference is not None
    for i in range(4):
        rating = labels.ratings[:, i]
        advantage = (rating - rating.mean()) / rating.std(correction=0)
        behind = (advantage * 2.0 * (errors.policy - errors.reference)[:, i]).mean()
        weight = 1 / (1 + torch.exp(-behind))
        assert torch.allclose(slopes.policy[:, i], weight * advantage / 3, rtol=1e-12)


FAR = [0.0, 1.0, 1e4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_slopes_stay_finite_far_out(name: str, dtype: torch.dtype) -> None:
    objective = OBJECTIVES[name]
    images = 2 if objective.reads == "pairs" else 3 if objective.reads == "groups" else 1
    # Every combination of policy and reference errors: rewards and logits from -2e4 to 2e4.
    columns = torch.cartesian_prod(*[torch.tensor(FAR, dtype=dtype)] * (2 * images)).T
    count = columns.shape[1]
    errors = Errors(columns[:images], columns[images:], columns[:images])
    column = torch.ones(count)
    for probability in (1.0, 0.5, 0.0):
        labels = Labels(
            column * probability, rating_gap=column * 1e3,
            tie=torch.arange(count) % 2, liked=None, weight=column,
        )
        if objective.reads == "images":
            labels = Labels(column, liked=torch.arange(count) % 2, weight=column)
        if objective.reads == "groups":
            labels = Labels(column, ratings=torch.tensor([[2.0], [1.0], [0.5]]).expand(3, count))
        losses, slopes = objective.slopes(errors, labels)
        assert losses.total.isfinite().all() and losses.preference.isfinite().all()
        assert slopes.policy.isfinite().all()
        assert slopes.change is None or slopes.change.isfinite().all()


@pytest.mark.parametrize(
    "name", [n for n, row in LOSSES.items() if row.reads == "pairs" and n != "nft_pair"]
)
def test_at_its_loss_at_start_policy_and_reference_agree(name: str) -> None:
    objective = OBJECTIVES[name]
    errors, labels = records(objective, 5)
    agreeing = Errors(errors.policy, errors.policy, errors.policy * 0)
    found = objective(agreeing, labels).preference
    if objective.loss_at_start is None:
        assert LOSSES[name].at_start is None
        return
    assert found.tolist() == pytest.approx([objective.loss_at_start] * 5)


def test_the_loss_at_start_of_a_sum_is_weighed() -> None:
    objective = Objective("hinge", weight=0.5, also=Objective("ipo", weight=2.0))
    assert objective.loss_at_start == pytest.approx(0.5 * 1 + 2 * 0.25)
    assert Objective("hinge", also=Objective("davidson")).loss_at_start is None


# Safeguard


def held(a: list[float], b: list[float], d_chosen: float, d_rejected: float, mu: float) -> float:
    def row(values: list[float]) -> Tensor:
        return torch.tensor([values], dtype=torch.float64)

    return safeguard(row(a), row(b), row([d_chosen])[0], row([d_rejected])[0], mu).item()


@pytest.mark.parametrize(
    ("a", "b", "d_chosen", "d_rejected", "mu", "factor"),
    [
        # |a|^2 = 1, a.b = 2: (1 - .5) * 1 / 2.
        ([1, 0], [2, 1], 1.0, -1.0, 0.5, 0.25),
        ([1, 0], [2, 1], 3.0, -1.0, 0.5, 0.75),  # times c_w / c_l
        ([1, 0], [2, 1], 3.0, -6.0, 0.5, 0.125),
        ([1, 0], [2, 1], 1.0, -1.0, 1.0, 0.0),
        ([1, 0], [0.25, 1], 1.0, -1.0, 0.5, 1.0),  # 2, cut to 1
        ([1, 0], [-2, 1], 1.0, -1.0, 0.5, 1.0),  # pushing helps the chosen image
        ([1, 0], [0, 1], 1.0, -1.0, 0.5, 1.0),
        ([1, 0], [2, 1], 1.0, 1.0, 0.5, 1.0),  # the rejected image is being pulled closer
        ([1, 0], [2, 1], 0.0, -1.0, 0.5, 0.0),  # nothing holds the chosen image
        ([1, 0], [2, 1], 0.0, 0.0, 0.5, 1.0),
    ],
)
def test_safeguard_by_hand(
    a: list[float], b: list[float], d_chosen: float, d_rejected: float, mu: float, factor: float
) -> None:
    assert held(a, b, d_chosen, d_rejected, mu) == pytest.approx(factor)


def test_with_the_safeguard_a_small_step_lowers_the_chosen_error_by_its_share() -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    b = a + 0.5 * torch.randn(40, 8, generator=generator, dtype=torch.float64)
    c_w, c_l = torch.rand(2, 40, generator=generator, dtype=torch.float64) + 0.1

    def change(factor: Tensor) -> Tensor:
        """Of |a|^2 to first order, where one answer serves both images, as the paper assumes."""
        step = c_w[:, None] * 2 * a - (factor * c_l)[:, None] * 2 * b
        return -(2 * a * step).sum(1)

    alone, free = change(torch.zeros(40)), change(torch.ones(40))
    careful = change(safeguard(a, b, c_w, -c_l, 0.3))
    assert (free > 0).any(), "none of these would have spoiled the chosen image"
    assert (careful <= 0.3 * alone + 1e-12).all()


def test_the_safeguard_works_on_residuals_of_any_shape_and_none_of_its_own_gradient() -> None:
    a, b = torch.rand(2, 3, 2, 4, 4, requires_grad=True).unbind(0)
    factor = safeguard(a, b, torch.ones(3), -torch.ones(3), 0.5)
    assert factor.shape == (3,) and not factor.requires_grad


def test_slopes_carry_no_graph() -> None:
    for objective in OBJECTIVES.values():
        errors, labels = records(objective, 2)
        found: Slopes = objective.slopes(errors, labels)[1]
        assert not found.policy.requires_grad
        assert (found.change is not None) is objective.needs_change
