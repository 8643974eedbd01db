"""Ratings from comparisons: Bradley-Terry with Davidson's ties, MAP under a normal prior.

For images i and j with ratings mu, d = mu_i - mu_j and tie parameter nu (Davidson 1970, eq. 2.1):

    P(i wins), P(tie), P(j wins)  are proportional to  exp(d / 2), nu, exp(-d / 2)

mu ~ N(0, 1) and log nu ~ N(0, 1). The log posterior is concave, and Newton's method finds its one
maximum; the inverse of the negative Hessian there is the covariance (Laplace). Images that no chain
of comparisons connects share nothing and are fitted apart. Where nobody ever tied two images,
nu = 0: plain Bradley-Terry.

The rating does not depend on the order of votes, as Elo's would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ANCHOR = None
"""An opponent that stays at rating 0, the middle of the prior: what is just acceptable."""

ELO_MIDDLE = 1500
_ELO_PER_LOG_ODDS = 400 / math.log(10)
_MAX_STEPS = 100
_PRECISION = 1e-10
_CACHED_FITS = 1 << 14

Vector = NDArray[np.float64]


class Outcome(NamedTuple):
    """One comparison: `winner` over `loser`, or a tie. Either may be ANCHOR."""

    winner: str | None
    loser: str | None
    tie: bool = False


class Ratings:
    """The ratings of some images.

    Every number is in log odds, on a scale where an image nobody compared is 0 +- 1.
    """

    def __init__(self, images: Sequence[str], outcomes: Iterable[Outcome]) -> None:
        self._place: dict[str, tuple[int, int]] = {}
        self._fits: list[_Fit] = []
        for members, matches in _components(images, outcomes):
            for row, image in enumerate(members):
                self._place[image] = (len(self._fits), row)
            self._fits.append(_fit(len(members), matches))

    def mean(self, image: str) -> float:
        """The rating of an image. Raises KeyError."""
        fit, row = self._place[image]
        return float(self._fits[fit].mean[row])

    def deviation(self, image: str) -> float:
        """The standard deviation of its rating. Raises KeyError."""
        fit, row = self._place[image]
        return math.sqrt(self._fits[fit].covariance[row, row])

    def connected(self, i: str, j: str) -> bool:
        """True if a chain of comparisons leads from one to the other. Raises KeyError."""
        return self._place[i][0] == self._place[j][0]

    def gap(self, i: str, j: str) -> float:
        """mean(i) - mean(j)."""
        return self.mean(i) - self.mean(j)

    def probability(self, i: str, j: str) -> float:
        """How likely i is preferred to j, with what is not known about both averaged over.

        sigmoid((mu_i - mu_j) / sqrt(1 + pi s^2 / 8)), s^2 the variance of the difference
        (MacKay 1992, "The evidence framework applied to classification networks", eq. 10).
        """
        return float(self.probabilities([i, j])[0, 1])

    def means(self, images: Sequence[str]) -> Vector:
        """Ratings, shape (n,). Raises KeyError."""
        return np.array([self.mean(image) for image in images])

    def probabilities(self, images: Sequence[str]) -> Vector:
        """`probability` of every image (row) over every other (column), shape (n, n)."""
        n = len(images)
        covariance = np.zeros((n, n))
        fits = np.array([self._place[image][0] for image in images], dtype=np.intp)
        rows = np.array([self._place[image][1] for image in images], dtype=np.intp)
        for fit in sorted({int(one) for one in fits}):
            here = np.flatnonzero(fits == fit)
            block = np.ix_(rows[here], rows[here])
            covariance[np.ix_(here, here)] = self._fits[fit].covariance[block]
        variance = np.diag(covariance)
        spread = variance[:, None] + variance[None, :] - 2 * covariance
        means = self.means(images)
        gaps = means[:, None] - means[None, :]
        return _sigmoid(gaps / np.sqrt(1 + math.pi * np.maximum(spread, 0) / 8))

    def elo(self, image: str) -> int:
        """The rating on the scale that people know from chess; for display only."""
        return round(ELO_MIDDLE + _ELO_PER_LOG_ODDS * self.mean(image))


class _Fit(NamedTuple):
    mean: Vector
    covariance: Vector


class _Match(NamedTuple):
    """All comparisons of two images by row; the row behind the last image is the anchor."""

    i: int
    j: int
    wins_i: int
    wins_j: int
    ties: int


def _components(
    images: Sequence[str], outcomes: Iterable[Outcome]
) -> list[tuple[list[str], tuple[_Match, ...]]]:
    """Connected images and their matches; both numbered in the order they first appear."""
    parent = {image: image for image in images}

    def root(image: str) -> str:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    counted = list(outcomes)
    for winner, loser, _ in counted:
        if winner is not ANCHOR and loser is not ANCHOR:
            parent[root(winner)] = root(loser)
    # Rows in the order of the outcomes, so that equal patterns of votes are fitted once.
    members: dict[str, dict[str, int]] = {}
    for winner, loser, _ in counted:
        for image in (winner, loser):
            if image is not ANCHOR:
                rows = members.setdefault(root(image), {})
                rows.setdefault(image, len(rows))
    for image in images:
        rows = members.setdefault(root(image), {})
        rows.setdefault(image, len(rows))
    counts: dict[str, dict[tuple[int, int], list[int]]] = {name: {} for name in members}
    for winner, loser, tie in counted:
        if winner is ANCHOR and loser is ANCHOR:
            continue
        name = root(winner if winner is not ANCHOR else loser)  # type: ignore[arg-type]
        rows = members[name]
        i, j = (len(rows) if image is ANCHOR else rows[image] for image in (winner, loser))
        count = counts[name].setdefault((min(i, j), max(i, j)), [0, 0, 0])
        count[2 if tie else int(i > j)] += 1
    return [
        (
            list(rows),
            tuple(_Match(i, j, *count) for (i, j), count in sorted(counts[name].items())),
        )
        for name, rows in members.items()
    ]


@lru_cache(maxsize=_CACHED_FITS)
def _fit(n: int, matches: tuple[_Match, ...]) -> _Fit:
    """Ratings of n connected images, and their covariance."""
    if not matches:
        return _Fit(np.zeros(n), np.eye(n))
    posterior = _Posterior(n, matches)
    x = np.zeros(n + 1)
    height = posterior.height(x)
    for _ in range(_MAX_STEPS):
        gradient, curvature = posterior.derivatives(x)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (higher := posterior.height(x + size * step)) < height and size > 1e-9:
            size /= 2
        x, height = x + size * step, max(higher, height)
        if np.abs(size * step).max() < _PRECISION:
            break
    covariance = np.linalg.inv(posterior.derivatives(x)[1])
    mean, covariance = x[:n].copy(), covariance[:n, :n].copy()
    mean.flags.writeable = covariance.flags.writeable = False  # they are shared by the cache
    return _Fit(mean, covariance)


class _Posterior:
    """The log posterior of x = (mu_1, ..., mu_n, log nu), up to a constant.

    `sides` is (matches, n): +1 for a match's first image, -1 for its second; so d = sides @ mu.
    """

    def __init__(self, n: int, matches: Sequence[_Match]) -> None:
        table = np.array(matches, dtype=np.float64)
        rows = np.arange(len(matches))
        sides = np.zeros((len(matches), n + 1))
        sides[rows, table[:, 0].astype(np.intp)] = 1
        sides[rows, table[:, 1].astype(np.intp)] = -1
        self.sides = sides[:, :n]  # without the anchor, which stays at 0
        self.lead = (table[:, 2] - table[:, 3]) / 2
        self.ties = table[:, 4]
        self.total = table[:, 2:].sum(axis=1)
        self.can_tie = bool(self.ties.any())

    def height(self, x: Vector) -> float:
        half = self.sides @ x[:-1] / 2
        # log(exp(d / 2) + exp(-d / 2)), then nu joins the sum.
        log_sum = np.logaddexp(half, -half)
        if self.can_tie:
            log_sum = np.logaddexp(log_sum, x[-1])
        likelihood = self.lead @ (2 * half) + self.ties.sum() * x[-1] - self.total @ log_sum
        return float(likelihood - x @ x / 2)

    def derivatives(self, x: Vector) -> tuple[Vector, Vector]:
        """The gradient, shape (n + 1,), and the negative Hessian, (n + 1, n + 1)."""
        half = self.sides @ x[:-1] / 2
        tie = np.zeros_like(half)
        if self.can_tie:
            tie = _sigmoid(x[-1] - np.logaddexp(half, -half))
        lean = (1 - tie) * np.tanh(half)  # P(first wins) - P(second wins)
        gradient = -x
        gradient[:-1] += (self.lead - self.total * lean / 2) @ self.sides
        curvature = np.eye(len(x))
        bend = self.total * (1 - tie - lean * lean) / 4
        curvature[:-1, :-1] += self.sides.T @ (bend[:, None] * self.sides)
        if self.can_tie:
            gradient[-1] += self.ties.sum() - self.total @ tie
            cross = -(self.total * lean * tie / 2) @ self.sides
            curvature[:-1, -1] += cross
            curvature[-1, :-1] += cross
            curvature[-1, -1] += self.total @ (tie * (1 - tie))
        return gradient, curvature


def _sigmoid(x: Vector) -> Vector:
    return np.exp(-np.logaddexp(0, -x))
