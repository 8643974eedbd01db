"""Several judges as one: their scores are weighed, and one that cannot judge is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .judge import AnyJudge, JudgeError, PairwiseJudge, Pixels
from .matches import scores_of_matches
from .verdict import Opinion, Verdict


@dataclass(frozen=True)
class Member:
    """A judge of a panel and the weight of its scores; a negative one turns them round."""

    judge: AnyJudge
    weight: float = 1.0


@dataclass(frozen=True)
class Panel:
    """The DPO_JUDGE value.

    Attributes:
        members: one or more.
        agree: only where all of them prefer the same image is a pair made.
    """

    members: tuple[Member, ...]
    agree: bool = False

    @property
    def name(self) -> str:
        """Equal for panels that say the same."""
        names = [f"{one.weight:g} x {one.judge.name}" for one in self.members]
        return " + ".join(names) + (", all agreeing" if self.agree else "")

    def verdict(self, images: Sequence[Pixels], prompt: str) -> Verdict:
        """What the judges say of K images of one prompt.

        Raises:
            JudgeError: one of them cannot tell, or says something that is no number.
        """
        return Verdict(
            tuple(
                Opinion(one.judge.name, one.weight, _scores(one.judge, images, prompt))
                for one in self.members
            ),
            self.agree,
        )


def _scores(judge: AnyJudge, images: Sequence[Pixels], prompt: str) -> tuple[float, ...]:
    if isinstance(judge, PairwiseJudge):
        return scores_of_matches(judge, images, prompt)
    scores = tuple(float(score) for score in judge.score(images, prompt))
    if len(scores) != len(images):
        raise JudgeError(
            f"The judge {judge.name} gave {len(scores)} scores for {len(images)} images: it must "
            "give one for each."
        )
    if not all(map(math.isfinite, scores)):
        raise JudgeError(f"The judge {judge.name} gave a score that is no number: {scores}.")
    return scores
