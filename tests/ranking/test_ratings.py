from __future__ import annotations

import math
import random

import numpy as np
import pytest

from dpo_core.ranking.ratings import ANCHOR, Outcome, Ratings

A, B, C, D = "abcd"


def test_an_image_nobody_compared_is_the_prior() -> None:
    ratings = Ratings([A, B], [])
    assert ratings.mean(A) == 0 and ratings.deviation(A) == 1 and ratings.elo(A) == 1500
    assert ratings.probability(A, B) == 0.5 and not ratings.connected(A, B)


def test_one_win_worked_by_hand() -> None:
    # By symmetry mu_a = -mu_b = d / 2, and d solves sigmoid(-d) = d / 2: d = 0.674830.
    # The Hessian along (1, -1) is 1 + 2 w, w = sigmoid(d) sigmoid(-d), so var(d) = 2 / (1 + 2 w).
    d = 0.6748316
    assert 1 / (1 + math.exp(d)) == pytest.approx(d / 2, abs=1e-7)
    w = (d / 2) * (1 - d / 2)
    spread = 2 / (1 + 2 * w)
    p = 1 / (1 + math.exp(-d / math.sqrt(1 + math.pi * spread / 8)))
    ratings = Ratings([A, B], [Outcome(A, B)])
    assert ratings.gap(A, B) == pytest.approx(d, abs=1e-6)
    assert ratings.mean(A) == pytest.approx(-ratings.mean(B))
    assert ratings.probability(A, B) == pytest.approx(p, abs=1e-6)
    assert ratings.probability(A, B) == pytest.approx(0.63, abs=0.005)
    assert ratings.probability(B, A) == pytest.approx(1 - p, abs=1e-6)
    # mu_a + mu_b keeps its prior variance 2: var(mu_a) = (2 + var(d)) / 4.
    assert ratings.deviation(A) == pytest.approx(math.sqrt((2 + spread) / 4), abs=1e-6)
    assert ratings.elo(A) == round(1500 + 400 / math.log(10) * d / 2)


def test_a_loss_to_the_anchor_worked_by_hand() -> None:
    # mu solves -sigmoid(mu) - mu = 0: mu = -0.401058.
    ratings = Ratings([A, B], [Outcome(ANCHOR, A)])
    mu = ratings.mean(A)
    assert mu == pytest.approx(-0.401058, abs=1e-6)
    assert 1 / (1 + math.exp(-mu)) == pytest.approx(-mu, abs=1e-9)
    assert ratings.mean(B) == 0 and not ratings.connected(A, B)


def test_a_tie_alone_leaves_both_equal_and_tells_how_readily_ties_are_called() -> None:
    # With mu = 0 the chance of a tie is nu / (2 + nu), and log nu = x solves
    # 1 - e^x / (2 + e^x) = x: x = 0.536...
    ratings = Ratings([A, B], [Outcome(A, B, tie=True)])
    assert ratings.mean(A) == ratings.mean(B) == 0
    assert ratings.connected(A, B) and ratings.probability(A, B) == 0.5


def test_a_tie_after_a_win_pulls_together() -> None:
    won = Ratings([A, B], [Outcome(A, B)])
    tied = Ratings([A, B], [Outcome(A, B), Outcome(A, B, tie=True)])
    assert 0 < tied.gap(A, B) < won.gap(A, B)


def test_the_order_of_votes_does_not_matter() -> None:
    outcomes = [Outcome(A, B), Outcome(B, C), Outcome(C, A, tie=True), Outcome(A, D)]
    one = Ratings([A, B, C, D], outcomes)
    other = Ratings([D, B, A, C], outcomes[::-1])
    for image in (A, B, C, D):
        assert one.mean(image) == pytest.approx(other.mean(image), abs=1e-12)
        assert one.deviation(image) == pytest.approx(other.deviation(image), abs=1e-12)


def test_a_circle_of_wins_leaves_all_equal() -> None:
    ratings = Ratings([A, B, C], [Outcome(A, B), Outcome(B, C), Outcome(C, A)])
    np.testing.assert_allclose(ratings.means([A, B, C]), 0, atol=1e-12)


def test_what_is_not_connected_is_rated_as_if_alone() -> None:
    alone = Ratings([A, B], [Outcome(A, B)])
    beside = Ratings([A, B, C, D], [Outcome(A, B), Outcome(C, D, tie=True), Outcome(D, ANCHOR)])
    assert beside.mean(A) == alone.mean(A)
    assert beside.connected(A, B) and beside.connected(C, D) and not beside.connected(B, C)
    # Independent ratings: the variances add.
    spread = beside.deviation(A) ** 2 + beside.deviation(C) ** 2
    gap = beside.gap(A, C) / math.sqrt(1 + math.pi * spread / 8)
    assert beside.probability(A, C) == pytest.approx(1 / (1 + math.exp(-gap)))


