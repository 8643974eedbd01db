from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives import Errors, Labels, Objective


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair(chosen: float, rejected: float, *reference: float) -> Errors:
    policy = double(chosen, rejected)[:, None]
    return Errors(policy, double(*reference)[:, None] if reference else None)


def errors(margin: float, chosen: float = 0.25) -> Errors:
    """One pair with this margin, all earned on the chosen image, and this error there."""
    return pair(chosen, 0.5, chosen + margin, 0.5)


def sure(*probability: float) -> Labels:
    return Labels(double(*probability))


def test_rewards_and_margin_by_hand() -> None:
    one = pair(0.2, 0.7, 0.5, 0.6)
    assert one.chosen_reward.item() == pytest.approx(0.3)  # .5 - .2
    assert one.rejected_reward.item() == pytest.approx(-0.1)  # .6 - .7
    assert one.margin.item() == pytest.approx(0.4)
    assert one.swapped().margin.item() == pytest.approx(-0.4)


def test_without_a_reference_the_margin_is_of_the_errors_and_there_is_no_reward() -> None:
    one = pair(0.2, 0.7)
    assert one.margin.item() == pytest.approx(0.5)
    assert one.swapped().margin.item() == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="reference"):
        _ = one.chosen_reward


def test_supervised_mix_adds_the_chosen_error_to_the_total_only() -> None:
    losses = Objective(beta=1.0, supervised_mix=2.0)(errors(math.log(3)), sure(1.0))
    assert losses.preference.item() == pytest.approx(math.log(4 / 3))
    assert losses.total.item() == pytest.approx(math.log(4 / 3) + 2 * 0.25)


@pytest.mark.parametrize(
    ("certainty", "smoothing", "wrong"),
    [
        (1.0, 0.0, 0.0),
        (1.0, 0.1, 0.1),
        (0.7, 0.0, 0.3),
        # Wrong if one doubt is right and the other is not: .3 * .9 + .7 * .1 = .34.
        (0.7, 0.1, 0.34),
        # Not knowing at all, nothing is added by smoothing.
        (0.5, 0.2, 0.5),
    ],
)
def test_a_pairs_own_doubt_and_label_smoothing_combine_as_independent(
    certainty: float, smoothing: float, wrong: float
) -> None:
    objective = Objective(beta=1.0, label_smoothing=smoothing)
    losses = objective(errors(math.log(3)), sure(certainty))
    # -ln(3/4) if the label is right, -ln(1/4) if it is wrong.
    assert losses.preference.item() == pytest.approx(
        (1 - wrong) * math.log(4 / 3) + wrong * math.log(4)
    )


def test_doubt_is_taken_pair_by_pair() -> None:
    one = errors(math.log(3))
    assert one.reference is not None
    three = Errors(one.policy.expand(2, 3), one.reference.expand(2, 3))
    losses = Objective(beta=1.0)(three, sure(1.0, 0.0, 0.5))
    right, wrong = math.log(4 / 3), math.log(4)
    assert losses.preference.tolist() == pytest.approx([right, wrong, (right + wrong) / 2])


def test_slopes_are_those_of_the_summed_total_and_losses_come_detached() -> None:
    one = errors(math.log(3))
    objective = Objective(beta=1.0, label_smoothing=0.1, supervised_mix=2.0)
    losses, slopes = objective.slopes(one, sure(1.0))
    # dL/dm = beta (s - 1 + eps) = 3/4 - 1 + .1 = -.15; m falls with e_w and rises with e_l.
    assert slopes.policy.flatten().tolist() == pytest.approx([0.15 + 2.0, -0.15])
    assert slopes.change is None
    assert not losses.total.requires_grad and not losses.preference.requires_grad
    assert losses.total.item() == objective(one, sure(1.0)).total.item()


def test_slopes_work_while_gradients_are_off() -> None:
    with torch.no_grad():
        _, slopes = Objective(beta=1.0).slopes(errors(0.0), sure(1.0))
    assert slopes.policy[0].item() == pytest.approx(0.5)


def test_fp32_errors_stay_fp32() -> None:
    one = errors(0.1)
    assert one.reference is not None
    single = Errors(one.policy.float(), one.reference.float())
    assert Objective()(single, sure(0.9)).total.dtype == torch.float32


def test_good_settings_have_no_problems_and_every_bad_one_is_named() -> None:
    assert Objective().problems() == []
    assert Objective(beta=0.0, label_smoothing=0.5, supervised_mix=1.0).problems() == []
    nan = float("nan")
    wrong: dict[str, list[Any]] = {
        "loss": ["dpo", ""],
        "beta": [-1.0, math.inf, nan],
        "label_smoothing": [-0.1, 0.6, nan],
        "supervised_mix": [-0.1, math.inf, nan],
    }
    for name, values in wrong.items():
        for value in values:
            (problem,) = replace(Objective(), **{name: value}).problems()
            assert name in problem and str(value) in problem
    assert len(Objective("x", -1.0, (), 2.0, -1.0).problems()) == 4
