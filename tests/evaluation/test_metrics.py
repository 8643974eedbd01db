from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpo_core.evaluation.metrics import NAMES, step_metrics
from dpo_core.training.four_passes import PassResult
from dpo_core.training.objectives import ObjectiveLoss, PairErrors


def result(margins: list[float], dtype: torch.dtype = torch.float64, **other: float) -> PassResult:
    """Pairs with these margins, all earned by the chosen image; the rest as given."""
    count = len(margins)

    def column(name: str, default: float) -> Tensor:
        return torch.full((count,), other.get(name, default), dtype=dtype)

    chosen = column("chosen", 1.0)
    return PassResult(
        PairErrors(
            chosen, column("rejected", 2.0),
            chosen + torch.tensor(margins, dtype=dtype), column("reference_rejected", 2.0),
        ),
        ObjectiveLoss(column("total", 0.7), column("preference", 0.6)),
        column("change", 0.1),
        column("power", 2.0),
    )


def metrics(*results: PassResult, grad_norm: float = 3.0) -> dict[str, float]:
    values = step_metrics(results, torch.tensor(grad_norm))
    assert values.shape == (len(NAMES),)
    return dict(zip(NAMES, values.tolist(), strict=True))


def test_every_number_by_hand() -> None:
    found = metrics(result([0.5, -0.25], rejected=2.25, chosen=0.5))
    assert found == pytest.approx({
        "loss/dpo": 0.7,
        "dpo/raw_loss": 0.6,
        "dpo/chosen_reward": 0.125,  # (.5 - .25) / 2
        "dpo/rejected_reward": -0.25,  # 2 - 2.25
        "dpo/reward_margin": 0.375,
        "dpo/accuracy": 0.75,  # margins .5 + .25 and -.25 + .25 = 0: a tie
        "errors/chosen": 0.5,
        "errors/rejected": 2.25,
        "errors/reference_chosen": 0.625,  # (1 + .25) / 2
        "errors/reference_rejected": 2.0,
        "prediction_change": 0.05,  # .1 / 2
        "grad_norm": 3.0,
    })


@pytest.mark.parametrize(
    ("margins", "accuracy"),
    [
        ([0.0], 0.5), ([0.0, -0.0], 0.5), ([1.0], 1.0), ([-1.0], 0.0), ([1.0, 0.0, -1.0], 0.5),
        ([1.0, 1.0, 0.0], 5 / 6), ([1e-30, -1.0, -1.0, -1.0], 0.25),
    ],
)
def test_a_tie_counts_one_half_in_accuracy(margins: list[float], accuracy: float) -> None:
    # The errors themselves are 0 here, so that a margin of 1e-30 is one.
    pairs = result(margins, chosen=0.0, rejected=0.0, reference_rejected=0.0)
    assert metrics(pairs)["dpo/accuracy"] == pytest.approx(accuracy)


def test_means_are_over_pairs_not_over_batches() -> None:
    found = metrics(
        result([1.0, 1.0, 1.0], total=1.0, change=0.3, power=1.0),
        result([-1.0], total=5.0, change=0.7, power=3.0),
    )
    assert found["loss/dpo"] == pytest.approx(2.0)  # (1 + 1 + 1 + 5) / 4
    assert found["dpo/accuracy"] == pytest.approx(0.75)
    assert found["dpo/reward_margin"] == pytest.approx(0.5)
    # Change and power are averaged before they are divided: (.9 + .7) / (3 + 3).
    assert found["prediction_change"] == pytest.approx(1.6 / 6)


def test_metrics_keep_the_errors_dtype_for_devices_without_float64() -> None:
    one = result([0.5], torch.float32)
    assert step_metrics([one], torch.tensor(1.0)).dtype == torch.float32


def test_what_is_no_number_shows_and_spoils_only_itself() -> None:
    found = metrics(result([0.5], total=math.nan), grad_norm=math.inf)
    assert math.isnan(found["loss/dpo"]) and found["grad_norm"] == math.inf
    assert found["dpo/accuracy"] == 1.0


def test_a_reference_that_answers_zero_divides_by_no_zero() -> None:
    assert metrics(result([0.0], change=0.0, power=0.0))["prediction_change"] == 0.0
