from __future__ import annotations

import ast
import inspect
import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives import LOSSES, Errors, Labels, Objective


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


def test_terms_add_up_by_their_weights_and_each_brings_its_own_supervised_mix() -> None:
    second = Objective("ipo", 1.0, supervised_mix=0.5, weight=4.0)
    both = Objective("hinge", 1.0, supervised_mix=2.0, weight=0.5, also=second)
    losses = both(errors(0.3), sure(1.0))
    # Hinge 1 - .3, ipo (.3 - .5)^2; the chosen error is .25.
    preference = 0.5 * 0.7 + 4 * 0.04
    assert losses.preference.item() == pytest.approx(preference)
    assert losses.total.item() == pytest.approx(preference + 0.25 * (0.5 * 2 + 4 * 0.5))


def test_each_term_has_a_beta_and_a_schedule_of_its_own() -> None:
    both = Objective(
        "hinge", beta_per_epoch=(1.0, 2.0), also=Objective("hinge", 3.0, label_smoothing=0.25)
    )
    # Epoch 1: 1 - 2 * .1, and 3/4 (1 - .3) + 1/4 (1 + .3).
    losses = both(errors(0.1), sure(1.0), epoch=1)
    assert losses.preference.item() == pytest.approx(0.8 + 0.85)


def test_what_an_objective_needs_is_what_any_of_its_terms_needs() -> None:
    alone, other = Objective("simpo"), Objective("rpo_bwd")
    assert not alone.needs_reference and not alone.needs_ratings and not alone.needs_change
    both = Objective("simpo", also=other)
    assert both.needs_reference and both.needs_ratings and not both.needs_change
    assert Objective("simpo", also=Objective("nft_pair")).needs_change
    assert [Objective(name).reads for name in ("ipo", "kto", "dgpo")] == [
        "pairs", "images", "groups"
    ]
    ties = Objective("davidson")
    assert ties.takes_ties and not Objective("davidson", also=Objective()).takes_ties


def test_an_objective_becomes_plain_json_for_a_runs_settings() -> None:
    both = Objective("ipo", beta_per_epoch=(1.0, 2.0), also=Objective("hinge"))
    plain = json.loads(json.dumps(asdict(both)))
    assert plain["beta_per_epoch"] == [1.0, 2.0] and plain["also"]["loss"] == "hinge"
    assert plain["also"]["also"] is None


def test_every_setting_says_what_it_does() -> None:
    """They are the tooltips."""
    source = inspect.getsource(Objective)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for field, doc in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(doc, ast.Expr), ast.unparse(field)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_can_be_used_as_it_is(loss: str) -> None:
    mix = 0.25 if loss == "rpo" else 0.0
    assert Objective(loss, supervised_mix=mix).problems() == []


CONTRADICTIONS = {
    "ipo and label smoothing": (Objective("ipo", label_smoothing=0.1), "label_smoothing", "ipo"),
    "exo and label smoothing": (
        Objective("exo_pair", label_smoothing=0.1), "label_smoothing", "exo_epsilon"
    ),
    "ratings and label smoothing": (
        Objective("rpo_fwd", label_smoothing=0.1), "label_smoothing", "ratings"
    ),
    "kto and label smoothing": (Objective("kto", label_smoothing=0.1), "label_smoothing", "kto"),
    "robust at one half": (Objective("robust", label_smoothing=0.5), "robust", "below 0.5"),
    "rpo without a mix": (Objective("rpo"), "rpo", "supervised_mix"),
    "kto and safeguard": (Objective("kto", safeguard=0.5), "safeguard", "kto"),
    "groups and safeguard": (Objective("dgpo", safeguard=0.5), "safeguard", "dgpo"),
    "a schedule without beta": (Objective("nft_pair", beta_per_epoch=(1.0,)), "beta_per_epoch",
                                "no beta"),
    "adaptive without reference": (
        Objective("simpo", adaptive_beta="tanh"), "adaptive_beta", "reference"
    ),
    "adaptive of images": (Objective("kto", adaptive_beta="target"), "adaptive_beta", "pairs"),
    "adaptive without beta": (Objective("orpo", adaptive_beta="tanh"), "adaptive_beta", "orpo"),
    "two ways to move beta": (
        Objective(beta_per_epoch=(1.0,), adaptive_beta="tanh"), "beta_per_epoch", "adaptive_beta"
    ),
    "pairs and images": (Objective(also=Objective("kto")), "sigmoid", "single images"),
    "groups and pairs": (Objective("dgpo", also=Objective("ipo")), "rankings", "pairs"),
    "schedules of two lengths": (
        Objective(beta_per_epoch=(1.0, 2.0), also=Objective("ipo", beta_per_epoch=(1.0,))),
        "2 entries", "same number",
    ),
    "a safeguard inside": (Objective(also=Objective("ipo", safeguard=0.5)), "safeguard",
                           "not used"),
    "an adaptive beta inside": (Objective(also=Objective(adaptive_beta="tanh")), "adaptive_beta",
                                "not used"),
    "a bad second one": (Objective(also=Objective("ipo", label_smoothing=0.1)), "also",
                         "label_smoothing"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused_by_name(name: str) -> None:
    objective, *words = CONTRADICTIONS[name]
    (problem,) = objective.problems()
    assert all(word in problem for word in words)


def test_good_settings_have_no_problems_and_every_bad_one_is_named() -> None:
    assert Objective().problems() == []
    assert Objective(beta=0.0, label_smoothing=0.5, supervised_mix=1.0).problems() == []
    nan = float("nan")
    wrong: dict[str, list[Any]] = {
        "loss": ["dpo", ""],
        "beta": [-1.0, math.inf, nan],
        "label_smoothing": [-0.1, 0.6, nan],
        "supervised_mix": [-0.1, math.inf, nan],
        "safeguard": [-0.1, 1.1, nan],
        "weight": [0.0, -1.0, math.inf, nan],
        "simpo_beta": [-1.0, nan],
        "simpo_gamma": [-1.0, nan],
        "cpo_alpha": [-1.0, nan],
        "mapo_lambda": [-1.0, nan],
        "exo_epsilon": [0.0, 0.5, nan],
        "rating_scale": [-1.0, nan],
        "divergence_alpha": [math.inf, nan],
        "dpop_lambda": [-1.0, nan],
        "davidson_nu": [0.0, nan],
        "discopop_tau": [0.0, 1.0, nan],
        "gradient_target": [0.0, 0.5, nan],
        "adaptive_beta": ["on"],
    }
    for name, values in wrong.items():
        for value in values:
            (problem,) = replace(Objective(), **{name: value}).problems()
            assert name in problem and str(value) in problem
    (problem,) = Objective(beta_per_epoch=(1.0, -2.0)).problems()
    assert "beta_per_epoch" in problem and "-2.0 as number 2" in problem
    assert len(Objective("x", -1.0, (), 2.0, -1.0).problems()) == 4
