"""Which pairs each step sees: a pure function of (seed, step), so any run can be resumed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class MicroBatch:
    """Pairs that go through the model together.

    Attributes:
        indices: positions in the dataset, all from one bucket.
        visit: how often these pairs have been seen before; the epoch.
    """

    indices: tuple[int, ...]
    visit: int


class BatchPlan:
    """Every epoch visits every pair once, in an order drawn from the seed.

    Args:
        buckets: indices of pairs that may share a batch.
        batch_size: pairs in one micro-batch, at most.
        accumulation: micro-batches in one optimiser step.
        seed: the run's seed.

    Raises:
        ValueError: if there is no pair.
    """

    def __init__(
        self, buckets: Sequence[Sequence[int]], batch_size: int, accumulation: int, seed: int
    ) -> None:
        if not any(buckets):
            raise ValueError("There is no pair to train on.")
        self._buckets = [list(bucket) for bucket in buckets if bucket]
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._seed = seed
        self._per_epoch = sum(-(-len(bucket) // batch_size) for bucket in self._buckets)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of optimiser step ``step``, counted from 0."""
        first = step * self._accumulation
        return [self._micro_batch(first + i) for i in range(self._accumulation)]

    def epoch_of(self, step: int) -> float:
        """How many times every pair has been seen before ``step``."""
        return step * self._accumulation / self._per_epoch

    def _micro_batch(self, position: int) -> MicroBatch:
        epoch, offset = divmod(position, self._per_epoch)
        return MicroBatch(self._epoch(epoch)[offset], epoch)

    def _draw_epoch(self, epoch: int) -> list[tuple[int, ...]]:
        # A string seed is hashed by SHA-512: the same order on every machine and Python version.
        draw = random.Random(f"batch plan {self._seed} {epoch}")
        batches: list[tuple[int, ...]] = []
        for bucket in self._buckets:
            order = draw.sample(bucket, len(bucket))
            size = self._batch_size
            batches += [tuple(order[i : i + size]) for i in range(0, len(order), size)]
        draw.shuffle(batches)
        return batches
