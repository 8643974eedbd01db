"""Training as an iterator of step reports. The caller drives: progress, Stop and saving are its."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from torch import Tensor

from .evaluation.metrics import NAMES, step_metrics
from .evaluation.validation import (
    Validation,
    ValidationSettings,
    ValidationState,
    best_so_far,
    carried,
    patience,
)
from .training.adapter import Adapter
from .training.batch import gather
from .training.dataset import EncodedPairs, buckets
from .training.denoiser import Denoiser
from .training.ema import AdapterAverage
from .training.four_passes import AUTO, SCHEDULES, PassResult, sequential
from .training.noise import NoiseSettings
from .training.objectives import FRESH, Objective, ObjectiveState
from .training.optimizer import AdapterOptimizer, OptimizerSettings, learning_rate
from .training.plan import BatchPlan, Epochs
from .training.reference_cache import ReferenceCache

NON_FINITE_LIMIT = 5
FIRST_LOSS_SCALE = 2.0**12
SCALE_GROWTH_EVERY = 200
"""Steps after which a lowered loss scale is tried one step higher again."""
RHO_DECAY = 0.95


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class TornStep(RuntimeError):
    """A step was broken off in the middle of its update: there is no state to go on from."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result, besides the model, the adapter and the pairs."""

    objective: Objective = field(default_factory=Objective)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    validation: ValidationSettings | None = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    batch_size: int = 1
    """Pairs that go through the model together. More is faster on large cards and needs more
    memory."""

    grad_accumulation_steps: int = 4
    """Batches added up before each update. Batch size times this is how many pairs one step
    learns from; 8 to 16 in all is a good start."""

    execution_mode: str = "sequential"
    """sequential needs no more memory than ordinary LoRA training; policy_concurrent is faster
    and keeps two images' activations; full_concurrent batches everything, fastest on large cards.
    The result is the same. auto takes the fastest that fits beside the model, each time anew."""

    shared_noise: bool = True
    """Chosen and rejected are compared under the same noise. Off: the rejected image gets noise
    of its own; noisier curves."""

    seed: int = 0
    """Decides the order of pairs, all noise and the LoRA's initial values."""

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = []
        if not 1 <= self.batch_size <= 4096:
            found.append(f"batch_size is {self.batch_size}: use 1 or more.")
        if not 1 <= self.grad_accumulation_steps <= 4096:
            found.append(
                f"grad_accumulation_steps is {self.grad_accumulation_steps}: use 1 or more."
            )
        if self.execution_mode not in (*SCHEDULES, AUTO):
            modes = ", ".join([*SCHEDULES, AUTO])
            found.append(f"execution_mode is {self.execution_mode!r}: choose {modes}.")
        if self.noise.cached_draws and self.objective.needs_change:
            found.append(
                f"cached_draws cannot go with loss {self.objective.loss}, which needs the "
                "reference's whole predictions: set cached_draws to 0."
            )
        found += self.objective.problems() + self.noise.problems() + self.optimizer.problems()
        return found + ([] if self.validation is None else self.validation.problems())


