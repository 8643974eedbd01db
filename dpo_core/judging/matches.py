"""Scores from a judge that can only compare two images: matches, and ratings of their results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..ranking import tournament
from ..ranking.ratings import Outcome, Ratings
from ..ranking.vote import MAX_IMAGES
from .judge import JudgeError, PairwiseJudge, Pixels

ALL_PAIRS = 4
"""Up to so many images every two are compared; more play a Swiss tournament."""

_DIGITS = 9
_RESULT = {1: "left", 0: "tie", -1: "right"}


def scores_of_matches(
    judge: PairwiseJudge, images: Sequence[Pixels], prompt: str
) -> tuple[float, ...]:
    """A score for each of K images, in log odds: Bradley-Terry ratings of who was preferred.

    Only which side of one half an answer lies on counts: how sure a judge says it is, is rarely
    calibrated, and one that is certain of everything would outweigh the others of its panel. An
    answer of one half is a tie. So are two images of equal content, which are not asked about.

    Which image is shown first is drawn for each two of them, from their content and the prompt.
    The same images therefore get the same questions and scores, in whatever order they come.

    Raises:
        JudgeError: the judge cannot tell, says what is no probability, or K > MAX_IMAGES.
    """
    if len(images) > MAX_IMAGES:
        raise JudgeError(
            f"The judge {judge.name} compares images two at a time, at most {MAX_IMAGES} of one "
            f"prompt, and got {len(images)}. Judge fewer together."
        )
    digests = [_digest(image) for image in images]
    # Sorted by content: what the tournament draws at random is then no matter of the batch's order.
    ordered = sorted(range(len(images)), key=digests.__getitem__)
    matches = _Matches(
        judge, [images[i] for i in ordered], [digests[i] for i in ordered], prompt
    )
    ratings = Ratings([str(place) for place in range(len(ordered))], matches.outcomes())
    scores = {i: ratings.mean(str(place)) for place, i in enumerate(ordered)}
    # Rounded, so that what is equal by symmetry stays so whatever the arithmetic.
    return tuple(round(scores[i], _DIGITS) + 0.0 for i in range(len(images)))


class _Matches:
    """Matches between images, which are called by their place."""

    def __init__(
        self,
        judge: PairwiseJudge,
        images: Sequence[Pixels],
        digests: Sequence[bytes],
        prompt: str,
    ) -> None:
        self._judge, self._images, self._digests = judge, images, digests
        self._prompt = prompt
        self._salt = prompt.encode("utf-8", "surrogatepass")

    def outcomes(self) -> list[Outcome]:
        if len(self._images) <= ALL_PAIRS:
            played = combinations(range(len(self._images)), 2)
            return [_outcome(i, j, self._result(i, j)) for i, j in played]
        state = tournament.start(len(self._images), self._draw(*self._digests))
        while state["queue"]:
            left, right = state["queue"][0]
            result = _RESULT[self._result(left, right)]
            event = {"type": "choose", "left": left, "right": right, "result": result}
            state = tournament.reduce(state, event)
        sides = {result: side for side, result in _RESULT.items()}
        return [_outcome(i, j, sides[result]) for i, j, result in state["results"]]

    def _result(self, i: int, j: int) -> int:
        """1 if image i is better, -1 if j is, 0 for a tie."""
        if self._digests[i] == self._digests[j]:
            return 0
        first, second = sorted((i, j), key=self._digests.__getitem__)
        if self._draw(self._digests[first], self._digests[second]) % 2:
            first, second = second, first
        answer = self._ask(first, second)
        better = int(answer > 0.5) - int(answer < 0.5)
        return better if first == i else -better

    def _ask(self, first: int, second: int) -> float:
        answer = float(
            self._judge.prefer(self._images[first], self._images[second], self._prompt)
        )
        if not 0 <= answer <= 1:  # NaN is in no range
            raise JudgeError(
                f"The judge {self._judge.name} answered {answer:g} to which of two images is "
                "better: it must give a number from 0 (certainly the second) to 1 (certainly the "
                "first), .5 for a tie."
            )
        return answer

    def _draw(self, *digests: bytes) -> int:
        """A number in 0..2^32 - 1."""
        drawn = hashlib.blake2b(b"".join(digests) + self._salt, digest_size=4)
        return int.from_bytes(drawn.digest(), "big")


def _outcome(i: int, j: int, result: int) -> Outcome:
    winner, loser = (i, j) if result >= 0 else (j, i)
    return Outcome(str(winner), str(loser), tie=result == 0)


def _digest(image: Pixels) -> bytes:
    hasher = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(image).data)
    return hasher.digest()
