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


@dataclass(frozen=True)
class Epochs:
    """Where the epochs over the present pairs began.

    When pairs are added, a new epoch begins at once, so that they are seen soon, and visits are
    counted on, so that no pair meets noise it has met before.

    Attributes:
        dataset: digest of the pairs.
        batches: pairs in a batch, and batches in a step.
        first_step: step at which they came.
        first_visit: visits begun before that.
    """

    dataset: str = ""
    batches: tuple[int, int] = (0, 0)
    first_step: int = 0
    first_visit: int = 0


class BatchPlan:
    """Every epoch visits every pair once, in an order drawn from the seed.

    Args:
        buckets: indices of pairs that may share a batch.
        batch_size: pairs in one micro-batch, at most.
        accumulation: micro-batches in one optimiser step.
        seed: the run's seed.
        epochs: where they began.

    Raises:
        ValueError: if there is no pair.
    """

    def __init__(
        self,
        buckets: Sequence[Sequence[int]],
        batch_size: int,
        accumulation: int,
        seed: int,
        epochs: Epochs = Epochs(),
    ) -> None:
        if not any(buckets):
            raise ValueError("There is no pair to train on.")
        self._buckets = [list(bucket) for bucket in buckets if bucket]
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._seed = seed
        self._epochs = epochs
        self._per_epoch = sum(-(-len(bucket) // batch_size) for bucket in self._buckets)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of optimiser step ``step``, counted from 0."""
        first = self._position(step)
        return [self._micro_batch(first + i) for i in range(self._accumulation)]

    def epoch_of(self, step: int) -> float:
        """How many times every pair has been seen before ``step``."""
        return self._epochs.first_visit + self._position(step) / self._per_epoch

    def visits_before(self, step: int) -> int:
        """Visits that have begun before ``step``."""
        return self._epochs.first_visit - (-self._position(step) // self._per_epoch)

    def _position(self, step: int) -> int:
        return (step - self._epochs.first_step) * self._accumulation

    def _micro_batch(self, position: int) -> MicroBatch:
        epoch, offset = divmod(position, self._per_epoch)
        visit = self._epochs.first_visit + epoch
        return MicroBatch(self._epoch(visit)[offset], visit)

    def _draw_epoch(self, visit: int) -> list[tuple[int, ...]]:
        # A string seed is hashed by SHA-512: the same order on every machine and Python version.
        draw = random.Random(f"batch plan {self._seed} {visit}")
        batches: list[tuple[int, ...]] = []
        for bucket in self._buckets:
            order = draw.sample(bucket, len(bucket))
            size = self._batch_size
            batches += [tuple(order[i : i + size]) for i in range(0, len(order), size)]
        draw.shuffle(batches)
        return batches
