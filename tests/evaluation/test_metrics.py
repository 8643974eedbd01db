from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpo_core.evaluation.metrics import NAMES, step_metrics
from dpo_core.training.four_passes import PassResult
from dpo_core.training.objectives import Errors, Labels, ObjectiveLoss, certain


def result(margins: list[float], dtype: torch.dtype = torch.float64, **other: float) -> PassResult:
    """Pairs with these margins, all earned by the chosen image; the rest as given."""
    count = len(margins)

    def column(name: str, default: float) -> Tensor:
        return torch.full((count,), other.get(name, default), dtype=dtype)

    chosen, rejected = column("chosen", 1.0), column("rejected", 2.0)
    reference = [chosen + torch.tensor(margins, dtype=dtype), column("reference_rejected", 2.0)]
    errors = Errors(torch.stack([chosen, rejected]), torch.stack(reference))
    return PassResult(
        errors, certain(count), ObjectiveLoss(column("total", 0.7), column("preference", 0.6)),
        4 * errors.margin, column("change", 0.1), column("power", 2.0),
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
        "dpo/mean_reward": -0.0625,  # (.5 - .25 - .25 - .25) / 4
        # Logits 4 * .75 = 3 and 0: s(-3) = 0.04742587317756678, s(0) = .5.
        "dpo/gradient_factor": (0.04742587317756678 + 0.5) / 2,
        "errors/chosen": 0.5,
        "errors/rejected": 2.25,
        "errors/reference_chosen": 0.625,  # (1 + .25) / 2
        "errors/reference_rejected": 2.0,
        "prediction_change": 0.05,  # .1 / 2
        "kl": 0.1,
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
    assert found["kl"] == pytest.approx(0.4)  # 1.6 / 4


def test_metrics_keep_the_errors_dtype_for_devices_without_float64() -> None:
    one = result([0.5], torch.float32)
    assert step_metrics([one], torch.tensor(1.0)).dtype == torch.float32


def test_what_is_no_number_shows_and_spoils_only_itself() -> None:
    found = metrics(result([0.5], total=math.nan), grad_norm=math.inf)
    assert math.isnan(found["loss/dpo"]) and found["grad_norm"] == math.inf
    assert found["dpo/accuracy"] == 1.0


def test_a_reference_that_answers_zero_divides_by_no_zero() -> None:
    assert metrics(result([0.0], change=0.0, power=0.0))["prediction_change"] == 0.0


def single_images(
    liked: list[float], rewards: list[float], errors: list[float] | None = None
) -> PassResult:
    policy = torch.tensor([errors or [1.0] * len(liked)], dtype=torch.float64)
    column = torch.ones(len(liked), dtype=torch.float64)
    labels = Labels(column, liked=torch.tensor(liked), weight=column)
    return PassResult(
        Errors(policy, policy + torch.tensor([rewards], dtype=torch.float64)), labels,
        ObjectiveLoss(column, column), column, column, column,
    )


def test_of_single_images_the_liked_are_chosen_and_the_disliked_rejected() -> None:
    found = metrics(single_images([1, 0, 1], [0.5, 0.25, -0.1], [1.0, 2.0, 3.0]))
    assert found["dpo/chosen_reward"] == pytest.approx(0.2)  # (.5 - .1) / 2
    assert found["dpo/rejected_reward"] == pytest.approx(0.25)
    assert found["dpo/reward_margin"] == pytest.approx(-0.05)
    assert found["dpo/mean_reward"] == pytest.approx(0.65 / 3)
    assert found["errors/chosen"] == pytest.approx(2.0) and found["errors/rejected"] == 2.0
    # Right is the first: liked and better. The second is disliked and better, the third liked
    # and worse.
    assert found["dpo/accuracy"] == pytest.approx(1 / 3)
    assert math.isnan(found["dpo/gradient_factor"]), "there is no pair to learn apart"


def test_a_step_with_liked_images_alone_says_nothing_of_disliked_ones() -> None:
    found = metrics(single_images([1.0], [0.5]))
    assert found["dpo/chosen_reward"] == pytest.approx(0.5) and found["dpo/accuracy"] == 1
    assert math.isnan(found["dpo/rejected_reward"]) and math.isnan(found["dpo/reward_margin"])


def test_of_a_group_the_best_and_the_worst_image_count() -> None:
    policy = torch.tensor([[1.0, 1.0], [9.0, 9.0], [2.0, 2.0]], dtype=torch.float64)
    reference = policy + torch.tensor([[0.5, -0.5], [7.0, 7.0], [0.25, 0.0]], dtype=torch.float64)
    one = result([0.0, 0.0])
    found = metrics(one._replace(errors=Errors(policy, reference)))
    assert found["dpo/chosen_reward"] == 0.0 and found["dpo/rejected_reward"] == 0.125
    assert found["dpo/reward_margin"] == -0.125  # .25 and -.5
    assert found["dpo/accuracy"] == 0.5
    assert found["dpo/mean_reward"] == pytest.approx(14.25 / 6)


def test_a_pair_nobody_told_apart_is_neither_right_nor_wrong() -> None:
    one = result([1.0, -1.0])
    tied = one._replace(labels=Labels(one.labels.chosen_probability, tie=torch.tensor([0.0, 1.0])))
    assert metrics(tied)["dpo/accuracy"] == 1.0
    both = one._replace(labels=Labels(one.labels.chosen_probability, tie=torch.ones(2)))
    assert math.isnan(metrics(both)["dpo/accuracy"])


def test_without_a_reference_there_are_no_rewards_but_a_margin() -> None:
    one = result([0.0, 0.0], chosen=1.0, rejected=2.5)
    alone = one._replace(
        errors=Errors(one.errors.policy), change=one.change * math.nan, power=one.power * math.nan
    )
    found = metrics(alone)
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {
        "dpo/chosen_reward", "dpo/rejected_reward", "dpo/mean_reward", "errors/reference_chosen",
        "errors/reference_rejected", "prediction_change", "kl",
    }
    assert found["dpo/reward_margin"] == 1.5 and found["dpo/accuracy"] == 1.0
