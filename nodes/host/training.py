"""The steps that turn one trainer into the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ...dpo_core.evaluation.diagnostics import Watch, watched
from ...dpo_core.evaluation.validation import ValidationState, carried
from ...dpo_core.run import StepReport, TrainingError, train
from ...dpo_core.saving.autosave import Autosave
from ...dpo_core.saving.event_log import EventLog
from ...dpo_core.training.reference_cache import ReferenceCache
from .denoiser import HostDenoiser
from .filmstrip import begun_previews
from .injection import TrainedModel
from .live_metrics import LiveMetrics
from .memory import activation_memory, advice
from .progress import Progress
from .rescue import check_room, keep, reason
from .run_diary import noted
from .session import training_session
from .trainer import Trainer, lora_of, reference_key

Observer = Callable[[StepReport], object]
"""Is told of every report as it comes, while the model is in training."""

AUTOSAVE_EVERY = 50
"""Steps from one checkpoint to the next while training runs; a crash costs no more than these,
unless writing one would take more than 2 % of the time."""


@dataclass(frozen=True)
class Trained:
    """What a call of :func:`train_steps` gives.

    Attributes:
        trainer: to go on with.
        lora: tensors as they go into a file.
        rows: metrics, one mapping per step since the start of the run.
        found: True if nothing had to be trained, the result being on disk already.
        validation: what validation remembers.
    """

    trainer: Trainer
    lora: dict[str, Tensor]
    rows: list[dict[str, float]]
    found: bool
    validation: ValidationState


def train_steps(trainer: Trainer, steps: int, progress: Progress) -> Trained:
    """Trains ``steps`` more steps, or finds them done.

    Raises:
        TrainingError: training could not go on; what was learned is saved, the message says where.
    """
    run, target = trainer.run, trainer.step + steps
    try:
        run.open()
    except OSError as error:
        raise TrainingError(f"The run folder {run.path} cannot be written: {error}.") from error
    done = [step for step in run.checkpoints() if trainer.step < step <= target]
    current = replace(trainer, step=done[-1]) if done else trainer
    found = current.step == target or _is_stopped(current)
    finished = current
    if not found:
        if current is not trainer:
            progress.say(f"going on from step {current.step}, which is on disk", log=True)
        with noted(trainer, target) as entry:
            finished = replace(trainer, step=_train(current, target, progress))
            if finished.step == target:
                entry.finished()
            elif _is_stopped(finished):
                entry.finished("Validation saw no progress any more.")
    state = finished.state()
    assert state is not None
    lora, rows = lora_of(finished, state), run.history(finished.step)
    return Trained(finished, lora, rows, found, state.validation)


def _is_stopped(trainer: Trainer) -> bool:
    """Whether validation has ended the training on these very pairs."""
    state = trainer.state()
    if state is None:
        return False
    same_pairs = state.epochs.dataset == trainer.dataset.digest
    settings, held_out = trainer.settings.validation, trainer.held_out.digest
    return carried(state.validation, settings, held_out, same_pairs).stopped


def _train(trainer: Trainer, target: int, progress: Progress) -> int:
    """Runs until ``target`` and leaves a checkpoint there, or where it was stopped.

    Returns:
        the step reached: less than ``target`` if validation has ended the training.
    """
    last = _Last()
    autosave = Autosave(trainer.run, AUTOSAVE_EVERY)
    kept = ""
    try:
        with LiveMetrics(
            progress.send, progress.place, trainer.run.id, trainer.step, target
        ) as live:
            _run(trainer, target, progress, live, [last, _bar(progress, target), autosave.offer])
        assert last.report is not None
        trainer.run.save_checkpoint(last.report.state())
        autosave.clear(until=last.report.step)
        return last.report.step
    except BaseException as error:
        if last.report is not None:
            kept = keep(trainer, last.report.state(), autosave)
            progress.say(kept, log=True)
        if not comfy.model_management.is_oom(error):
            if isinstance(error, (TrainingError, OSError, RuntimeError)):
                why = reason(error, last.report is not None)
                raise TrainingError(f"{why} {kept}".strip()) from error
            raise
    # Outside the handler, whose traceback would keep the failed step's tensors alive.
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    raise TrainingError(f"{advice(trainer)} {kept}".strip())


class _Last:
    """The report of the last step done."""

    report: StepReport | None = None

    def __call__(self, report: StepReport) -> None:
        self.report = report


def _bar(progress: Progress, target: int) -> Observer:
    def observe(report: StepReport) -> None:
        progress.step(progress.total - (target - report.step), report.metrics)

    return observe


def _warnings(trainer: Trainer, progress: Progress, live: LiveMetrics) -> Observer:
    watch = watch_of(trainer, trainer.run.history(trainer.step))
    for finding in watch.findings:
        live.warn(finding)

    def observe(report: StepReport) -> None:
        for finding in watch.take({"step": report.step, **_finite(report.metrics)}):
            live.warn(finding)
            progress.warn(finding.text, finding.serious)

    return observe


def _run(
    trainer: Trainer,
    target: int,
    progress: Progress,
    live: LiveMetrics,
    of_steps: Sequence[Observer],
) -> None:
    """Trains.

    Args:
        live: hears of everything.
        of_steps: hear of the steps done, and not of what is measured before the first.
    """
    existing = trainer.origin.existing
    with torch.inference_mode(False):
        trained = TrainedModel(
            trainer.patcher,
            trainer.adapter,
            trainer.settings.seed,
            None if existing is None else dict(existing),
            trainer.gradient_checkpointing,
        )
        check_room(trainer, trained)
        if (frozen := trained.adapter.frozen_reference()) is not None:
            trainer.run.save_reference(frozen)
    with training_session(trained), ExitStack() as open_until_the_end:
        denoiser = HostDenoiser(trained.patcher, activation_memory(trainer))
        events = open_until_the_end.enter_context(
            EventLog(trainer.run.path / "events", trainer.step)
        )
        cache = open_until_the_end.enter_context(
            _reference_cache(trainer, denoiser.half_precision, progress)
        )
        of_reports: list[Observer] = [
            lambda report: trainer.run.append_metrics(report.step, report.metrics),
            lambda report: events.add(report.step, report.metrics),
            _warnings(trainer, progress, live),
            live,  # after the others: what is on its way to the page is on disk
        ]
        reports = train(
            denoiser, trained.adapter, trainer.dataset, trainer.settings,
            target - trainer.step, trainer.state(), cache, trainer.held_out,
        )
        # Last of all: the others know of a step before its pictures are made, which may be stopped.
        previews = begun_previews(trainer, target, trained, denoiser, progress)
        of_steps = [*of_steps, *([] if previews is None else [previews])]
        for report in reports:
            for observe in of_reports:
                observe(report)
            if report.step > trainer.step:
                for observe in of_steps:
                    observe(report)


def watch_of(trainer: Trainer, rows: Iterable[Mapping[str, float]]) -> Watch:
    """What is known of a run after these rows; it does not warn of the same thing again."""
    mixed = any(term.supervised_mix > 0 for term in trainer.settings.objective.terms)
    return watched(rows, mixed)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


@contextmanager
def _reference_cache(
    trainer: Trainer, half_precision: bool, progress: Progress
) -> Iterator[ReferenceCache | None]:
    """What the run knows of its reference; kept with it when training ends, however it ends."""
    if trainer.settings.noise.cached_draws == 0:
        yield None
        return
    cache, key = ReferenceCache(2e-2 if half_precision else 1e-4), reference_key(trainer)
    cache.load(trainer.run.reference_errors(key))
    try:
        yield cache
    finally:
        if cache.discarded:
            progress.say(
                "the reference errors kept with this run were of another model: computed again",
                log=True,
            )
        try:
            trainer.run.save_reference_errors(cache.state(), key)
        except OSError as error:  # no loss: they are computed again
            progress.say(f"the reference errors could not be kept: {error}", log=True)
