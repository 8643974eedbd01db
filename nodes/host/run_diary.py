"""Notes down in a run's folder when it is trained, how that ends, and what LoRAs are made of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths

from ...dpo_core.runs.in_training import RunsInTraining
from ...dpo_core.runs.model_card import write_card
from ...dpo_core.runs.run_record import RunRecord, SavedLora, read_record, write_record
from ...dpo_core.runs.run_store import RunStore
from .identity import file_name
from .trainer import Trainer

IN_TRAINING = RunsInTraining()
"""The runs that are trained now, in this process."""


class Entry:
    """One training of a run, until it says how it ended."""

    def __init__(self) -> None:
        self.end, self.reason = "", ""

    def finished(self, reason: str = "") -> None:
        self.end, self.reason = "finished", reason


@contextmanager
def noted(trainer: Trainer, target: int, auto: bool = False) -> Iterator[Entry]:
    """The time during which a run is trained; afterwards its folder says what came of it.

    What ends it before its time is passed on.

    Args:
        trainer: what is trained.
        target: step to be reached.
        auto: the trainer's execution mode was not asked for.
    """
    entry = Entry()
    with IN_TRAINING.entered(trainer.run.id):
        _note(trainer, lambda before: _begun(trainer, target, auto, before))
        try:
            yield entry
            entry.end = entry.end or "stopped"
        except comfy.model_management.InterruptProcessingException:
            entry.end, entry.reason = "stopped", "Stopped by you."
            raise
        except BaseException as error:
            entry.end, entry.reason = "failed", str(error)[:2000] or type(error).__name__
            raise
        finally:
            _note(
                trainer,
                lambda before: replace(
                    before, ended=time.time(), end=entry.end, reason=entry.reason
                ),
            )
            _describe(trainer, (trainer.run.checkpoints() or [0])[-1])


def note_mode(trainer: Trainer) -> None:
    """Notes down how passes are scheduled from now on."""
    mode, checkpointing = trainer.settings.execution_mode, trainer.gradient_checkpointing

    def noted_down(before: RunRecord) -> RunRecord:
        changed = replace(before, execution_mode=mode, gradient_checkpointing=checkpointing)
        return replace(changed, auto_mode=mode) if before.auto_mode else changed

    _note(trainer, noted_down)


def auto_mode(trainer: Trainer) -> str:
    """The execution mode that was chosen for a run before, or for the one it goes on from."""
    origin = trainer.origin.run
    for run in (trainer.run, *([] if origin is None else [origin])):
        if mode := read_record(run.path).auto_mode:
            return mode
    return ""


def note_lora(trainer: Trainer, path: Path) -> None:
    """Notes down that a LoRA file was made of a run."""
    output = Path(folder_paths.get_output_directory())
    if not path.is_relative_to(output):
        return
    lora = SavedLora(path.relative_to(output).as_posix(), trainer.step, time.time())

    def noted_down(before: RunRecord) -> RunRecord:
        others = tuple(one for one in before.loras if one.file != lora.file)
        return replace(before, loras=(*others, lora))

    _note(trainer, noted_down)
    _describe(trainer, trainer.step)


def _begun(trainer: Trainer, target: int, auto: bool, before: RunRecord) -> RunRecord:
    dataset = trainer.dataset
    return RunRecord(
        model=file_name(trainer.patcher),
        pairs=len(dataset.records),
        noun=dataset.noun,
        held_out=len(trainer.held_out.records) if trainer.settings.validation is not None else 0,
        target=target,
        started=time.time(),
        execution_mode=trainer.settings.execution_mode,
        gradient_checkpointing=trainer.gradient_checkpointing,
        auto_mode=trainer.settings.execution_mode if auto else before.auto_mode,
        loras=before.loras,
    )


def _describe(trainer: Trainer, step: int) -> None:
    run = trainer.run.path
    try:
        if step > 0:
            write_card(RunStore(run.parent), run, step)
    except OSError as error:
        logging.warning("DPO: the model card could not be written: %s", error)


def _note(trainer: Trainer, change: Callable[[RunRecord], RunRecord]) -> None:
    folder = trainer.run.path
    try:
        write_record(folder, change(read_record(folder)))
    except OSError as error:  # only a list is poorer for it
        logging.warning("DPO: the run's notes could not be written: %s", error)
