"""Memory of a training step: what the host keeps free for it, and what to do where it ran out."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management

from ...dpo_core.training.dataset import Record
from ...dpo_core.training.optimizer import STATE_COPIES
from .trainer import Trainer

WHEN_OUT_OF_MEMORY = ("stop", "step_down")
MODES = ("full_concurrent", "policy_concurrent", "sequential")
"""From the fastest to the one that needs the least."""
CHECKPOINTED, WHOLE = 3, 10
"""Activations of a step, in those of a forward pass: with gradient checkpointing, and without."""
FP32 = 4


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the card or beside it."""
    if comfy.model_management.is_oom(error) or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def activation_memory(trainer: Trainer, area: float = 1.0) -> float:
    """Bytes to keep free for activations when the host decides how much of the model to load.

    Args:
        trainer: what is trained, and how.
        area: of the images, as a share of what it is.
    """
    largest = max(trainer.dataset.records, key=lambda one: _images(one) * _size(one))
    together = 1 if trainer.settings.execution_mode == "sequential" else _images(largest)
    rows = trainer.settings.batch_size * trainer.settings.noise.draws_per_pair * together
    shape = list(largest.latents[0].shape)
    shape[-2] = max(1, round(shape[-2] * area))
    forward = trainer.patcher.memory_required([rows, *shape])
    return float(forward) * (CHECKPOINTED if trainer.gradient_checkpointing else WHOLE)


def lora_memory(trainer: Trainer, parameters: int) -> float:
    """Bytes of a LoRA, its gradient and its optimiser's memory.

    Args:
        trainer: how it is trained.
        parameters: how many numbers it is made of.
    """
    return FP32 * parameters * (2 + STATE_COPIES.get(trainer.settings.optimizer.algorithm, 2))


def stepped_down(trainer: Trainer) -> tuple[Trainer, str] | None:
    """The same training with less memory and as exact, and in which way; None if there is none."""
    mode = trainer.settings.execution_mode
    if mode != MODES[-1]:
        lower = MODES[MODES.index(mode) + 1]
        settings = replace(trainer.settings, execution_mode=lower)
        return replace(trainer, settings=settings), f"execution_mode {lower}"
    if not trainer.gradient_checkpointing:
        return replace(trainer, gradient_checkpointing=True), "gradient_checkpointing"
    return None


def advice(trainer: Trainer, parameters: int) -> str:
    """What to change after memory ran out, and about how much each change saves.

    Args:
        trainer: what did not fit.
        parameters: of its LoRA, 0 if they are not known.
    """
    on_card = trainer.patcher.load_device.type != "cpu"
    needed = activation_memory(trainer)
    lora = lora_memory(trainer, parameters)
    ways = sorted(_ways(trainer, parameters), key=lambda way: -way[1])
    listed = "; ".join(f"{way} (about {size_text(saved)} less)" for way, saved in ways)
    own = f" and {size_text(lora)} for the LoRA and its optimiser" if parameters else ""
    return (
        f"{'The graphics card' if on_card else 'The computer'} ran out of memory. Beside the model "
        f"this training needs about {size_text(needed)} for activations{own}. To need less: "
        f"{listed}. Or set when_out_of_memory to step_down. The model is unharmed and ComfyUI can "
        "be used at once."
    )


def _ways(trainer: Trainer, parameters: int) -> list[tuple[str, float]]:
    settings, found = trainer.settings, []
    now = activation_memory(trainer)

    def saved(other: Trainer, area: float = 1.0) -> float:
        return now - activation_memory(other, area)

    if not trainer.gradient_checkpointing:
        other = replace(trainer, gradient_checkpointing=True)
        found.append(("switch gradient_checkpointing on", saved(other)))
    if settings.execution_mode != MODES[-1]:
        other = replace(trainer, settings=replace(settings, execution_mode=MODES[-1]))
        found.append(("set execution_mode to sequential", saved(other)))
    if settings.batch_size > 1:
        other = replace(trainer, settings=replace(settings, batch_size=1))
        way = "set batch_size to 1 and raise grad_accumulation_steps instead"
        found.append((way, saved(other)))
    found.append(("encode the pairs with half the megapixels", saved(trainer, 0.5)))
    if parameters:
        lora = lora_memory(trainer, parameters)
        if trainer.origin.existing is None and trainer.adapter.rank > 1:
            found.append((f"set rank to {trainer.adapter.rank // 2}", lora / 2))
        if (copies := STATE_COPIES.get(settings.optimizer.algorithm, 2)) > 0:
            found.append(("use the optimizer adafactor", FP32 * parameters * copies))
    return found


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 / 10 else f"{max(1, size / 2**20):.0f} MB"


def _images(record: Record) -> int:
    return len(record.latents)


def _size(record: Record) -> int:
    return record.latents[0].numel()