@dataclass(frozen=True)
class TrainState:
    """Where a run stands; a value. Training from it again gives the same continuation.

    Attributes:
        step: optimiser steps done.
        adapter: the adapter's parameters by name, fp32, CPU.
        optimizer: what the optimiser remembers, by parameter name, CPU.
        rho: smoothed ratio of the chosen image's error to the reference's; None before a step.
        loss_scale: factor that keeps fp16 gradients from underflowing.
        epochs: where those over the present pairs began.
        visits: visits begun; their noise has been seen.
        objective: what the objective remembers of the steps done.
        average: running mean of the adapter's parameters, CPU; empty if none is kept.
        algorithm: of the optimiser; another one begins with an empty memory.
        validation: what validation remembers.
        best: the parameters that did best in validation, CPU; empty if they are not asked for.
        unvalidated: metrics of this step, if its validation was broken off; else empty. What goes
            on from here validates first.
    """

    step: int
    adapter: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    rho: float | None = None
    loss_scale: float = FIRST_LOSS_SCALE
    epochs: Epochs = field(default_factory=Epochs)
    visits: int = 0
    objective: ObjectiveState = FRESH
    average: Mapping[str, Tensor] = field(default_factory=dict)
    algorithm: str = "adamw"
    validation: ValidationState = field(default_factory=ValidationState)
    best: Mapping[str, Tensor] = field(default_factory=dict)
    unvalidated: Mapping[str, float] = field(default_factory=dict)

    @property
    def latest(self) -> Mapping[str, Tensor]:
        """The parameters as they are now: the running mean where one is kept."""
        return self.average or self.adapter

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The parameters that make the LoRA."""
        return self.best or self.latest


@dataclass(frozen=True)
class StepReport:
    """One finished step.

    Attributes:
        step: steps done since the start of the run, this one included.
        metrics: numbers by name.
        state: takes a :class:`TrainState`; valid until the next step is asked for, and after an
            exception. It then gives the last step that was done: this one, or, broken off in
            its validation, the one after it.
        skipped: True if the step was not applied, its gradients not being finite.
        stopped: True if validation has ended the training early; no step follows.
    """

    step: int
    metrics: dict[str, float]
    state: Callable[[], TrainState]
    skipped: bool = False
    stopped: bool = False


def train(
    denoiser: Denoiser,
    adapter: Adapter,
    dataset: EncodedPairs,
    settings: TrainSettings,
    steps: int,
    start: TrainState | None = None,
    cache: ReferenceCache | None = None,
    held_out: EncodedPairs | None = None,
) -> Iterator[StepReport]:
    """Trains ``adapter`` in place and yields after every step.

    Where the settings ask for validation at the start, its report comes first, as step 0.

    Args:
        denoiser: the model.
        adapter: attached to it.
        dataset: the pairs.
        settings: how to train; an execution mode left open is sequential.
        steps: optimiser steps to do now.
        start: go on from here, also with other pairs; None starts with the adapter as it is.
        cache: where reference errors are kept, if the settings ask for cached draws.
        held_out: what to validate on, if the settings ask for it.

    Raises:
        ValueError: settings out of range, or nothing here that the objective learns from.
        TrainingError: the start-up check failed, or the loss stayed non-finite. The adapter then
            holds the last good step.
    """
    if problems := settings.problems() or dataset.problems(settings.objective):
        raise ValueError("\n".join(problems))
    if settings.noise.cached_draws == 0:
        cache = None
    if settings.execution_mode == AUTO:
        settings = replace(settings, execution_mode=sequential.__name__)
    return _Run(denoiser, adapter, dataset, settings, start, cache, held_out).reports(steps)


class _Run:
    def __init__(
        self,
        denoiser: Denoiser,
        adapter: Adapter,
        dataset: EncodedPairs,
        settings: TrainSettings,
        start: TrainState | None,
        cache: ReferenceCache | None,
        held_out: EncodedPairs | None,
    ) -> None:
        self._denoiser, self._adapter = denoiser, adapter
        self._settings, self._cache = settings, cache
        used = dataset.used_by(settings.objective)
        self._records = used.records
        self._epochs = _epochs(used, settings, start)
        self._plan = BatchPlan(
            buckets(self._records, denoiser),
            settings.batch_size,
            settings.grad_accumulation_steps,
            settings.seed,
            self._epochs,
        )
        if start is None:
            adapter.initialise()
        self._optimizer = AdapterOptimizer(adapter.parameters(), settings.optimizer)
        self._average = (
            AdapterAverage(adapter.parameters(), settings.optimizer.ema)
            if settings.optimizer.ema > 0
            else None
        )
        self._validation = self._validating(held_out)
        self._validated = _validated(held_out, settings, start, used.digest)
        self._best = dict(start.best) if start and self._validated.best_step >= 0 else {}
        self._step, self._rho, self._skips = 0, None if start is None else start.rho, 0
        self._loss_scale = FIRST_LOSS_SCALE if start is None else start.loss_scale
        self._objective_state = FRESH if start is None else start.objective
        self._unvalidated = {} if start is None else dict(start.unvalidated)
        self._torn = False
        if start is not None:
            self._step = start.step
            adapter.load(start.adapter)
            if start.algorithm == settings.optimizer.algorithm:
                self._optimizer.load(start.optimizer)
            if self._average is not None:
                # A run that kept no mean so far begins it where it stands.
                self._average.load(start.latest)

    def state(self) -> TrainState:
        """Where training stands.

        Raises:
            TornStep: between two steps.
        """
        if self._torn:
            raise TornStep(f"step {self._step + 1} was broken off in the middle of its update")
        return TrainState(
            self._step,
            self._adapter.snapshot(),
            self._optimizer.state(),
            self._rho,
            self._loss_scale,
            self._epochs,
            self._plan.visits_before(self._step),
            self._objective_state,
            {} if self._average is None else self._average.state(),
            self._settings.optimizer.algorithm,
            self._validated,
            dict(self._best),
            dict(self._unvalidated),
        )

    def reports(self, steps: int) -> Iterator[StepReport]:
        if self._step == 0 and self._validation_is_due():
            yield StepReport(0, self._validate(), self.state)
        broken_off, self._unvalidated = self._unvalidated, {}
        if broken_off and self._validation_is_due():
            yield self._report(broken_off)
        for _ in range(steps):
            if self._validated.stopped:
                return
            yield self.step()

    def step(self) -> StepReport:
        results, grad_norm = self._accumulate()
        # The one place where the host waits for the device.
        values = dict(zip(NAMES, step_metrics(results, grad_norm).tolist(), strict=True))
        if self._cache is not None:
            self._cache.settle()
        if self._step == 0:
            self._check_start(values)
        if self._settings.objective.beta_is_zero:
            self._check_beta_zero(values)
        skipped = not (math.isfinite(values["loss/dpo"]) and math.isfinite(values["grad_norm"]))
        if skipped:
            self._skip(math.isfinite(values["loss/dpo"]))
        else:
            self._apply(values, grad_norm)
        self._optimizer.zero_grad()
        values["learning_rate"] = learning_rate(self._settings.optimizer, self._step)
        values["loss/train_step"] = values["loss/dpo"]
        values["epoch"] = self._plan.epoch_of(self._step)
        values["rho"] = float("nan") if self._rho is None else self._rho
        self._step += 1
        self._torn = False
        return self._report(values, skipped)

    def _apply(self, values: Mapping[str, float], grad_norm: Tensor) -> None:
        """Changes the parameters, and all that follows from that."""
        self._optimizer.reserve()  # a full card is found here, while nothing has changed
        self._torn = True
        self._optimizer.step(self._step, grad_norm)
        if self._average is not None:
            self._average.update(self._step)
        self._skips = 0
        self._update_rho(values)
        self._objective_state = self._settings.objective.state_after(self._objective_state, values)
        if (self._step + 1) % SCALE_GROWTH_EVERY == 0:
            self._loss_scale = min(2 * self._loss_scale, FIRST_LOSS_SCALE)

    def _report(self, values: Mapping[str, float], skipped: bool = False) -> StepReport:
        """The step that was just done, validated if it is time."""
        self._unvalidated = {}
        if self._validation_is_due():
            self._unvalidated = dict(values)
            values = dict(values) | self._validate()
            self._unvalidated = {}
        return StepReport(self._step, dict(values), self.state, skipped, self._validated.stopped)

    def _validating(self, held_out: EncodedPairs | None) -> Validation | None:
        settings = self._settings
        if settings.validation is None or held_out is None:
            return None
        validation = Validation(
            self._denoiser,
            self._adapter,
            held_out,
            settings.objective,
            settings.validation,
            settings.noise,
            settings.seed,
            settings.batch_size,
            settings.batch_size * settings.grad_accumulation_steps,
            settings.execution_mode == "full_concurrent",
        )
        return validation if len(validation) else None

    def _validation_is_due(self) -> bool:
        settings = self._settings.validation
        return self._validation is not None and settings is not None and settings.is_due(self._step)

    def _validate(self) -> dict[str, float]:
        """Measures the LoRA as it would be saved now, and remembers how it did."""
        settings = self._settings.validation
        assert self._validation is not None and settings is not None
        average = nullcontext() if self._average is None else self._average.applied()
        with average, self._adapter.steady():
            epoch = int(self._plan.epoch_of(self._step))
            metrics = self._validation.measure(epoch, self._objective_state)
            validated, snapshot = patience(self._validated, metrics, settings), self._best
            best = best_so_far(validated, metrics, self._step)
            # Before the first step there is nothing to give.
            if settings.save_best and self._step > 0 and best is not validated:
                validated, snapshot = best, self._adapter.snapshot()
            self._validated, self._best = validated, snapshot
        return metrics

    def _accumulate(self) -> tuple[list[PassResult], Tensor]:
        """Adds up the gradients of one step's micro-batches, weighted by their records."""
        settings = self._settings
        self._optimizer.zero_grad()
        scale = self._loss_scale if self._denoiser.needs_loss_scaling else 1.0
        micro_batches = self._plan.step(self._step)
        records = sum(len(m.indices) for m in micro_batches)
        results = []
        for number, micro_batch in enumerate(micro_batches):
            batch = gather(
                self._records, micro_batch, self._denoiser, settings.noise,
                settings.seed, settings.shared_noise,
            )
            if self._step == 0 and self._cache is not None:
                self._cache.check(batch)  # the start-up check compares with nothing else
            passes = SCHEDULES[settings.execution_mode]
            # The mean is over records of the whole step: a short batch of a small bucket must not
            # count as much as a full one.
            with self._adapter.micro_batch(settings.seed, self._step, number):
                results.append(
                    passes(
                        self._denoiser, self._adapter, batch, settings.objective, scale / records,
                        self._objective_state, self._cache,
                    )
                )
        return results, self._optimizer.grad_norm(scale)

    def _update_rho(self, values: Mapping[str, float]) -> None:
        if values["errors/reference_chosen"] > 0:
            ratio = values["errors/chosen"] / values["errors/reference_chosen"]
            before = ratio if self._rho is None else self._rho
            self._rho = RHO_DECAY * before + (1 - RHO_DECAY) * ratio

    def _skip(self, finite_loss: bool) -> None:
        """Leaves the adapter as it is. Where only fp16 gradients overflowed, makes them smaller."""
        if finite_loss and self._denoiser.needs_loss_scaling and self._loss_scale > 1:
            self._loss_scale /= 2
            return
        self._skips += 1
        if self._skips >= NON_FINITE_LIMIT:
            raise TrainingError(
                f"The loss was not a finite number for {NON_FINITE_LIMIT} steps in a row, so "
                "training stopped; the LoRA of the last good step is kept. Try a lower learning "
                "rate, and check that the model makes normal pictures by itself."
            )

    def _check_start(self, values: Mapping[str, float]) -> None:
        """Before training, policy and reference are one model: all margins are 0.

        The loss is then known, ln 2 for DPO. Without a reference there is nothing to compare.
        """
        raw, change = values["dpo/raw_loss"], values["prediction_change"]
        if not math.isfinite(raw):
            raise TrainingError(
                "The model's error is not a finite number before anything was trained. Check that "
                "the model makes normal pictures by itself and that VAE and model belong together."
            )
        # The same kernels on the same numbers: only half precision may differ, and by little.
        half = self._denoiser.half_precision
        allowed_loss, allowed_change = (0.05, 1e-4) if half else (1e-3, 1e-8)
        expected = self._settings.objective.loss_at_start
        known = raw if expected is None else expected
        if abs(raw - known) > allowed_loss or change > allowed_change:
            raise TrainingError(
                f"The start-up check failed: before training, model and reference must agree and "
                f"the loss be {known:.4f}, but it is {raw:.4f} and their predictions differ "
                f"by {100 * math.sqrt(change):.2g} %. Something makes the model answer differently "
                "each time, such as a model patch with its own randomness. Remove patches from the "
                "model and try again."
            )

    def _check_beta_zero(self, values: Mapping[str, float]) -> None:
        """With beta 0 the preference loss stays what it was at the start, whatever the model."""
        raw, expected = values["dpo/raw_loss"], self._settings.objective.loss_at_start
        if expected is not None and math.isfinite(raw) and abs(raw - expected) > 1e-3:
            raise TrainingError(
                f"With beta 0 the preference loss must be {expected:.4f}, but it is {raw:.4f}: "
                "a fault in this pack. The LoRA of the step before is kept."
            )


def _validated(
    held_out: EncodedPairs | None, settings: TrainSettings, start: TrainState | None, dataset: str
) -> ValidationState:
    """What was found on these very pairs before; nothing, if others are validated on now."""
    digest = "" if held_out is None else held_out.used_by(settings.objective).digest
    if start is None:
        return ValidationState(digest)
    same_pairs = start.epochs.dataset == dataset
    return carried(start.validation, settings.validation, digest, same_pairs)


def _epochs(dataset: EncodedPairs, settings: TrainSettings, start: TrainState | None) -> Epochs:
    batches = (settings.batch_size, settings.grad_accumulation_steps)
    if start is None:
        return Epochs(dataset.digest, batches)
    if (start.epochs.dataset, start.epochs.batches) == (dataset.digest, batches):
        return start.epochs
    return Epochs(dataset.digest, batches, start.step, start.visits)


__all__ = ["StepReport", "TornStep", "TrainSettings", "TrainState", "TrainingError", "train"]
