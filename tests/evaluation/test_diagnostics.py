from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dpo_core.evaluation.diagnostics import Watch, watched

Row = dict[str, float]


def row(step: int, **values: float) -> Row:
    """A step of a healthy run, with other numbers where they are given."""
    healthy = {
        "step": step, "loss/dpo": 0.6, "dpo/raw_loss": 0.6, "dpo/accuracy": 0.75, "rho": 0.99,
        "dpo/chosen_reward": 1e-4, "grad_norm": 1.0, "prediction_change": 0.03**2,
    }  # fmt: skip
    names = {"accuracy": "dpo/accuracy", "chosen": "dpo/chosen_reward", "raw": "dpo/raw_loss",
             "total": "loss/dpo", "change": "prediction_change"}  # fmt: skip
    return healthy | {names.get(name, name): value for name, value in values.items()}


def run(steps: int, values: Callable[[int], dict[str, float]], **options: Any) -> Watch:
    watch = Watch(**options)
    for step in range(1, steps + 1):
        watch.take(row(step, **values(step)))
    return watch


def names(watch: Watch) -> list[str]:
    return [finding.name for finding in watch.findings]


def test_a_healthy_run_is_called_healthy() -> None:
    watch = run(300, lambda step: {})
    assert watch.findings == []
    assert watch.verdict() == ["Healthy: no sign of trouble in the curves."]


def test_rising_chosen_errors_are_warned_of_and_then_loudly() -> None:
    watch = Watch()
    assert watch.take(row(1, rho=1.02)) == []
    (mild,) = watch.take(row(2, rho=1.03))
    assert (mild.name, mild.serious, mild.step) == ("chosen worse", False, 2)
    (loud,) = watch.take(row(3, rho=1.11))
    assert loud.serious and "Stop" in loud.text and "11%" in loud.text
    assert watch.take(row(4, rho=1.5)) == []  # each speaks once
    assert watch.verdict()[0] == "Take care:"


def test_hacking_is_high_accuracy_with_a_falling_chosen_reward_for_long() -> None:
    def bad(step: int) -> dict[str, float]:
        return {"accuracy": 1.0, "chosen": -1e-5} if step > 40 else {"chosen": -1e-5}

    assert "hacking" not in names(run(70, bad))  # the mean must pass .95, then 25 steps
    assert "hacking" in names(run(120, bad))
    assert "hacking" not in names(run(120, bad, online=True))
    assert "hacking" not in names(run(120, lambda step: {"accuracy": 1.0, "chosen": 1e-5}))


def test_accuracy_at_one_half_for_a_hundred_steps_is_stuck() -> None:
    assert names(run(99, lambda step: {"accuracy": 0.5})) == []
    assert names(run(100, lambda step: {"accuracy": 0.5})) == ["stuck"]


def test_accuracy_below_one_half_asks_whether_sides_are_swapped() -> None:
    assert names(run(49, lambda step: {"accuracy": 0.3})) == []
    watch = run(50, lambda step: {"accuracy": 0.3})
    assert names(watch) == ["swapped"] and watch.findings[0].serious


def test_pairs_told_apart_at_once_are_too_easy_and_later_they_are_learned() -> None:
    assert names(run(30, lambda step: {"accuracy": 0.5 if step == 1 else 1.0})) == ["too easy"]
    assert names(run(200, lambda step: {"accuracy": min(1.0, 0.5 + step / 100)})) == []


def test_a_supervised_mix_that_hides_a_rising_loss_is_named_only_where_there_is_one() -> None:
    def masked(step: int) -> dict[str, float]:
        return {"raw": 0.69 + step / 200, "total": 1.0}

    assert names(run(200, masked, supervised=True)) == ["masked"]
    assert names(run(200, masked)) == []
    assert names(run(200, lambda step: {"raw": 0.69 + step / 200, "total": 1 + step / 200},
                     supervised=True)) == []  # fmt: skip


def test_exploding_gradients_are_compared_with_their_own_median() -> None:
    assert names(run(60, lambda step: {"grad_norm": 1000.0})) == []
    assert names(run(60, lambda step: {"grad_norm": 9.0 if step >= 40 else 1.0})) == []
    assert names(run(60, lambda step: {"grad_norm": 11.0 if step in (40, 41) else 1.0})) == []
    assert names(run(60, lambda step: {"grad_norm": 11.0 if step >= 40 else 1.0})) == ["exploding"]


def test_an_invisible_lora_is_said_in_the_verdict() -> None:
    watch = run(100, lambda step: {"accuracy": 0.9, "change": 0.0055**2})
    assert watch.verdict()[0] == "Worth a look:"
    assert any("0.55%" in line for line in watch.verdict())
    assert len(run(100, lambda step: {"accuracy": 0.9, "change": 0.021**2}).verdict()) == 1


def validated(step: int, accuracy: float, low: float, high: float, **more: float) -> Row:
    return row(step) | {
        "dpo/val_accuracy": accuracy, "dpo/val_accuracy_low": low, "dpo/val_accuracy_high": high,
        **more,
    }  # fmt: skip


def test_validation_that_falls_or_cannot_tell_is_said() -> None:
    verdict = watched([validated(0, 0.5, 0.2, 0.8), validated(50, 0.9, 0.7, 1.0),
                       validated(100, 0.6, 0.4, 0.8)]).verdict()
    text = " ".join(verdict)
    assert "best at step 50 (90%)" in text and "fell to 60%" in text
    assert "may be chance (40% to 80%)" in text
    sure = watched([validated(50, 0.9, 0.7, 1.0, **{"val/rho": 1.05})]).verdict()
    assert "rose by 5%" in " ".join(sure)
    assert len(watched([validated(50, 0.9, 0.7, 1.0)]).verdict()) == 1


def test_margins_by_noise_are_shares() -> None:
    margins = {f"dpo/val_margin_q{i}": value for i, value in enumerate((4.0, 3.0, 2.0, -1.0), 1)}
    verdict = watched([validated(50, 0.9, 0.7, 1.0, **margins)]).verdict()
    assert verdict[-1] == "Margin by noise, from composition to detail: 40%, 30%, 20%, -10%."


@pytest.mark.parametrize("missing", ["loss/dpo", "grad_norm"])
def test_steps_without_a_result_are_counted(missing: str) -> None:
    rows = [row(1), {name: value for name, value in row(2).items() if name != missing}]
    assert "1 step had no finite result" in " ".join(watched(rows).verdict())


def test_rows_of_losses_without_a_reference_are_read_too() -> None:
    bare = {"loss/dpo": 0.5, "dpo/raw_loss": 0.5, "grad_norm": 1.0, "dpo/accuracy": 0.7}
    assert len(watched([{"step": i, **bare} for i in range(1, 50)]).verdict()) == 1
    assert Watch().verdict() == ["Nothing was trained."]
