"""The steps that turn one trainer into the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ...dpo_core.evaluation.diagnostics import Watch, watched
from ...dpo_core.evaluation.validation import ValidationState
from ...dpo_core.pairs.record import counted
from ...dpo_core.run import StepReport, TornStep, TrainingError, TrainState, train
from ...dpo_core.saving.atomic import sweep
from ...dpo_core.saving.autosave import Autosave
from ...dpo_core.saving.event_log import EventLog
from ...dpo_core.saving.run_folder import RunFolder
from ...dpo_core.saving.run_lock import RunBusy, run_lock
from ...dpo_core.training.four_passes import AUTO
from ...dpo_core.training.reference_cache import ReferenceCache
from .denoiser import HostDenoiser
from .filmstrip import begun_previews
from .injection import TrainedModel
from .live_metrics import LiveMetrics
from .memory import (
    FP32,
    advice,
    in_mode,
    memory_to_keep,
    outlook,
    ran_out,
    stepped_down,
    with_mode,
)
from .progress import Progress
from .rescue import check_room, keep, on_disk_only, poll, reason, save_end, save_unsaved
from .run_diary import auto_mode, note_mode, noted
from .session import training_session
from .standing import Standing, resumed, standing
from .trainer import Trainer, lora_of, reference_key

Observer = Callable[[StepReport], object]
"""Is told of every report as it comes, while the model is in training."""

AUTOSAVE_EVERY = 50
"""Steps from one checkpoint to the next while training runs, or five minutes if that is less. A
crash costs no more, unless writing so often would take more than 1.5 % of the time."""
DISK_SPEED = 2.0**29
"""Bytes a second that a disk is taken to write, before the first checkpoint shows it."""


@dataclass(frozen=True)
class Trained:
    """What a call of :func:`train_steps` gives.

    Attributes:
        trainer: to go on with.
        lora: tensors as they go into a file.
        rows: metrics, one mapping per step since the start of the run.
        found: True if nothing had to be trained, the result being on disk already.
        validation: what validation remembers.
        said: what was out of the ordinary on the way.
    """

    trainer: Trainer
    lora: dict[str, Tensor]
    rows: list[dict[str, float]]
    found: bool
    validation: ValidationState
    said: tuple[str, ...] = ()


def train_steps(trainer: Trainer, steps: int, progress: Progress) -> Trained:
    """Trains ``steps`` more steps, or finds them done.

    Raises:
        TrainingError: training could not go on; what was learned is saved, the message says where.
    """
    run, target = trainer.run, trainer.step + steps
    with ExitStack() as held:
        try:
            run.open()
            held.enter_context(run_lock(run.path))
        except RunBusy as busy:
            found = standing(trainer, target)
            if found.is_done(target):
                return _given(found, True)
            raise TrainingError(
                f"This very training is running already ({busy}). Let it end or stop it there, "
                "then run again: what it has learned is found."
            ) from busy
        except OSError as error:
            raise TrainingError(f"The run folder {run.path} cannot be written: {error}.") from error
        sweep(run.path, 0)
        save_unsaved(run)
        now = standing(trainer, target)
        if now.is_done(target):
            run.keep_checkpoint(now.trainer.step)
            return _given(now, True)
        said = resumed(trainer, now)
        if said:
            progress.say("; ".join(said), log=True)
        auto = now.trainer.settings.execution_mode == AUTO
        now = _with_outlook(now, progress)
        with noted(now.trainer, target, auto) as entry:
            finished = _train(now, target, progress, said, auto)
            if finished.trainer.step == target:
                entry.finished()
            elif finished.is_done(target):
                entry.finished("Validation saw no progress any more.")
        if auto:
            finished = replace(finished, trainer=in_mode(finished.trainer, AUTO))
        return _given(finished, False, tuple(said))


def _with_outlook(now: Standing, progress: Progress) -> Standing:
    """With an execution mode, and after the person was told what the training will need."""
    auto = now.trainer.settings.execution_mode == AUTO
    try:
        trainer = with_mode(now.trainer, auto_mode(now.trainer))
        line, fits = outlook(trainer, auto)
    except BaseException as error:
        _end(now.trainer, _Last(now.state), progress, error)
        raise
    progress.say(line, log=True)
    if not fits:
        progress.warn(f"{line} It is tried all the same.", serious=False)
    return replace(now, trainer=trainer)


def _given(now: Standing, found: bool, said: tuple[str, ...] = ()) -> Trained:
    trainer, state = now.trainer, now.state
    assert state is not None
    rows = trainer.run.history(trainer.step)
    return Trained(trainer, lora_of(trainer, state), rows, found, state.validation, said)


def _train(
    now: Standing, target: int, progress: Progress, said: list[str], auto: bool
) -> Standing:
    """Runs until ``target`` and leaves a checkpoint there, or where it was stopped.

    Args:
        now: where training stands.
        target: step to reach; less is reached if validation ends the training.
        progress: is told of every step.
        said: is added to.
        auto: the trainer's execution mode was not asked for, so another will do.
    """
    trainer, last = now.trainer, _Last(now.state)
    while True:
        try:
            with LiveMetrics(
                progress.send, progress.place, trainer.run.id, trainer.step, target
            ) as live:
                _run(trainer, target, progress, live, last)
            state = last.state()
            assert state is not None
            save_end(trainer.run, state)
            return Standing(replace(trainer, step=state.step), state)
        except BaseException as error:
            if not ran_out(error):
                _end(trainer, last, progress, error)
                raise
        # Outside the handler, whose traceback would keep the failed step's tensors alive.
        lost = _after_running_out(trainer, last)
        lower = stepped_down(trainer, auto)
        if lower is None:
            kept = _kept(trainer, last, progress) if last.began else ""
            raise TrainingError(f"{advice(trainer)} {lost} {kept}".strip())
        state, (trainer, way) = last.state(), lower
        trainer = replace(trainer, step=trainer.step if state is None else state.step)
        note_mode(trainer)
        line = f"memory ran out: going on after step {trainer.step} with {way}"
        said.append(line)
        progress.warn(f"{line[0].upper()}{line[1:]}. {lost}".strip(), serious=False)


def _after_running_out(trainer: Trainer, last: _Last) -> str:
    """Takes what was learned off the card, and gives all memory back; says what was lost."""
    line = ""
    try:
        last.settle()
    except TornStep:
        found = standing(trainer, last.step)
        if lost := last.step - found.trainer.step:
            line = f"The last {counted(lost, 'step')} could not be kept."
        last.go_back(found.state)
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    return line


def _end(trainer: Trainer, last: _Last, progress: Progress, error: BaseException) -> None:
    """Keeps what was learned, and says it: as the error, or on the node where it was Stop."""
    kept = _kept(trainer, last, progress) if last.began else ""
    if isinstance(error, (TrainingError, OSError, RuntimeError)):
        why = reason(error, last.began)
        raise TrainingError(f"{why} {kept}".strip()) from error
    if not isinstance(error, comfy.model_management.InterruptProcessingException):
        return
    if not kept:
        before = f"; the {counted(trainer.step, 'step')} before are kept" if trainer.step else ""
        kept = f"Stopped before another step was done{before}."
        progress.say(kept)
    progress.warn(kept, serious=False)


def _kept(trainer: Trainer, last: _Last, progress: Progress) -> str:
    """Keeps what was learned, says where on the node, and returns it."""
    try:
        state = last.state()
        assert state is not None
        kept = keep(trainer, state)
    except TornStep:
        kept = on_disk_only(trainer, last.step)
    except comfy.model_management.InterruptProcessingException:
        kept = f"Stopped at once. {on_disk_only(trainer, last.step)}"
        progress.say(kept)
        progress.warn(kept, serious=False)
        raise
    progress.say(kept)
    return kept


class _Last:
    """The last step done.

    Args:
        state: where training stands before the first.
    """

    def __init__(self, state: TrainState | None) -> None:
        self._state = state
        self._report: StepReport | None = None
        self.step = 0 if state is None else state.step
        self.began = False
        """Whether there is more than before."""
        self.parameters = 0
        """How many numbers the LoRA is made of, once that is known."""

    def __call__(self, report: StepReport) -> None:
        self._report, self.step, self.began = report, report.step, True

    def state(self) -> TrainState | None:
        """Where training stands.

        Raises:
            TornStep: in the middle of a step.
        """
        return self._state if self._report is None else self._report.state()

    def settle(self) -> None:
        """Takes the state, and lets go of everything else.

        Raises:
            TornStep: as above; it lets go all the same.
        """
        try:
            self._state = self.state()
        finally:
            self._report = None

    def go_back(self, state: TrainState | None) -> None:
        """To an earlier state."""
        self._state, self._report = state, None
        self.step = 0 if state is None else state.step
        self.began = self.began and state is not None


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


def _autosaved(run: RunFolder, parameters: int, progress: Progress) -> Observer:
    autosave = Autosave(run, AUTOSAVE_EVERY, poll, 3 * FP32 * parameters / DISK_SPEED)

    def observe(report: StepReport) -> None:
        try:
            autosave.offer(report)
        except OSError as error:
            progress.warn(
                f"The checkpoint of step {report.step} could not be written ({error}). Training "
                "goes on and tries again; make room, or what it learns is lost if ComfyUI ends.",
                serious=True,
            )

    return observe


class _Rows:
    """Appends rows of metrics; those a full disk does not take wait until it does."""

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._waiting: list[StepReport] = []
        self._warned = False

    def __call__(self, report: StepReport) -> None:
        self._waiting.append(report)
        try:
            for one in list(self._waiting):
                self._run.append_metrics(one.step, one.metrics)
                self._waiting.remove(one)
        except OSError as error:
            if not self._warned:
                text = f"The metrics cannot be written ({error}). Training goes on; make room."
                self._progress.warn(text, serious=True)
            self._warned = True


def _run(
    trainer: Trainer, target: int, progress: Progress, live: LiveMetrics, last: _Last
) -> None:
    """Trains.

    Args:
        trainer: at the step of ``last``.
        target: step to reach.
        progress: is told of every step.
        live: likewise, and of what is measured before the first.
        last: where training stands; follows it.
    """
    existing, start = trainer.origin.existing, last.state()
    with torch.inference_mode(False):
        trained = TrainedModel(
            trainer.patcher,
            trainer.adapter,
            trainer.settings.seed,
            None if existing is None else dict(existing),
            trainer.gradient_checkpointing,
        )
        last.parameters = sum(p.numel() for p in trained.adapter.parameters().values())
        check_room(trainer, trained)
        if (frozen := trained.adapter.frozen_reference()) is not None:
            trainer.run.save_reference(frozen)
    with training_session(trained), ExitStack() as open_until_the_end:
        denoiser = HostDenoiser(trained.patcher, memory_to_keep(trainer))
        events = open_until_the_end.enter_context(
            EventLog(trainer.run.path / "events", trainer.step)
        )
        cache = open_until_the_end.enter_context(
            _reference_cache(trainer, denoiser.half_precision, progress)
        )
        of_reports: list[Observer] = [
            _Rows(trainer.run, progress),
            lambda report: events.add(report.step, report.metrics),
            _warnings(trainer, progress, live),
            live,  # after the others: what is on its way to the page is on disk
        ]
        # Told of steps done, and not of what is measured before the first.
        of_steps: list[Observer] = [
            last,
            _bar(progress, target),
            _autosaved(trainer.run, last.parameters, progress),
        ]
        # A validation that was broken off belongs to a step done before.
        made_up_for = start is not None and bool(start.unvalidated)
        reports = train(
            denoiser, trained.adapter, trainer.dataset, trainer.settings,
            target - trainer.step, start, cache, trainer.held_out,
        )
        # Last of all: the others know of a step before its pictures are made, which may be stopped.
        if (previews := begun_previews(trainer, target, trained, denoiser, progress)) is not None:
            of_steps.append(previews)
        for report in reports:
            is_step = report.step > trainer.step or made_up_for
            for observe in [*of_reports, *of_steps] if is_step else of_reports:
                observe(report)


def watch_of(trainer: Trainer, rows: Iterable[Mapping[str, float]]) -> Watch:
    """What is known of a run after these rows; it does not warn of the same thing again."""
    mixed = any(term.supervised_mix > 0 for term in trainer.settings.objective.terms)
    return watched(rows, mixed, "online" in trainer.run.content)


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
