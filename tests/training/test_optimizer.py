from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpo_core.training import optimizer as optimizer_module
from dpo_core.training.optimizer import (
    ALGORITHMS,
    PACKAGES,
    AdapterOptimizer,
    OptimizerSettings,
    learning_rate,
)

PLAIN = OptimizerSettings(learning_rate=0.1, warmup_steps=0)


def test_constant_rate_rises_over_the_warm_up_and_stays() -> None:
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=4)
    # Five equal rises end at the full rate: the fifth step is the first at full rate.
    assert [learning_rate(settings, step) for step in (0, 1, 2, 3, 4, 5, 10**6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    )
    assert learning_rate(PLAIN, 0) == 0.1


def test_linear_rate_falls_to_zero_at_total_steps() -> None:
    settings = OptimizerSettings(1.0, "linear", warmup_steps=0, total_steps=10)
    found = [learning_rate(settings, step) for step in (0, 1, 5, 9, 10, 11)]
    assert found == pytest.approx([1.0, 0.9, 0.5, 0.1, 0.0, 0.0])


def test_cosine_rate_falls_to_zero_at_total_steps() -> None:
    settings = OptimizerSettings(1.0, "cosine", warmup_steps=0, total_steps=12)
    # (1 + cos(pi k / 12)) / 2 at k = 4: cos 60 degrees is 1/2, so 3/4; at 6 half; at 8 a quarter.
    found = [learning_rate(settings, step) for step in (0, 4, 6, 8, 12, 20)]
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0], abs=1e-15)


def test_warm_up_and_fall_multiply() -> None:
    settings = OptimizerSettings(1.0, "linear", warmup_steps=1, total_steps=10)
    assert learning_rate(settings, 0) == pytest.approx(0.5)
    assert learning_rate(settings, 1) == pytest.approx(0.9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_without_an_end_is_constant(schedule: str) -> None:
    settings = OptimizerSettings(1.0, schedule, warmup_steps=0, total_steps=0)
    assert learning_rate(settings, 10**6) == 1.0


def parameters(*values: float) -> dict[str, nn.Parameter]:
    return {"a.weight": nn.Parameter(torch.tensor(values))}


def step(
    optimizer: AdapterOptimizer, at: dict[str, nn.Parameter], gradient: list[float], number: int = 0
) -> float:
    at["a.weight"].grad = torch.tensor(gradient)
    norm = optimizer.grad_norm(1.0)
    optimizer.step(number, norm)
    return norm.item()


def test_the_first_step_of_adam_is_the_learning_rate_in_every_direction() -> None:
    at = parameters(1.0, 1.0)
    step(AdapterOptimizer(at, PLAIN), at, [0.3, -0.0004])
    assert at["a.weight"].tolist() == pytest.approx([0.9, 1.1], abs=1e-5)


def test_the_second_step_by_hand() -> None:
    at = parameters(0.0)
    optimizer = AdapterOptimizer(at, replace(PLAIN, beta1=0.5, beta2=0.5, max_grad_norm=math.inf))
    step(optimizer, at, [1.0])
    step(optimizer, at, [2.0], 1)
    # First -0.1. Then m = (.5 * .5 + .5 * 2) / (1 - .25) = 5/3, v = (.5 * .5 + .5 * 4) / .75 = 3:
    # another -0.1 * (5/3) / sqrt(3).
    assert at["a.weight"].item() == pytest.approx(-0.1 - 0.1 * (5 / 3) / math.sqrt(3), rel=1e-5)


def test_weight_decay_pulls_towards_zero_apart_from_the_gradient() -> None:
    at = parameters(2.0)
    step(AdapterOptimizer(at, replace(PLAIN, weight_decay=0.5)), at, [1e-9])
    # AdamW: 2 (1 - .1 * .5) = 1.9, then the gradient's own step of .1 * 1e-9 / (1e-9 + 1e-8).
    assert at["a.weight"].item() == pytest.approx(1.9 - 0.1 / 11, rel=1e-5)


def test_gradients_longer_than_the_limit_are_shortened_and_shorter_ones_left() -> None:
    for limit, expected in ((1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])):
        at = parameters(0.0, 0.0)
        optimizer = AdapterOptimizer(at, replace(PLAIN, beta1=0.0, max_grad_norm=limit))
        assert step(optimizer, at, [3.0, 4.0]) == pytest.approx(5.0)
        # With beta1 = 0 Adam's first moment is the gradient it was given.
        assert optimizer.state()["a.weight/exp_avg"].tolist() == pytest.approx(expected, rel=1e-5)


def test_grad_norm_divides_the_gradients_and_measures_the_result_over_all_parameters() -> None:
    at = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(1))}
    unused = nn.Parameter(torch.zeros(1))
    optimizer = AdapterOptimizer({**at, "unused": unused}, PLAIN)
    at["a"].grad, at["b"].grad = torch.tensor([2.0, 4.0]), torch.tensor([4.0])
    assert optimizer.grad_norm(2.0).item() == pytest.approx(3.0)  # sqrt(1 + 4 + 4)
    assert at["a"].grad.tolist() == [1.0, 2.0]
    optimizer.zero_grad()
    assert at["a"].grad is None


