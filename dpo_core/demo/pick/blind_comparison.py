"""Base or LoRA, which is better? Asked without saying which is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...evaluation.interval import Share, wilson
from ...ranking.image_store import identified_images
from ...ranking.pair_making import SessionJudgement
from ...ranking.session import Session, SessionState
from ..picks import Question
from .groups import new_images


@dataclass(frozen=True)
class BlindComparison:
    """Sets of two pictures each, of one prompt and seed, one of them the LoRA's.

    Attributes:
        session: where the two are kept and the answers go.
        lora: image id of the LoRA's picture by set id, in the order they are asked about.
        identical: of how many prompts both drew the very same picture: ties, not worth asking.
    """

    session: str
    lora: Mapping[str, str] = field(default_factory=dict)
    identical: int = 0

    @classmethod
    def prepare(
        cls, session: Session, asked: Sequence[Question], before: Tensor, after: Tensor
    ) -> BlindComparison:
        """Stores pictures of base and LoRA, (B, 3, 64, 64) each, to be compared.

        Raises:
            OSError: no room, no permission.
        """
        lora: dict[str, str] = {}
        identical = 0
        for question, base, ours in zip(asked, before, after, strict=True):
            seed = question.seeds[0]
            two = new_images(torch.stack([base, ours]), (seed, seed))
            names = [name for name, _ in identified_images([one.pixels for one in two])]
            if names[0] == names[1]:
                identical += 1
                continue
            # In the order of their content: a place says nothing about where a picture is from.
            shown = two if names[0] < names[1] else two[::-1]
            lora[session.add_set(shown, question.prompt).id] = names[1]
        return cls(session.name, lora, identical)

    def answered(self, state: SessionState) -> list[bool]:
        """Of each set, whether the person has said something, be it to pass over it."""
        return [state.is_ranked(set_id) for set_id in self.lora]

    def share(self, state: SessionState) -> Share | None:
        """How often the LoRA's picture was preferred; None before the first answer.

        Equally good, both bad and identical pictures count one half; what was passed over is not
        counted.
        """
        judged = SessionJudgement(state)
        wins, trials = self.identical / 2, self.identical
        for set_id, lora in self.lora.items():
            votes = state.votes_on(set_id) if set_id in state.sets else []
            picks = judged.judgement(set_id).picks if votes else []
            if picks:
                wins += picks[-1].winner == lora
                trials += 1
            elif any(vote.get("result") in ("tie", "both_bad") for vote in votes):
                wins += 0.5
                trials += 1
        said = trials > self.identical or not self.lora
        return wilson(wins, trials) if trials and said else None

    def as_json(self) -> dict[str, Any]:
        return {"session": self.session, "lora": dict(self.lora), "identical": self.identical}


def in_words(share: Share) -> str:
    """What a share allows to say, and no more."""
    if share.low > 0.5:
        return "You prefer what it learned from you."
    if share.high < 0.5:
        return "You prefer the model as it was."
    return "So few comparisons cannot tell it from chance yet."
