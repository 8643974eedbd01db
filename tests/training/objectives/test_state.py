from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dpo_core.training.objectives import FRESH, Objective, ObjectiveState
from dpo_core.training.objectives.adaptive_beta import WARM_UP, tanh_factor, target_factor


def metrics(reward: float = 0.0, margin: float = 0.0, factor: float = 0.5) -> dict[str, float]:
    return {
        "dpo/mean_reward": reward, "dpo/reward_margin": margin, "dpo/gradient_factor": factor
    }


def after(state: ObjectiveState, rule: str = "off", **values: float) -> ObjectiveState:
    return Objective(adaptive_beta=rule).state_after(state, metrics(**values))


def test_the_tanh_rule_by_hand() -> None:
    # One deviation above the mean: 1 + tanh(1) / 2 = 1 + 0.7615941559557649 / 2.
    assert tanh_factor(0.3, 0.1, 0.2) == pytest.approx(1.3807970779778824)
    assert tanh_factor(-0.1, 0.1, 0.2) == pytest.approx(0.6192029220221176)
    assert tanh_factor(0.1, 0.1, 0.2) == 1.0
    assert tanh_factor(9.0, 0.0, 0.1) == pytest.approx(1.5)
    assert tanh_factor(-9.0, 0.0, 0.1) == pytest.approx(0.5)
    assert tanh_factor(9.0, 0.0, 0.0) == 1.0, "nothing is known of the spread yet"


def test_the_target_rule_by_hand() -> None:
    # Too little is learned yet, .5 - .2 = .3: up by e^.03 = 1.030454533953517.
    assert target_factor(1.0, 0.5, 0.2) == pytest.approx(1.030454533953517)
    assert target_factor(2.0, 0.1, 0.2) == pytest.approx(2 * 0.990049833749168)  # e^-.01
    assert target_factor(1.5, 0.2, 0.2) == 1.5
    assert target_factor(4.0, 0.5, 0.2) == 4.0 and target_factor(0.25, 0.0, 0.2) == 0.25


def test_the_target_rule_settles_where_the_target_is() -> None:
    # A margin that stays as it is: the factor ends where s(-beta factor m) = .2, at ln 4.
    factor, logit = 1.0, 0.7
    for _ in range(2000):
        factor = target_factor(factor, 1 / (1 + math.exp(factor * logit)), 0.2)
    assert factor * logit == pytest.approx(math.log(4))


def test_running_means_by_hand() -> None:
    one = after(FRESH, reward=1.0, margin=2.0)
    # .9 * 0 + .1 * 1; .9 * 0 + .1 * 2; variance .9 (0 + .1 * 2^2).
    assert one.steps == 1
    assert [one.mean_reward, one.mean_margin] == pytest.approx([0.1, 0.2])
    assert one.margin_variance == pytest.approx(0.36)
    two = after(one, reward=0.0, margin=0.2)
    assert two.mean_reward == pytest.approx(0.09) and two.mean_margin == pytest.approx(0.2)
    assert two.margin_variance == pytest.approx(0.324)  # no surprise: .9 * .36


def test_the_running_variance_becomes_that_of_the_margins() -> None:
    state = FRESH
    for step in range(4000):
        state = after(state, margin=1.0 if step % 2 else 3.0)
    # Their variance is 1; the running mean itself swings a little, by .1 / 1.9.
    assert state.margin_variance == pytest.approx(1.0, abs=0.11)


@pytest.mark.parametrize("rule", ["off", "tanh", "target"])
def test_beta_stays_as_set_while_warming_up_and_moves_then_if_told_to(rule: str) -> None:
    objective = Objective(beta=100.0, adaptive_beta=rule)
    state, betas = FRESH, []
    for step in range(WARM_UP + 10):
        betas.append(objective.beta_at(0, state))
        state = after(state, rule, margin=0.01 * step)
    assert betas[: WARM_UP + 1] == [100.0] * (WARM_UP + 1)
    moved = betas[WARM_UP + 1 :]
    assert all(beta == 100.0 for beta in moved) if rule == "off" else all(b > 100.0 for b in moved)
    if rule == "tanh":
        assert max(moved) <= 150.0


def test_the_last_steps_margin_is_measured_against_those_before_it() -> None:
    state = ObjectiveState(steps=50, mean_margin=0.1, margin_variance=0.04)
    moved = after(state, "tanh", margin=0.3)
    assert moved.beta_factor == pytest.approx(1.3807970779778824)


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_what_is_no_number_is_not_remembered(missing: float) -> None:
    state = ObjectiveState(40, 0.1, 0.2, 0.3, 1.1)
    found = after(state, "tanh", reward=missing, margin=missing, factor=missing)
    assert found == replace(state, steps=41)
    assert Objective().state_after(state, {}) == replace(state, steps=41)


def test_a_beta_for_every_epoch_and_the_last_one_stays() -> None:
    objective = Objective(beta=1.0, beta_per_epoch=(5000.0, 2000.0, 500.0))
    assert [objective.beta_at(epoch, FRESH) for epoch in range(5)] == [5000, 2000, 500, 500, 500]
    assert Objective(beta=7.0).beta_at(3, FRESH) == 7.0
    assert Objective("simpo", beta=7.0).beta_at(0, FRESH) == 250.0
