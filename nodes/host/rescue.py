"""What was learned, kept when training ends before its time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import folder_paths

from ...dpo_core.pairs.record import counted
from ...dpo_core.run import TrainingError, TrainState
from ...dpo_core.saving.autosave import Autosave
from ...dpo_core.saving.lora_file import save_lora
from .injection import TrainedModel
from .run_diary import note_lora
from .trainer import Trainer, lora_of, metadata_of


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


def keep(trainer: Trainer, state: TrainState, autosave: Autosave) -> str:
    """Saves what was learned so far; says where."""
    try:
        trainer.run.save_checkpoint(state)
        autosave.clear(until=state.step)
    except OSError as error:
        return f"What was learned in {counted(state.step, 'step')} could not be saved: {error}."
    go_on = f"run again to go on from there ({trainer.run.path})."
    try:
        reached = replace(trainer, step=state.step)
        lora = lora_of(reached, state)
        name = f"stopped_{trainer.run.id[:8]}_step{state.step}"
        path = Path(folder_paths.get_output_directory()) / "loras" / "dpo" / f"{name}.safetensors"
        save_lora(path, lora, metadata_of(reached, lora, name))
        note_lora(reached, path)
    except OSError as error:
        return (
            f"What was learned in {counted(state.step, 'step')} is kept, but there was no room "
            f"for its LoRA ({error}); {go_on}"
        )
    return f"What was learned in {counted(state.step, 'step')} is kept: LoRA {path}; {go_on}"


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
