"""Online rounds on the embedded model: what the LoRA draws is judged, and it learns from that.

Online and offline training differ in one thing: whether the pictures of a round are drawn by the
LoRA as it is then (Guo et al. 2024, arXiv:2402.04792), or all of them by the base model. Prompts,
seeds, the number of judged pictures and the number of steps are the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..judging.judge import Pixels
from ..judging.panel import Panel
from ..online.replay import replayed
from ..run import TrainSettings, TrainState, train
from ..training.adapter import Adapter
from ..training.dataset import EncodedPair, EncodedPairs
from ..training.reference_cache import ReferenceCache
from .denoiser import DemoDenoiser, attached
from .network import FlowNetwork, to_pictures
from .picks import draw_pictures, encoded_pair, first_seed, prompt_pool


class Ask(NamedTuple):
    """A prompt, and the seeds of its pictures."""

    prompt: str
    seeds: range


@dataclass(frozen=True)
class RoundSettings:
    """How often pictures are drawn, how many, and what is learned from them."""

    rounds: int = 4
    """Times that pictures are drawn and judged."""
    prompts_per_round: int = 8
    """New prompts of each round."""
    images_per_prompt: int = 4
    """Pictures of a prompt; the best and the worst of them become a pair."""
    steps_per_round: int = 20
    """Optimiser steps after each round's judging."""
    replay: float = 0.5
    """Share of a round's pairs that come from earlier rounds, as far as there are some."""
    min_gap: float = 0.0
    """Difference of scores below which a prompt gives no pair."""
    refresh_reference: bool = False
    """Each round is measured against the LoRA it began with; otherwise always against the base."""

    @property
    def judged(self) -> int:
        """Pictures judged in all rounds."""
        return self.rounds * self.prompts_per_round * self.images_per_prompt

    @property
    def steps(self) -> int:
        """Optimiser steps of all rounds."""
        return self.rounds * self.steps_per_round

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        least = {"rounds": 1, "prompts_per_round": 1, "images_per_prompt": 2, "steps_per_round": 1}
        found = [
            f"{name} is {getattr(self, name)}: use {smallest} or more."
            for name, smallest in least.items()
            if getattr(self, name) < smallest
        ]
        if not 0 <= self.replay < 1:
            found.append(f"replay is {self.replay:g}: use 0 to below 1, 0.5 is usual.")
        return found

    def asked(self, seed: int) -> list[list[Ask]]:
        """What each round draws; no prompt or seed of it is held out, and no seed comes twice."""
        draw, pool = random.Random(f"online rounds {seed}"), prompt_pool(held_out=False)
        first, images = first_seed(seed, held_out=False), self.images_per_prompt
        starts = range(first, first + self.judged, images)
        asks = [Ask(draw.choice(pool), range(start, start + images)) for start in starts]
        each = self.prompts_per_round
        return [asks[i : i + each] for i in range(0, len(asks), each)]


@dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
        pictures: what was judged, prompt by prompt, (B, 3, 64, 64).
        scores: the panel's, one for each picture.
        pairs: what followed from them.
        state: the LoRA afterwards; a value. None while there was never a pair to learn from.
    """

    pictures: Tensor
    scores: tuple[float, ...]
    pairs: tuple[EncodedPair, ...]
    state: TrainState | None


def online_rounds(
    network: FlowNetwork,
    adapter: Adapter,
    panel: Panel,
    rounds: RoundSettings,
    training: TrainSettings,
) -> Iterator[Round]:
    """Draws, judges and learns, and yields after every round.

    Args:
        network: the base model, without the adapter.
        adapter: a new one; it is trained in place.
        panel: who judges.
        rounds: how much of everything.
        training: how each round is trained; its seed also decides prompts and pictures.

    Raises:
        ValueError: settings out of range.
        JudgeError: the panel cannot judge.
    """
    if problems := rounds.problems():
        raise ValueError("\n".join(problems))
    state: TrainState | None = None
    earlier: list[EncodedPair] = []
    cache = ReferenceCache(tolerance=1e-3)
    for number, asked in enumerate(rounds.asked(training.seed)):
        with attached(network, adapter):
            pictures = answers(network, asked)
        scores, pairs = judged(panel, asked, pictures, rounds.min_gap)
        lessons = pairs + replayed(len(pairs), earlier, rounds.replay, training.seed + number)
        if rounds.refresh_reference and state is not None:
            adapter.freeze_reference(state.adapter)
            cache = ReferenceCache(tolerance=1e-3)
        if lessons:
            state = trained(
                network, adapter, EncodedPairs(tuple(lessons)), training, rounds.steps_per_round,
                state, cache,
            )
        earlier += pairs
        yield Round(pictures, scores, tuple(pairs), state)


def answers(network: FlowNetwork, asked: Sequence[Ask]) -> Tensor:
    """The network's pictures of every prompt, as it is now, (prompts x images, 3, 64, 64)."""
    prompts = [ask.prompt for ask in asked for _ in ask.seeds]
    return draw_pictures(network, prompts, [seed for ask in asked for seed in ask.seeds])


def judged(
    panel: Panel, asked: Sequence[Ask], pictures: Tensor, min_gap: float = 0.0
) -> tuple[tuple[float, ...], list[EncodedPair]]:
    """The panel's score of every picture, and the best and worst of each prompt as a pair.

    Args:
        panel: who judges.
        asked: the prompts.
        pictures: what :func:`answers` gave for them.
        min_gap: difference of scores below which a prompt gives no pair.
    """
    scores: list[float] = []
    pairs = []
    for ask, shown in zip(asked, pictures.split([len(ask.seeds) for ask in asked]), strict=True):
        verdict = panel.verdict(pixels(shown), ask.prompt)
        scores += verdict.scores
        pairs += [
            encoded_pair(shown[better], shown[worse], ask.prompt)
            for better, worse in verdict.pairs(1, min_gap)
        ]
    return tuple(scores), pairs


def pixels(pictures: Tensor) -> list[Pixels]:
    """Pictures (B, 3, 64, 64) in [-1, 1] as a judge sees them, each (64, 64, 3) in 0 to 255."""
    return list((to_pictures(pictures) * 255).round().astype(np.uint8))


def trained(
    network: FlowNetwork,
    adapter: Adapter,
    lessons: EncodedPairs,
    training: TrainSettings,
    steps: int,
    start: TrainState | None = None,
    cache: ReferenceCache | None = None,
) -> TrainState:
    """Trains the adapter in place from a state on, or from the beginning; the state it then has."""
    with attached(network, adapter):
        reports = train(
            DemoDenoiser(network), adapter, lessons, training, steps, start, cache
        )
        for report in reports:
            last = report
        return last.state()