def test_the_table_of_chances_holds_each_chance() -> None:
    outcomes = [Outcome(A, B), Outcome(B, C), Outcome(ANCHOR, D)]
    ratings = Ratings([A, B, C, D], outcomes)
    table = ratings.probabilities([D, A, C])
    np.testing.assert_allclose(table + table.T, 1, atol=1e-12)
    assert table[1, 2] == pytest.approx(ratings.probability(A, C))
    assert table[0, 1] == pytest.approx(ratings.probability(D, A))


def negative_log_posterior(x: np.ndarray, n: int, outcomes: list[tuple[int, int, bool]]) -> float:
    """Written from the definition, one comparison at a time; row n is the anchor."""
    mu = [*x[:n], 0.0]
    ties = any(tie for _, _, tie in outcomes)
    nu = math.exp(x[n]) if ties else 0.0
    total = float(x @ x) / 2
    for winner, loser, tie in outcomes:
        high, low = math.exp(mu[winner] / 2), math.exp(mu[loser] / 2)
        chance = nu if tie else high / low
        total -= math.log(chance / (high / low + low / high + nu))
    return total


@pytest.mark.parametrize("seed", range(6))
def test_an_independent_optimiser_finds_the_same_ratings_and_uncertainties(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = random.Random(seed)
    n = 5
    names = [f"i{i}" for i in range(n)]
    rows = [(i, i + 1, False) for i in range(n - 1)]  # a chain, so that all are connected
    for _ in range(12):
        i, j = rng.sample(range(n + 1), 2)
        rows.append((i, j, seed % 2 == 0 and rng.random() < 0.3 and n not in (i, j)))

    def objective(x: np.ndarray) -> float:
        return negative_log_posterior(x, n, rows)

    found = optimize.minimize(objective, np.zeros(n + 1), method="BFGS", options={"gtol": 1e-9})
    label = [*names, ANCHOR]
    ratings = Ratings(names, [Outcome(label[i], label[j], tie) for i, j, tie in rows])
    np.testing.assert_allclose(ratings.means(names), found.x[:n], atol=1e-5)
    # The curvature by finite differences at that point.
    step, hessian = 1e-4, np.zeros((n + 1, n + 1))
    for i in range(n + 1):
        for j in range(n + 1):
            a, b = np.eye(n + 1)[i] * step, np.eye(n + 1)[j] * step
            x = found.x
            hessian[i, j] = (
                objective(x + a + b) - objective(x + a - b)
                - objective(x - a + b) + objective(x - a - b)
            ) / (4 * step * step)  # fmt: skip
    deviations = np.sqrt(np.diag(np.linalg.inv(hessian)))[:n]
    np.testing.assert_allclose([ratings.deviation(name) for name in names], deviations, atol=1e-4)


def test_a_known_order_is_recovered_from_noisy_comparisons() -> None:
    rng = random.Random(5)
    true = {f"i{i}": 3 - 0.6 * i for i in range(11)}
    names = list(true)
    outcomes = []
    for _ in range(1500):
        i, j = rng.sample(names, 2)
        likely = 1 / (1 + math.exp(true[j] - true[i]))
        if rng.random() < 0.15:
            outcomes.append(Outcome(i, j, tie=True))
        elif rng.random() < likely:
            outcomes.append(Outcome(i, j))
        else:
            outcomes.append(Outcome(j, i))
    rng.shuffle(names)
    ratings = Ratings(names, outcomes)
    assert sorted(names, key=ratings.mean, reverse=True) == list(true)
    for name in names:  # the scale is recovered too, within four deviations
        assert abs(ratings.mean(name) - true[name]) < 4 * ratings.deviation(name) + 0.3


def test_more_votes_make_surer() -> None:
    once = Ratings([A, B], [Outcome(A, B)])
    often = Ratings([A, B], [Outcome(A, B)] * 20)
    assert often.deviation(A) < once.deviation(A)
    assert 0.9 < often.probability(A, B) < 1


def test_a_thousand_one_sided_votes_are_still_a_number() -> None:
    ratings = Ratings([A, B], [Outcome(A, B)] * 100_000)
    assert math.isfinite(ratings.gap(A, B)) and ratings.probability(A, B) > 0.999
