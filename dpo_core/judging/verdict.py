"""What judges said of the images of one prompt, and which pairs follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations


@dataclass(frozen=True)
class Opinion:
    """One judge's scores.

    Attributes:
        judge: its name.
        weight: of its scores among those of the panel.
        scores: one for each of K images, finite.
    """

    judge: str
    weight: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """The opinions of a panel on K images.

    Attributes:
        opinions: one or more.
        agree: only pairs on which every judge prefers the same image are told apart.
    """

    opinions: tuple[Opinion, ...]
    agree: bool = False

    @property
    def scores(self) -> tuple[float, ...]:
        """The weighted sum of all scores, one for each image."""
        return tuple(
            sum(one.weight * score for one, score in zip(self.opinions, column, strict=True))
            for column in zip(*(one.scores for one in self.opinions), strict=True)
        )

    def agreed(self, better: int, worse: int) -> bool:
        """Whether every judge that counts prefers the first of two images."""
        counting = [one for one in self.opinions if one.weight != 0]
        return all(
            one.weight * (one.scores[better] - one.scores[worse]) > 0 for one in counting
        )

    def pairs(self, count: int, min_gap: float = 0.0) -> list[tuple[int, int]]:
        """Better and worse image of up to ``count`` pairs, the largest gaps first.

        No image is in two of them. The gap is that of the weighted sums.
        """
        scores = self.scores
        possible = [
            (scores[i] - scores[j], i, j)
            for i, j in permutations(range(len(scores)), 2)
            if scores[i] > scores[j]
            and scores[i] - scores[j] >= min_gap
            and (not self.agree or self.agreed(i, j))
        ]
        found: list[tuple[int, int]] = []
        used: set[int] = set()
        for _, i, j in sorted(possible, key=lambda one: (-one[0], one[1], one[2])):
            if len(found) < count and used.isdisjoint((i, j)):
                found.append((i, j))
                used.update((i, j))
        return found

    def order(self, min_gap: float = 0.0) -> list[list[int]]:
        """The images best first, from which pairs are made outermost first.

        What is in no pair of :meth:`pairs` stands in the middle, tied: it is not told apart.
        """
        pairs = self.pairs(len(self.scores) // 2, min_gap)
        used = {image for pair in pairs for image in pair}
        middle = [image for image in range(len(self.scores)) if image not in used]
        best, worst = [[i] for i, _ in pairs], [[j] for _, j in reversed(pairs)]
        return best + ([middle] if middle else []) + worst
