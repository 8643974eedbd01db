"""Every loss by hand. Numbers were worked out with a pocket calculator from the formulas.

Where it can be, the logit is ln 3, whose sigmoid is 3/4.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpo_core.training.objectives import Errors, Labels, Objective, ObjectiveState, certain
from dpo_core.training.objectives.absolute import (
    apo_down,
    apo_zero,
    bco_pair,
    nca_pair,
    sppo_hard,
)
from dpo_core.training.objectives.davidson import davidson
from dpo_core.training.objectives.dgpo import advantages, dgpo
from dpo_core.training.objectives.discopop import discopop
from dpo_core.training.objectives.divergence import alpha_divergence, forward_kl, js
from dpo_core.training.objectives.dpop import dpop
from dpo_core.training.objectives.exo import exo_pair
from dpo_core.training.objectives.hinge import hinge
from dpo_core.training.objectives.ipo import ipo
from dpo_core.training.objectives.kto import kto, kto_weights
from dpo_core.training.objectives.mapo import mapo
from dpo_core.training.objectives.nft import nft_pair
from dpo_core.training.objectives.rpo import rpo_bwd, rpo_fwd, rpo_squared
from dpo_core.training.objectives.simpo import simpo

LN_2, LN_3 = 0.6931471805599453, 1.0986122886681098
LOGIT_1 = 0.3132616875182228  # -ln s(1) = ln(1 + 1/e)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def is_close(found: Tensor, *expected: float) -> None:
    assert found.tolist() == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_ipo() -> None:
    # tau 2: (2 * .5 - .5)^2 = .25, at margin 1/(2 tau) = .25 nothing, (-2 - .5)^2 = 6.25.
    is_close(ipo(double(0.5, 0.25, -1, 0), 2.0), 0.25, 0, 6.25, 0.25)


def test_hinge() -> None:
    is_close(hinge(double(0, 0.25, 1, 3, -2)), 1, 0.75, 0, 0, 3)


def test_exo_pair() -> None:
    # eps 1/4. At logit ln 3 the policy's preference (3/4, 1/4) is the person's: nothing to gain.
    # At 0: (ln(.5/.75) + ln(.5/.25)) / 2 = ln(4/3) / 2.
    quarter = double(0.25, 0.25)
    is_close(exo_pair(double(LN_3, 0), quarter), 0, math.log(4 / 3) / 2)


def test_reward_aware_rpo() -> None:
    logit, target = double(LN_3, LN_3), double(0, LN_3)
    # P = (3/4, 1/4), Q = (1/2, 1/2). KL(Q || P) = (ln(2/3) + ln 2) / 2 = ln(4/3) / 2.
    is_close(rpo_bwd(logit, target), 0.14384103622589045, 0)
    # KL(P || Q) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.30409883108112323 - 0.17328679513998632.
    is_close(rpo_fwd(logit, target), 0.13081203594113691, 0)
    is_close(rpo_squared(double(1, 1), double(0.25, 1)), 0.5625, 0)


def test_backward_rpo_is_label_smoothing_by_the_rating() -> None:
    logit, target = double(-1, 0.3, 2), double(0.5, 1, 2)
    right = 1 / (1 + torch.exp(-target))
    smoothed = -right * torch.log(1 / (1 + torch.exp(-logit))) - (1 - right) * torch.log(
        1 / (1 + torch.exp(logit))
    )
    entropy = -right * torch.log(right) - (1 - right) * torch.log(1 - right)
    assert torch.allclose(rpo_bwd(logit, target), smoothed - entropy, rtol=1e-12)


def test_divergences() -> None:
    # 1 - 1/2, 1 - 2, and far out a straight line: 1 - 11 e^10 = 1 - 11 * 22026.465794806718.
    is_close(forward_kl(double(LN_2, -LN_2, 0, -20)), 0.5, -1, 0, -242290.1237428739)
    # ln 2 + ln(3/4) = ln 1.5; ln 2 + ln(1/4) = -ln 2.
    is_close(js(double(LN_3, -LN_3, 0)), math.log(1.5), -LN_2, 0)
    # (4^-.5 - 1) / -.5 = 1, (4^.5 - 1) / -.5 = -2.
    is_close(alpha_divergence(double(2 * LN_2, -2 * LN_2), 0.5), 1, -2)
    is_close(alpha_divergence(double(LN_3), 2.0), 2)  # 3 - 1
    is_close(alpha_divergence(double(LN_3), 1.0), LN_3)
    is_close(alpha_divergence(double(LN_2, -LN_2), 0.0), 0.5, -1)  # the forward KL


def test_kto() -> None:
    # Liked at ln 3 over a baseline of 0: 1 - 3/4. Disliked there: 1 - 1/4. At the baseline: 1/2.
    liked = double(1, 0, 1, 0)
    is_close(kto(double(LN_3, LN_3, 0, 0), liked, 0.0), 0.25, 0.75, 0.5, 0.5)
    is_close(kto(double(LN_3, LN_3, 0, 0), liked, LN_3), 0.5, 0.5, 0.75, 0.25)


@pytest.mark.parametrize(
    ("liked", "disliked", "weights"),
    [
        (10, 10, (1, 1)), (12, 10, (1, 1)), (40, 30, (1, 1)),
        (30, 10, (1, 2.25)),  # 30 / 22.5 = 4/3
        (10, 30, (3, 1)),  # 30 / 30 = 1
        (5, 0, (1, 1)), (0, 5, (1, 1)),
    ],
)
def test_kto_weighs_up_the_rarer_kind(
    liked: int, disliked: int, weights: tuple[float, float]
) -> None:
    assert kto_weights(liked, disliked) == pytest.approx(weights)
    for_liked, for_disliked = kto_weights(liked, disliked)
    if liked and disliked:
        ratio = for_liked * liked / (for_disliked * disliked)
        assert 1 - 1e-12 <= ratio <= 4 / 3 + 1e-12


def test_mapo() -> None:
    # e = 2 ln 2: x = ln 2, phi = ln 2 / (2 - 1); e = 2 ln 3: x = ln 3, phi = ln 3 / (3 - 1)
    # = 0.5493061443340549. Their difference is 0.1438410362258904, times 1000 as a logit.
    low, high = double(2 * LN_2), double(2 * LN_3)
    is_close(mapo(high, low, 0.1), 14.38410362258904)
    assert mapo(low, high, 0.1).item() == pytest.approx(0.1 * math.exp(-143.8410362258904))
    is_close(mapo(low, low, 0.1), 0.1 * LN_2)
    # Close to error 0, where 0 / 0 stands: x = .001 and .003, phi(x) = 1 - x/2 + x^2/12 - ..., so
    # the logit is 1000 * (.001 - 8e-6 / 12) = 0.9993333333.
    small = mapo(double(0.002), double(0.006), 1.0)
    assert small.item() == pytest.approx(math.log1p(math.exp(-0.9993333333)), rel=1e-9)


def test_mapos_score_has_no_seam_where_its_series_begins() -> None:
    below, above = mapo(double(0.02 - 1e-12), double(1), 1.0), mapo(double(0.02), double(1), 1.0)
    # A jump of 1e-10 in phi would be one of 1e-7 in the logit; e^-220 is no place to see it.
    assert math.log(below.item()) == pytest.approx(math.log(above.item()), abs=2e-8)


def test_simpo() -> None:
    # 3 * (.7 - .2) - .5 = 1.
    is_close(simpo(double(0.2), double(0.7), 3.0, 0.5), LOGIT_1)


def test_losses_of_the_rewards_themselves() -> None:
    up, down = double(LN_3), double(-LN_3)
    # -ln(3/4) - 1/2 ln(1/4) - 1/2 ln(3/4) = 1.5 ln(4/3) + ln 2.
    is_close(nca_pair(up, down), 1.5 * math.log(4 / 3) + LN_2)
    # Both are ln 3 on the right side of a mean of ln 3: 2 ln(4/3).
    is_close(bco_pair(2 * up, double(0), LN_3), 2 * math.log(4 / 3))
    is_close(apo_zero(up, down), 0.5)  # 1/4 + 1/4
    is_close(apo_zero(down, up), 1.5)
    is_close(apo_down(down, 2 * down), 0.5)  # s(-ln 3) + 1 - s(ln 3)
    is_close(apo_down(up, double(0)), 1.0)  # 3/4 + 1 - 3/4
    is_close(sppo_hard(double(1, 0, 0.5), double(-1, 0, -0.5)), 0.5, 0.5, 0)


def test_discopop() -> None:
    # tau 1/2: s(2 ln 3) = .9. At ln 3: .1 ln(4/3) + .9 / 3; at -ln 3: .9 ln 4 + .1 * 3.
    is_close(
        discopop(double(LN_3, -LN_3, 0), 0.5),
        0.3287682072451781, 1.5476649250079015, (LN_2 + 1) / 2,
    )


def test_dpop() -> None:
    # The chosen image got worse by .1: 5 (.4 - 2 * .1) = 1. It got better: 5 * .2 = 1.
    is_close(dpop(double(0.4, 0.2), double(-0.1, 0.1), 5.0, 2.0), LOGIT_1, LOGIT_1)


def test_nft_pair() -> None:
    is_close(nft_pair(double(0.2), double(0.7), double(0.3)), 0.1)  # .2 - .7 + .6


def test_nft_pair_trains_the_mirror_image_of_what_was_rejected() -> None:
    generator = torch.Generator().manual_seed(0)
    v, old, target = torch.randn(3, 1, 50, generator=generator, dtype=torch.float64)

    def mean(x: Tensor) -> Tensor:
        return x.square().mean(1)

    mirrored = mean(2 * old - v - target)
    ours = nft_pair(torch.zeros(1), mean(v - target), mean(v - old))
    assert torch.allclose(mirrored, ours + 2 * mean(old - target), rtol=1e-12)


def test_dgpo() -> None:
    is_close(advantages(double(3, 1)[:, None])[:, 0], 1, -1)
    # (4, 2, 0): mean 2, deviation sqrt(8/3) = 1.632993161855452.
    three = advantages(double(4, 2, 0)[:, None])[:, 0]
    is_close(three, 1.224744871391589, 0, -1.224744871391589)
    is_close(advantages(double(2, 2)[:, None])[:, 0], 0, 0)
    errors, reference = double(0.2, 0.7)[:, None], double(0.5, 0.6)[:, None]
    # Behind by 5 ((.2 - .5) - (.7 - .6)) / 2 = -1: weight s(-1) = 0.2689414213699951,
    # times (.2 - .7) / 2 = -.25.
    is_close(dgpo(errors, reference, double(1, -1)[:, None], 5.0), -0.06723535534249878)


def test_dgpo_of_two_is_dpos_gradient_at_half_of_beta_divided_by_it() -> None:
    errors = Errors(double(0.2, 0.7)[:, None], double(0.5, 0.6)[:, None])
    group = Labels(double(1), ratings=double(3, 1)[:, None])
    _, of_group = Objective("dgpo", 5.0).slopes(errors, group)
    _, of_pair = Objective("sigmoid", 2.5).slopes(errors, certain(1))
    assert torch.allclose(5.0 * of_group.policy, of_pair.policy, rtol=1e-12)


def test_davidson() -> None:
    # nu 1/2, logit 2 ln 2: chosen, tie and rejected are as 2 : 1 : 1/2.
    logit, tie = double(2 * LN_2, 2 * LN_2, -2 * LN_2, 0), double(0, 1, 0, 1)
    is_close(davidson(logit, tie, 0.5), math.log(1.75), math.log(3.5), math.log(7), LN_3)
    # nu 2: as 1 : 4 : 1 at logit 0.
    is_close(davidson(double(0, 0), double(0, 1), 2.0), math.log(6), math.log(1.5))
    assert davidson(double(1), double(0), 1e-12).item() == pytest.approx(LOGIT_1, rel=1e-11)


# Through the objective: beta, state, labels


def pair(chosen: float, rejected: float, *reference: float, change: float = 0.0) -> Errors:
    policy = double(chosen, rejected)[:, None]
    moved = double(9.0, change)[:, None]
    return Errors(policy, double(*reference)[:, None] if reference else None, moved)


PAIR = pair(0.2, 0.7, 0.5, 0.6, change=0.3)
"""dw = .3, dl = -.1, m = .4."""


@pytest.mark.parametrize(
    ("objective", "preference"),
    [
        (Objective("sigmoid", 2.5), LOGIT_1),
        (Objective("rpo", 2.5, supervised_mix=1.0), LOGIT_1),
        (Objective("robust", 2.5), LOGIT_1),
        (Objective("ipo", 2.5), 0.25),
        (Objective("hinge", 1.0), 0.6),
        (Objective("exo_pair", 0.0, exo_epsilon=0.25), 0.14384103622589045),
        # Logit 2.5 * .4 = 1, rated gap 2 * .125 = .25.
        (Objective("rpo_squared", 2.5, rating_scale=2.0), 0.5625),
        # x = 10 * .3 = 3 and -1: h = 1 - e^-3 - (1 - e) = 2.6684947601 as a logit.
        (Objective("forward_kl", 10.0), math.log1p(math.exp(-(math.e - math.exp(-3))))),
        # ls(3) - ls(-1) = -0.04858735157374206 + 1.3132616875182228.
        (Objective("js", 10.0), math.log1p(math.exp(-1.2646743359444808))),
        (Objective("alpha_divergence", 10.0, divergence_alpha=0.0),
         math.log1p(math.exp(-(math.e - math.exp(-3))))),
        # phi(.2) - phi(.7) = 0.950833194477505 - 0.8351875519230587, times 1000.
        (Objective("orpo"), 0.1 * math.exp(-115.64564255444631)),
        (Objective("simpo", simpo_beta=3.0, simpo_gamma=0.5), LOGIT_1),
        (Objective("reference_free", simpo_beta=2.0), LOGIT_1),
        (Objective("cpo", simpo_beta=2.0, cpo_alpha=3.0), LOGIT_1),
        (Objective("apo_zero", 0.0), 1.0),
        (Objective("apo_down", 0.0), 1.0),
        (Objective("nca_pair", 0.0), 2 * LN_2),
        (Objective("sppo_hard", 10.0), 6.5),  # (3 - .5)^2 + (-1 + .5)^2
        (Objective("discopop", 0.0), (LN_2 + 1) / 2),
        (Objective("dpop", 2.5), LOGIT_1),
        (Objective("nft_pair"), 0.1),
        (Objective("davidson", 0.0), LN_3),
    ],
    ids=lambda value: value.loss if isinstance(value, Objective) else "",
)
def test_every_name_is_its_loss(objective: Objective, preference: float) -> None:
    assert objective.problems() == []
    labels = Labels(double(1), rating_gap=double(0.125))
    found = objective(PAIR, labels).preference.item()
    assert found == pytest.approx(preference, rel=1e-9, abs=1e-60)


def test_cpo_and_orpo_train_on_the_chosen_image_besides() -> None:
    for objective, share in (
        (Objective("cpo", cpo_alpha=3.0), 3.0), (Objective("orpo"), 1.0),
        (Objective("orpo", supervised_mix=0.5), 1.5), (Objective("sigmoid"), 0.0),
    ):
        losses = objective(PAIR, Labels(double(0.6)))
        # Never on the rejected one, however doubtful the pick.
        assert (losses.total - losses.preference).item() == pytest.approx(share * 0.2)


def test_bco_subtracts_the_running_mean_of_rewards() -> None:
    # beta 10, mean .1: u - delta is 3 - 1 = 2 and -1 - 1 = -2: -2 ln s(2).
    found = Objective("bco_pair", 10.0)(PAIR, certain(1), 0, ObjectiveState(mean_reward=0.1))
    assert found.preference.item() == pytest.approx(2 * 0.12692801104297263, rel=1e-12)


@pytest.mark.parametrize("loss", ["ipo", "hinge", "nca_pair", "sppo_hard", "nft_pair", "davidson"])
def test_a_doubtful_pick_counts_both_ways_round(loss: str) -> None:
    turned = pair(0.7, 0.2, 0.6, 0.5, change=9.0)
    turned = Errors(turned.policy, turned.reference, double(0.3, 9.0)[:, None])
    one, other = (
        Objective(loss, 2.0)(errors, certain(1)).preference.item() for errors in (PAIR, turned)
    )
    found = Objective(loss, 2.0)(PAIR, Labels(double(0.7))).preference.item()
    assert found == pytest.approx(0.7 * one + 0.3 * other, rel=1e-12)


def test_exo_takes_a_picks_doubt_into_its_epsilon() -> None:
    # Wrong if exactly one of the two: .25 * .9 + .75 * .1 = .3.
    found = Objective("exo_pair", 0.0, exo_epsilon=0.25)(PAIR, Labels(double(0.9)))
    expected = (math.log(0.5 / 0.7) + math.log(0.5 / 0.3)) / 2
    assert found.preference.item() == pytest.approx(expected)


def test_ratings_and_not_the_soft_label_decide_in_reward_aware_losses() -> None:
    objective = Objective("rpo_bwd", 2.5)
    one, other = (
        objective(PAIR, Labels(double(p), rating_gap=double(1.0))).preference.item()
        for p in (1.0, 0.6)
    )
    assert one == other == pytest.approx(0.0, abs=1e-15)  # logit 1, rating 1


def singles(values: list[float], liked: list[float]) -> tuple[Errors, Labels]:
    policy = torch.ones(1, len(values), dtype=torch.float64)
    ones = torch.ones(len(values), dtype=torch.float64)
    return Errors(policy, policy + double(*values)), Labels(ones, liked=double(*liked), weight=ones)


def test_ktos_baseline_is_the_mean_of_a_batch_of_four() -> None:
    # beta 2: values 2 ln 3, 2 ln 3, 0, 0, their mean ln 3. Liked over it 1/4, disliked 3/4 ...
    found = Objective("kto", 2.0)(*singles([LN_3, LN_3, 0, 0], [1, 0, 1, 0])).preference
    is_close(found, 0.25, 0.75, 0.75, 0.25)
    # ... and never below 0.
    found = Objective("kto", 2.0)(*singles([-LN_3 / 2] * 4, [1, 0, 1, 0])).preference
    is_close(found, 0.75, 0.25, 0.75, 0.25)


def test_ktos_baseline_in_a_small_batch_is_that_of_the_steps_before() -> None:
    state = ObjectiveState(mean_reward=LN_3 / 2)
    found = Objective("kto", 2.0)(*singles([LN_3, 0, 0], [1, 1, 0]), 0, state).preference
    is_close(found, 0.25, 0.75, 0.25)
    below = ObjectiveState(mean_reward=-1.0)
    found = Objective("kto", 2.0)(*singles([LN_3 / 2, 0], [1, 0]), 0, below).preference
    is_close(found, 0.25, 0.5)


def test_kto_weighs_each_image_and_trains_on_liked_ones_besides() -> None:
    errors, labels = singles([0, 0], [1, 0])
    weighed = Labels(labels.chosen_probability, liked=labels.liked, weight=double(1, 1.5))
    losses = Objective("kto", 2.0, supervised_mix=0.1)(errors, weighed)
    is_close(losses.preference, 0.5, 0.75)
    is_close(losses.total - losses.preference, 0.1, 0)
