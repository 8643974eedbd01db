"""Memory of a training step: what the host keeps free for it, and what to do where it ran out."""

from __future__ import annotations

from ...dpo_core.training.dataset import Record
from .trainer import Trainer


def activation_memory(trainer: Trainer) -> float:
    """Bytes to keep free for activations when the host decides how much of the model to load."""
    largest = max(trainer.dataset.records, key=lambda one: _images(one) * _size(one))
    together = 1 if trainer.settings.execution_mode == "sequential" else _images(largest)
    rows = trainer.settings.batch_size * trainer.settings.noise.draws_per_pair * together
    shape = largest.latents[0].shape
    forward = trainer.patcher.memory_required([rows, *shape])
    return float(forward) * (3 if trainer.gradient_checkpointing else 10)


def _images(record: Record) -> int:
    return len(record.latents)


def _size(record: Record) -> int:
    return record.latents[0].numel()


def advice(trainer: Trainer) -> str:
    """What to change after the card ran out of memory."""
    settings = trainer.settings
    ways = []
    if not trainer.gradient_checkpointing:
        ways.append("switch gradient_checkpointing on")
    if settings.execution_mode != "sequential":
        ways.append("set execution_mode to sequential")
    if settings.batch_size > 1:
        ways.append("set batch_size to 1 and raise grad_accumulation_steps instead")
    ways.append("encode the pairs with fewer megapixels")
    return (
        f"The graphics card ran out of memory. To need less: {'; '.join(ways)}. The model is "
        "unharmed and ComfyUI can be used at once."
    )
