from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist, fmean, pstdev
from typing import Any

import pytest
import torch

from dpo_core.training.noise import Draw, NoiseSettings, draws

SHAPE = (2, 4, 4)
UNIFORM = NoiseSettings("uniform")


def a_draw(
    settings: NoiseSettings = UNIFORM,
    default: str = "uniform",
    seed: int = 0,
    key: str = "a",
    visit: int = 0,
    side: str = "pair",
) -> Draw:
    (one,) = draws(settings, default, seed, key, visit, side, SHAPE)
    return one


def same(one: Draw, other: Draw) -> bool:
    return one.percent == other.percent and torch.equal(one.noise, other.noise)


def test_a_draw_is_fp32_on_the_cpu_and_of_the_latents_shape() -> None:
    noise = a_draw().noise
    assert (tuple(noise.shape), noise.dtype, noise.device.type) == (SHAPE, torch.float32, "cpu")


def test_the_same_question_gets_the_same_answer_whatever_happened_before() -> None:
    first = a_draw()
    torch.manual_seed(123)
    a_draw(key="another"), torch.randn(7)
    assert same(first, a_draw())


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    a_draw()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"key": "b"}, {"visit": 1}, {"side": "rejected"}],
    ids=["seed", "pair", "visit", "side"],
)
def test_every_part_of_the_key_gives_another_draw(change: dict[str, Any]) -> None:
    one, other = a_draw(), a_draw(**change)
    assert one.percent != other.percent
    both = torch.stack([one.noise.flatten(), other.noise.flatten()])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.7


def test_noise_is_standard_normal_over_many_draws() -> None:
    values = torch.stack([a_draw(key=str(i)).noise for i in range(1000)])
    # 32,000 values: the mean is off by 1/sqrt(32000) = .0056 at one standard deviation.
    assert abs(values.mean()) < 0.025
    assert abs(values.std() - 1) < 0.02
    # Correlation between places: off by .03 at one standard deviation of 1,000 draws.
    correlation = torch.corrcoef(values.flatten(1).T) - torch.eye(32)
    assert correlation.abs().max() < 0.15


def percents(settings: NoiseSettings, default: str = "uniform", count: int = 4000) -> list[float]:
    return [
        draws(settings, default, 0, str(i), 0, "pair", (1,))[0].percent for i in range(count)
    ]


def test_uniform_spreads_evenly_over_the_schedule() -> None:
    values = percents(NoiseSettings("uniform"))
    assert all(0 < value < 1 for value in values)
    assert fmean(values) == pytest.approx(1 / 2, abs=0.02)
    assert pstdev(values) == pytest.approx(math.sqrt(1 / 12), abs=0.01)
    tenths = [sum(int(10 * value) == tenth for value in values) for tenth in range(10)]
    assert min(tenths) > 320 and max(tenths) < 480  # 400 +- 4 standard deviations of 19


def test_logit_normal_favours_the_middle_as_a_standard_normal_logit() -> None:
    values = percents(NoiseSettings("logit_normal"))
    assert all(0 < value < 1 for value in values)
    logits = [math.log(value / (1 - value)) for value in values]
    assert fmean(logits) == pytest.approx(0, abs=0.06)
    assert pstdev(logits) == pytest.approx(1, abs=0.04)
    # |z| < 1 is .6827 of a normal distribution: that many lie between s(-1) and s(1).
    middle = [0.26894142 < value < 0.73105858 for value in values]
    assert fmean(middle) == pytest.approx(0.6827, abs=0.03)


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_auto_is_what_the_model_was_trained_with(kind: str) -> None:
    assert same(a_draw(NoiseSettings("auto"), default=kind), a_draw(NoiseSettings(kind)))
    other = {"uniform": "logit_normal", "logit_normal": "uniform"}[kind]
    assert same(a_draw(NoiseSettings(kind), default=other), a_draw(NoiseSettings(kind)))


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_a_part_of_the_schedule_is_filled_and_not_left(kind: str) -> None:
    values = percents(NoiseSettings(kind, low=0.2, high=0.6), count=1000)
    assert all(0.2 <= value <= 0.6 for value in values)
    whole = percents(NoiseSettings(kind), count=1000)
    # The same position, in the part: 0.2 + 0.4 u.
    for value, position in zip(values, whole, strict=True):
        if 0.01 < position < 0.99:
            assert value == pytest.approx(0.2 + 0.4 * position)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (1 - 1e-6, 1.0)])
def test_the_very_ends_of_the_schedule_are_never_touched(low: float, high: float) -> None:
    assert all(0 < value < 1 for value in percents(NoiseSettings("uniform", low, high), count=50))
    ends = [value if high < 0.5 else 1 - value for value in
            percents(NoiseSettings("uniform", low, high), count=50)]
    assert min(ends) == pytest.approx(1e-3)


def test_good_settings_have_no_problems_and_every_bad_one_is_named() -> None:
    good = NoiseSettings()
    assert good.problems() == []
    (problem,) = replace(good, sigmas="sometimes").problems()
    assert "sometimes" in problem and "logit_normal" in problem
    for low, high in ((-0.1, 1.0), (0.5, 0.5), (0.6, 0.4), (0.0, 1.1), (float("nan"), 1.0)):
        (problem,) = replace(good, low=low, high=high).problems()
        assert str(low) in problem and str(high) in problem


@pytest.mark.parametrize("default", ["uniform", "logit_normal"])
def test_stratified_visits_every_eighth_of_the_models_distribution_in_turn(default: str) -> None:
    def eighth(percent: float) -> int:
        if default == "uniform":
            return int(8 * percent)
        return int(8 * NormalDist().cdf(math.log(percent / (1 - percent))))

    settings = NoiseSettings("stratified")
    orders = set()
    for first in (0, 8, 16):
        visited = [
            eighth(a_draw(settings, default, visit=first + i).percent) for i in range(8)
        ]
        assert sorted(visited) == list(range(8))
        orders.add(tuple(visited))
    assert len(orders) == 3  # shuffled anew each time
    other = [eighth(a_draw(settings, default, key="b", visit=i).percent) for i in range(8)]
    assert tuple(other) not in orders


def test_cached_draws_come_again_and_are_spread_out() -> None:
    settings = NoiseSettings("uniform", cached_draws=4)
    found = [a_draw(settings, visit=visit) for visit in range(8)]
    assert all(same(one, again) for one, again in zip(found[:4], found[4:], strict=True))
    assert sorted(int(4 * one.percent) for one in found[:4]) == [0, 1, 2, 3]


def test_several_draws_of_a_visit_are_those_of_as_many_visits() -> None:
    one = NoiseSettings("stratified")
    three = replace(one, draws_per_pair=3)
    visits = [a_draw(one, visit=visit) for visit in range(6)]
    found = [
        each for visit in range(2) for each in draws(three, "uniform", 0, "a", visit, "pair", SHAPE)
    ]
    assert all(same(a, b) for a, b in zip(found, visits, strict=True))


def test_bad_numbers_of_draws_are_named() -> None:
    good = NoiseSettings(draws_per_pair=3, cached_draws=9)
    assert good.problems() == []
    for wrong, name in (
        ({"draws_per_pair": 0}, "draws_per_pair"),
        ({"draws_per_pair": 65}, "draws_per_pair"),
        ({"cached_draws": -3}, "cached_draws"),
        ({"cached_draws": 8}, "cached_draws"),
    ):
        (problem,) = replace(good, **wrong).problems()
        assert name in problem
