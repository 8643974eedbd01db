"""Picks by a taste: pictures the base model draws, and which of two is liked better."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..training.dataset import EncodedPair, EncodedPairs, tensor_digest
from .network import FlowNetwork, sample, to_pictures
from .pictures import all_prompts, encode
from .taste import Taste

EULER_STEPS = 12
BATCH = 32


@dataclass(frozen=True)
class Question:
    """A prompt and the seeds of two pictures of it."""

    prompt: str
    seeds: tuple[int, int]


def questions(count: int, seed: int, held_out: bool) -> list[Question]:
    """Prompts to be judged; no prompt and no seed is both in training and held out."""
    pool = prompt_pool(held_out)
    draw = random.Random(f"questions {seed} {held_out}")
    first = first_seed(seed, held_out)
    return [
        Question(draw.choice(pool), (first + 2 * i, first + 2 * i + 1)) for i in range(count)
    ]


def prompt_pool(held_out: bool) -> list[str]:
    """The prompts that may be asked in training, or those that are held out."""
    prompts = all_prompts()
    random.Random("prompts of the demo").shuffle(prompts)
    kept = len(prompts) // 4
    return prompts[:kept] if held_out else prompts[kept:]


def first_seed(seed: int, held_out: bool) -> int:
    """Where the ten million seeds of pictures begin that a demo of this seed may draw."""
    return 2 * (10_000_000 * (seed + 1) + (5_000_000 if held_out else 0))


def draw_pictures(
    network: FlowNetwork,
    prompts: Sequence[str],
    seeds: Sequence[int],
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Samples (B, 3, 64, 64); ``progress`` is told how many there are so far."""
    drawn = []
    for i in range(0, len(prompts), BATCH):
        drawn.append(sample(network, prompts[i : i + BATCH], seeds[i : i + BATCH], EULER_STEPS))
        progress(min(i + BATCH, len(prompts)))
    return torch.cat(drawn)


def scores(taste: Taste, pictures: Tensor) -> list[float]:
    """The taste's score of each picture (B, 3, 64, 64)."""
    return [taste.score(picture) for picture in to_pictures(pictures)]


def drawn(
    network: FlowNetwork,
    asked: Sequence[Question],
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """The base model's two pictures of every question, (2 B, 3, 64, 64)."""
    prompts = [question.prompt for question in asked for _ in question.seeds]
    seeds = [seed for question in asked for seed in question.seeds]
    return draw_pictures(network, prompts, seeds, progress)


def picked_pairs(
    asked: Sequence[Question], pictures: Tensor, taste: Taste, flipped: float = 0.0, seed: int = 0
) -> EncodedPairs:
    """One pair per question: of its two pictures, the one the taste likes better is chosen.

    Args:
        asked: B questions.
        pictures: what :func:`drawn` gave for them.
        taste: who picks.
        flipped: share of picks that are wrong, at random by ``seed``.
        seed: of the wrong picks.
    """
    liking = np.array(scores(taste, pictures)).reshape(-1, 2)
    wrong = wrong_ones(len(asked), flipped, seed)
    pairs = []
    for i, question in enumerate(asked):
        better = int(liking[i, 1] > liking[i, 0]) ^ (i in wrong)
        chosen, rejected = pictures[2 * i + better], pictures[2 * i + 1 - better]
        pairs.append(encoded_pair(chosen, rejected, question.prompt))
    return EncodedPairs(tuple(pairs))


def wrong_ones(count: int, share: float, seed: int) -> set[int]:
    """Which of ``count`` picks are wrong, at random by ``seed``."""
    return set(random.Random(f"wrong picks {seed}").sample(range(count), round(share * count)))


def encoded_pair(chosen: Tensor, rejected: Tensor, prompt: str) -> EncodedPair:
    """Two pictures (3, 64, 64) of one prompt, as the embedded model takes them."""
    words = encode(prompt)
    key = tensor_digest(chosen, rejected, torch.tensor(words))
    return EncodedPair(chosen, rejected, words, key, prompt)
