"""Base or LoRA, which is better? Asked without saying which is which."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...comparison.comparison import BlindComparison
from ...comparison.couple import NewCouple, Side, Sides
from ...evaluation.interval import Share
from ...ranking.image_store import identified_images
from ...ranking.session import Session
from ..network import to_pictures
from ..picks import Question

SIDES = Sides(Side("base"), Side("LoRA"))


def compare_blind(
    session: Session, asked: Sequence[Question], before: Tensor, after: Tensor
) -> BlindComparison:
    """Stores pictures of base and LoRA, (B, 3, 64, 64) each, to be compared.

    Raises:
        OSError: no room, no permission.
    """
    blind = BlindComparison(session, SIDES)
    base, ours = (identified_images(list(to_pictures(pictures))) for pictures in (before, after))
    for question, one, other in zip(asked, base, ours, strict=True):
        blind.add(NewCouple(question.prompt, one, other), {"seed": str(question.seeds[0])})
    return blind


def in_words(share: Share) -> str:
    """What a share allows to say, and no more."""
    if share.low > 0.5:
        return "You prefer what it learned from you."
    if share.high < 0.5:
        return "You prefer the model as it was."
    return "So few comparisons cannot tell it from chance yet."