def test_each_step_uses_the_rate_of_its_own_number() -> None:
    settings = OptimizerSettings(0.1, "linear", warmup_steps=0, total_steps=10)
    at = parameters(0.0)
    step(AdapterOptimizer(at, settings), at, [1.0], number=8)
    assert at["a.weight"].item() == pytest.approx(-0.02, rel=1e-4)


def gradients(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, generator=generator) for _ in range(count)]


def test_state_leaves_as_values_and_comes_back_bit_for_bit() -> None:
    at = parameters(0.1, 0.2, 0.3)
    optimizer = AdapterOptimizer(at, replace(PLAIN, weight_decay=0.01))
    assert optimizer.state() == {}
    grads = gradients(6)
    for i, gradient in enumerate(grads[:3]):
        step(optimizer, at, gradient.tolist(), i)
    state, middle = optimizer.state(), at["a.weight"].tolist()
    assert set(state) == {"a.weight/step", "a.weight/exp_avg", "a.weight/exp_avg_sq"}
    kept = {name: value.clone() for name, value in state.items()}
    for i, gradient in enumerate(grads[3:], 3):
        step(optimizer, at, gradient.tolist(), i)
    assert all(torch.equal(state[name], kept[name]) for name in kept), "a state is a copy"

    for _ in range(2):  # twice from the same state: loading copies too
        again = parameters(*middle)
        resumed = AdapterOptimizer(again, replace(PLAIN, weight_decay=0.01))
        resumed.load(state)
        for i, gradient in enumerate(grads[3:], 3):
            step(resumed, again, gradient.tolist(), i)
        assert torch.equal(again["a.weight"], at["a.weight"])
        for name, value in optimizer.state().items():
            assert torch.equal(value, resumed.state()[name])


def algorithm(name: str) -> OptimizerSettings:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    rate = 1.0 if name == "prodigy" else 1e-2
    return OptimizerSettings(rate, warmup_steps=2, weight_decay=0.01, algorithm=name)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_on_bit_for_bit_from_its_state(name: str) -> None:
    settings = algorithm(name)

    def start() -> dict[str, nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        # Of 64 x 64 and more 8-bit moments are kept in 8 bits; a LoRA's up weights begin at zero.
        return {
            "down.weight": nn.Parameter(torch.randn(64, 64, generator=generator)),
            "up.weight": nn.Parameter(torch.zeros(96, 8)),
        }

    def run(optimizer: AdapterOptimizer, at: dict[str, nn.Parameter], first: int) -> None:
        for i in range(first, first + 4):
            generator = torch.Generator().manual_seed(i)
            for parameter in at.values():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step(i, optimizer.grad_norm(1.0))

    at = start()
    whole = AdapterOptimizer(at, settings)
    run(whole, at, 0)
    middle = {key: value.detach().clone() for key, value in at.items()}
    state = whole.state()
    run(whole, at, 4)
    assert all(not torch.equal(at[key], middle[key]) for key in at)

    again = {key: nn.Parameter(value.clone()) for key, value in middle.items()}
    resumed = AdapterOptimizer(again, settings)
    resumed.load(state)
    run(resumed, again, 4)
    assert all(torch.equal(again[key], at[key]) for key in at)
    assert all(torch.equal(value, whole.state()[key]) for key, value in resumed.state().items())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_down_a_bowl(name: str) -> None:
    at = {"a.weight": nn.Parameter(torch.ones(64, 64))}
    settings = replace(algorithm(name), weight_decay=0.0)
    optimizer = AdapterOptimizer(at, settings)
    for i in range(200):  # prodigy takes its time to find a rate
        at["a.weight"].grad = at["a.weight"].detach().clone()
        optimizer.step(i, optimizer.grad_norm(1.0))
    assert at["a.weight"].abs().max() < 0.9


def test_a_missing_package_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(optimizer_module.PACKAGES, "adamw_8bit", "no_such_package")
    (problem,) = OptimizerSettings(algorithm="adamw_8bit").problems()
    assert "no_such_package" in problem and "choose adamw" in problem


def test_prodigy_wants_a_rate_near_one() -> None:
    pytest.importorskip("prodigyopt")
    assert OptimizerSettings(1.0, algorithm="prodigy").problems() == []
    (problem,) = OptimizerSettings(5e-5, algorithm="prodigy").problems()
    assert "use 1" in problem


def test_a_state_of_another_lora_is_refused_by_name() -> None:
    optimizer = AdapterOptimizer(parameters(0.0), PLAIN)
    with pytest.raises(ValueError, match="b.weight"):
        optimizer.load({"b.weight/step": torch.zeros(())})


def test_good_settings_have_no_problems_and_every_bad_one_is_named() -> None:
    assert OptimizerSettings().problems() == []
    nan = float("nan")
    wrong: dict[str, list[Any]] = {
        "learning_rate": [0.0, -1.0, 2.0, nan],
        "schedule": ["steep"],
        "optimizer": ["sgd"],
        "ema": [1.0, -0.1, nan],
        "warmup_steps": [-1],
        "total_steps": [-1],
        "weight_decay": [-0.1, math.inf, nan],
        "beta1": [1.0, -0.1, nan],
        "beta2": [1.0, -0.1, nan],
        "max_grad_norm": [0.0, -1.0, nan],
    }
    for name, values in wrong.items():
        for value in values:
            field = "algorithm" if name == "optimizer" else name
            (problem,) = replace(OptimizerSettings(), **{field: value}).problems()
            assert name in problem
