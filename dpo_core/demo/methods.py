"""The methods the laboratory compares: an objective, what it learns from, how fast it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..run import TrainSettings
from ..training.dataset import EncodedGroup, EncodedImage, EncodedPairs, tensor_digest
from ..training.noise import NoiseSettings
from ..training.objectives import Objective
from .demo import train_settings
from .picks import Question, picked_pairs, questions, scores, wrong_ones
from .pictures import encode
from .taste import Taste

ROWS = 8
"""Pictures a step trains on, for every method: that is what makes the compute equal."""
DRAWS = 8
"""Draws of noise per record, spread over the noise levels."""


@dataclass(frozen=True)
class Method:
    """A way to learn from the same pictures.

    Attributes:
        objective: the loss.
        learns_from: a key of :data:`LESSONS`.
        learning_rate: the best of a small search, on a seed that is not judged.
    """

    objective: Objective
    learns_from: str = "pairs"
    learning_rate: float = 1e-3

    def settings(self, seed: int) -> TrainSettings:
        """How it is trained: :data:`ROWS` pictures a step, whatever a record is made of."""
        base = train_settings(seed, self.objective)
        noise = NoiseSettings(sigmas="stratified", cached_draws=DRAWS)
        if self.objective.needs_change:  # more than a cached error is asked of the reference
            noise = NoiseSettings(sigmas="stratified")
        return replace(
            base,
            optimizer=replace(base.optimizer, learning_rate=self.learning_rate),
            noise=noise,
            batch_size=ROWS // _PICTURES[self.learns_from],
        )


# No like or dislike counts for beta 0: what is left of KTO is ordinary training on liked images.
_SUPERVISED = Objective(loss="kto", beta=0.0, supervised_mix=1.0)

METHODS: dict[str, Method] = {
    "supervised": Method(_SUPERVISED, "chosen", 2e-3),
    "dpo beta 300": Method(Objective(beta=300.0)),
    "dpo beta 1000": Method(Objective(beta=1000.0)),
    "dpo beta 5000": Method(Objective(beta=5000.0)),
    "dpo beta 300, safeguard 0.5": Method(Objective(beta=300.0, safeguard=0.5)),
    "dpo beta 300, safeguard 0.9": Method(Objective(beta=300.0, safeguard=0.9)),
    "dpo beta 1000, smoothing 0.2": Method(Objective(beta=1000.0, label_smoothing=0.2)),
    "dpo beta 300, smoothing 0.2": Method(Objective(beta=300.0, label_smoothing=0.2)),
    "robust beta 1000, 0.2": Method(Objective(loss="robust", beta=1000.0, label_smoothing=0.2)),
    "ipo tau 300": Method(Objective(loss="ipo", beta=300.0)),
    "kto beta 1000": Method(Objective(loss="kto", beta=1000.0), "thumbs"),
    "nft_pair": Method(Objective(loss="nft_pair"), learning_rate=2e-3),
    "simpo beta 250": Method(Objective(loss="simpo"), learning_rate=2e-4),
    "mapo": Method(Objective(loss="orpo"), learning_rate=2e-4),
    "dgpo beta 1000": Method(Objective(loss="dgpo", beta=1000.0), "rankings", 5e-4),
    "balanced": Method(Objective(beta=1000.0, safeguard=0.5, supervised_mix=0.25)),
    "strong": Method(Objective(beta=200.0, supervised_mix=0.25)),
}
"""Every method by name. dpo beta 5000 is the conservative preset."""


def paired_questions(count: int, seed: int) -> list[Question]:
    """As :func:`~.picks.questions` for training, but every two of one prompt.

    So the four pictures of two pairs can also be ranked: all methods learn from the same pictures.
    """
    asked = questions(count, seed, held_out=False)
    return [Question(asked[i - i % 2].prompt, one.seeds) for i, one in enumerate(asked)]


def lessons(
    method: Method,
    asked: Sequence[Question],
    pictures: Tensor,
    taste: Taste,
    flipped: float,
    seed: int,
) -> EncodedPairs:
    """What a method learns from, of the same pictures and the same wrong picks.

    Args:
        method: decides what is asked of whoever picks.
        asked: B questions of :func:`paired_questions`.
        pictures: what was drawn for them, (2 B, 3, 64, 64).
        taste: who picks.
        flipped: share of pairs the wrong way round; of thumbs those of such pairs, of rankings the
            same share upside down.
        seed: of the wrong ones.
    """
    if method.learns_from == "rankings":
        return _rankings(asked, pictures, taste, flipped, seed)
    pairs = picked_pairs(asked, pictures, taste, flipped, seed)
    if method.learns_from == "pairs":
        return pairs
    sides = (True,) if method.learns_from == "chosen" else (True, False)
    return EncodedPairs((), tuple(
        EncodedImage(
            pair.chosen if liked else pair.rejected, pair.conditioning,
            f"{pair.key} {'chosen' if liked else 'rejected'}", liked, pair.prompt,
        )
        for pair in pairs for liked in sides
    ))


_PICTURES = {"pairs": 2, "chosen": 1, "thumbs": 1, "rankings": 4}
"""What can be learned from, and of how many pictures one record of it is made."""


def _rankings(
    asked: Sequence[Question], pictures: Tensor, taste: Taste, flipped: float, seed: int
) -> EncodedPairs:
    liking = torch.tensor(scores(taste, pictures))
    size = _PICTURES["rankings"]
    count = len(pictures) // size
    wrong = wrong_ones(count, flipped, seed)
    groups = []
    for i in range(count):
        first = size * i
        order = liking[first : first + size].argsort(descending=i not in wrong)
        latents = tuple(pictures[first + int(place)] for place in order)
        prompt = asked[2 * i].prompt
        words = encode(prompt)
        key = tensor_digest(*latents, torch.tensor(words))
        # Only the order is known, so the ratings are evenly spaced.
        ratings = tuple(float(size - 1 - place) for place in range(size))
        groups.append(EncodedGroup(latents, ratings, words, key, prompt))
    return EncodedPairs((), (), tuple(groups))
