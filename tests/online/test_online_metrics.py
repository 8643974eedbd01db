"""The numbers of a round, by hand, under the names of TRL's Online DPO trainer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpo_core.online.online_metrics import SIDE, diversity, reduced, score_metrics, training_metrics


def row(chosen: float, rejected: float, kl: float = 0.25) -> dict[str, float]:
    return {
        "dpo/chosen_reward": chosen,
        "dpo/rejected_reward": rejected,
        "dpo/reward_margin": chosen - rejected,
        "dpo/accuracy": 1.0 if chosen > rejected else 0.0,
        "errors/chosen": 1.0 - chosen,
        "errors/rejected": 2.0 - rejected,
        "kl": kl,
    }


def test_rewards_are_beta_times_and_log_probabilities_minus_errors() -> None:
    found = training_metrics([row(0.5, -0.25, kl=0.5), row(0.25, 0.75, kl=0.0)], beta=8.0)
    assert found == pytest.approx({
        "rewards/chosen": 3.0,  # 8 (.5 + .25) / 2
        "rewards/rejected": 2.0,  # 8 (-.25 + .75) / 2
        "rewards/margins": 1.0,  # 8 (.75 - .5) / 2
        "rewards/accuracies": 0.5,
        "logps/chosen": -0.625,  # -(.5 + .75) / 2
        "logps/rejected": -1.75,  # -(2.25 + 1.25) / 2
        "objective/kl": 0.25,
        "objective/non_score_reward": 2.0,  # 8 x .25
        "beta": 8.0,
    })


def test_without_a_reference_what_needs_one_is_left_out() -> None:
    alone = {"dpo/accuracy": 1.0, "errors/chosen": 0.5, "kl": math.nan}
    assert training_metrics([alone], beta=2.0) == {
        "rewards/accuracies": 1.0, "logps/chosen": -0.5, "beta": 2.0,
    }


def test_scores_are_of_all_pictures_and_margins_of_pairs() -> None:
    found = score_metrics(
        [[1.0, 4.0, 2.0], [0.0, 0.0]], [[(1, 0)], []], non_score_reward=0.5
    )
    assert found == pytest.approx({
        "objective/scores": 1.4,  # (1 + 4 + 2 + 0 + 0) / 5
        "objective/scores_margin": 3.0,
        "objective/rlhf_reward": 0.9,  # 1.4 - .5
    })


def test_where_nothing_was_told_apart_there_is_no_margin() -> None:
    assert "objective/scores_margin" not in score_metrics([[1.0, 1.0]], [[]], 0.0)


def test_a_reward_whose_cost_is_not_known_is_left_out() -> None:
    assert set(score_metrics([[1.0, 2.0]], [[(1, 0)]])) == {
        "objective/scores", "objective/scores_margin",
    }


def flat(value: int, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_equal_pictures_have_no_diversity_and_black_and_white_all_there_is() -> None:
    assert diversity([[flat(7), flat(7), flat(7)]]) == 0.0
    assert diversity([[flat(0), flat(255)]]) == pytest.approx(1.0)
    # Only pictures of one prompt are compared: (.5 + 0) / 2 over one pair of each.
    assert diversity([[flat(0), flat(127)], [flat(255), flat(255)]]) == pytest.approx(
        127 / 255 / 2
    )
    assert math.isnan(diversity([[flat(0)]]))


@pytest.mark.parametrize("size", [(48, 80), (33, 100), (5, 7), (64, 32)])
def test_a_reduced_picture_is_made_of_means(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    small = reduced(picture)
    rows, columns = min(SIDE, size[0]), min(SIDE, size[1])
    assert small.shape == (rows, columns, 3)
    for i in (0, rows // 2, rows - 1):
        for j in (0, columns // 2, columns - 1):
            part = picture[
                i * size[0] // rows : (i + 1) * size[0] // rows,
                j * size[1] // columns : (j + 1) * size[1] // columns,
            ]
            assert small[i, j] == pytest.approx(part.mean((0, 1)) / 255)
