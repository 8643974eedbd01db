"""What was learned, kept when training ends before its time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths

from ...dpo_core.pairs.record import counted
from ...dpo_core.run import TrainingError, TrainState
from ...dpo_core.saving.lora_file import save_lora
from ...dpo_core.saving.run_folder import RunFolder
from .folders import shown
from .injection import TrainedModel
from .run_diary import note_lora
from .trainer import Trainer, lora_of, metadata_of, standing_at

_UNSAVED: dict[Path, TrainState] = {}
"""What a full disk did not take, by run folder: the last of it, until it does."""


def check_room(trainer: Trainer, trained: TrainedModel) -> None:
    """Raises TrainingError where the disk has no room for what training leaves."""
    parameters = sum(p.numel() for p in trained.adapter.parameters().values())
    needed = parameters * 4 * 5  # a checkpoint with Adam's two moments, two LoRA files
    free = shutil.disk_usage(trainer.run.path).free
    if free < needed:
        raise TrainingError(
            f"There is no room for the results: {needed / 2**20:.0f} MB are needed in "
            f"{trainer.run.path}, {free / 2**20:.0f} MB are free. Nothing was trained. Make room "
            "and run again."
        )


def poll() -> None:
    """Raises what Stop raises, if it was pressed since the last time."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def save_end(run: RunFolder, state: TrainState) -> None:
    """Writes the checkpoint of where a training ends, and removes what it makes superfluous.

    Raises:
        OSError: no room.
    """
    run.save_checkpoint(state, poll)
    _UNSAVED.pop(run.path, None)
    run.remove_autosaves(state.step)
    run.prune({state.step, *run.continued_at(), *standing_at(run)})


def save_unsaved(run: RunFolder) -> None:
    """Writes what the disk had no room for when the run was trained last.

    Raises:
        TrainingError: it still has none.
    """
    state = _UNSAVED.get(run.path)
    if state is None:
        return
    try:
        save_end(run, state)
    except OSError as error:
        raise TrainingError(
            f"There is still no room for what was learned in {counted(state.step, 'step')} "
            f"({error}). It is kept in memory as long as ComfyUI runs: make room and run again."
        ) from error


def keep(trainer: Trainer, state: TrainState) -> str:
    """Saves what was learned so far; says where.

    Raises:
        InterruptProcessingException: Stop was pressed meanwhile. What is written by then stays.
    """
    steps = counted(state.step, "step")
    try:
        save_end(trainer.run, state)
    except OSError as error:
        _UNSAVED.clear()
        _UNSAVED[trainer.run.path] = state
        return (
            f"What was learned in {steps} could not be saved: {error}. It is kept in memory as "
            "long as ComfyUI runs: make room and run again to save it and go on from there."
        )
    go_on = f"run again to go on from there ({shown(trainer.run.path)})."
    try:
        reached = replace(trainer, step=state.step)
        lora = lora_of(reached, state)
        name = f"stopped_{trainer.run.id[:8]}_step{state.step}"
        path = Path(folder_paths.get_output_directory()) / "loras" / "dpo" / f"{name}.safetensors"
        save_lora(path, lora, metadata_of(reached, lora, name), poll)
        note_lora(reached, path)
    except OSError as error:
        return (
            f"What was learned in {steps} is kept, but there was no room for its LoRA ({error}); "
            f"{go_on}"
        )
    return f"What was learned in {steps} is kept: LoRA {shown(path)}; {go_on}"


def on_disk_only(trainer: Trainer, done: int) -> str:
    """What is left where the last steps could not be kept.

    Args:
        trainer: what was trained.
        done: steps that had been done.
    """
    last = max((s for s in trainer.run.checkpoints() if s <= done), default=trainer.origin.step)
    if last == done:
        return (
            f"The checkpoint of step {done} is kept, but no LoRA was written; run again to go on "
            f"from there ({shown(trainer.run.path)})."
        )
    where = f"from step {last}, the last checkpoint" if last else "at the beginning"
    return (
        f"{counted(done - last, 'step')} could not be kept; run again to go on {where} "
        f"({shown(trainer.run.path)})."
    )


def reason(error: Exception, began: bool) -> str:
    """Why training ended, for the person."""
    if isinstance(error, TrainingError):
        return str(error)
    if isinstance(error, OSError):
        return f"Writing the results failed: {error}. Make room and run again."
    if began:
        return str(error)
    return (
        "The model cannot work with these pairs; nothing was trained. Encode them with the VAE "
        f"and the text encoder that belong to this model. (The model says: {error})"
    )
