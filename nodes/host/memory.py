"""Memory of a training: what it needs, whether that is there, and what to do where it ran out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...dpo_core.training.four_passes import AUTO
from ...dpo_core.training.optimizer import STATE_COPIES
from .step_memory import counted, largest_batch
from .trainer import Trainer

WHEN_OUT_OF_MEMORY = ("stop", "step_down")
MODES = ("full_concurrent", "policy_concurrent", "sequential")
"""From the fastest to the one that needs the least."""
MARGIN = 1.15
"""What is kept free, as a share of what is needed: an allocator rounds up and leaves gaps, and some
kernels take room of their own. Not measured; on a CPU nothing of it is seen."""
CHECKPOINTED, WHOLE = 3, 10
"""Activations of a step, in those of a forward pass as the host takes them to be: with gradient
checkpointing, and without. Only for models whose steps cannot be counted."""
STAGED = 2
"""Weights that the host keeps on the card at the least, in the largest there is: one computes while
the next is on its way."""
FP32 = 4


@dataclass(frozen=True)
class Need:
    """Bytes that a training takes beside the model.

    Attributes:
        activations: at the peak of a step.
        lora: the LoRA, its gradient, its optimiser's memory and what else is as large.
        update: what an update works in, when there are no activations.
        exact: False if activations are only roughly known.
    """

    activations: float
    lora: float
    update: float
    exact: bool

    @property
    def total(self) -> float:
        return self.lora + max(self.activations, self.update)


@dataclass(frozen=True)
class Room:
    """Bytes where a model is trained.

    Attributes:
        free: for model and training together, once everything else has gone.
        model: of the whole model; 0 where its weights are there already.
        least: of the part that must be there at a time.
    """

    free: float
    model: float
    least: float

    def fits(self, need: Need) -> bool:
        """Whether the whole model can be there as well."""
        return self.model + MARGIN * need.total <= self.free

    def fits_in_part(self, need: Need) -> bool:
        """Whether there is enough for the part of the model that must be there."""
        return self.least + MARGIN * need.total <= self.free


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the card or beside it."""
    if comfy.model_management.is_oom(error) or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def need_of(trainer: Trainer, area: float = 1.0) -> Need:
    """What a training takes.

    Args:
        trainer: what is trained, and how; its execution mode is one of those there are.
        area: of the images, as a share of what it is.
    """
    found = counted(trainer, area)
    exact = found.step is not None
    activations = float(found.step) if found.step is not None else _roughly(trainer, area)
    # Updates of many parameters at once, which cards have, work in a copy of them.
    update = FP32 * found.parameters if _on_card(trainer.patcher) else 0
    return Need(activations, lora_memory(trainer, found.parameters), update, exact)


def lora_memory(trainer: Trainer, parameters: int) -> float:
    """Bytes of a LoRA, its gradient, its optimiser's memory, its mean and its reference.

    Args:
        trainer: how it is trained.
        parameters: how many numbers it is made of.
    """
    optimizer = trainer.settings.optimizer
    mean, reference = optimizer.ema > 0, trainer.origin.existing is not None
    copies = 2 + STATE_COPIES.get(optimizer.algorithm, 2) + mean + reference
    return FP32 * parameters * copies


def room_of(patcher: ModelPatcher) -> Room:
    """What there is for a model and its training."""
    management = comfy.model_management
    if not _on_card(patcher):
        return Room(management.get_free_memory(patcher.load_device), 0, 0)
    device = patcher.load_device
    loaded = [one for one in management.loaded_models() if one and one.load_device == device]
    free = management.get_free_memory(device) + sum(one.loaded_size() for one in loaded)
    weights = patcher.model.parameters()
    largest = max((one.numel() * one.element_size() for one in weights), default=0)
    free -= management.extra_reserved_memory()
    return Room(free, patcher.model_size(), min(patcher.model_size(), STAGED * largest))


def memory_to_keep(trainer: Trainer) -> float:
    """Bytes to keep free when the host decides how much of the model to load."""
    return MARGIN * need_of(trainer).total


def with_mode(trainer: Trainer, before: str = "") -> Trainer:
    """The trainer with an execution mode of those there are, where it leaves the choice.

    The fastest that needs no more of the model to be kept off the card than the slowest does. A run
    keeps the mode it was begun in for as long as that fits, because modes differ in the last bits.
    Where memory is only roughly known, the one that needs the least.

    Args:
        trainer: what is trained.
        before: the mode that was chosen for it the last time, if any.
    """
    if trainer.settings.execution_mode != AUTO:
        return trainer
    room = room_of(trainer.patcher)
    for mode in dict.fromkeys([before if before in MODES else MODES[0], *MODES]):
        chosen = in_mode(trainer, mode)
        need = need_of(chosen)
        if need.exact and room.fits(need):
            return chosen
    return in_mode(trainer, MODES[-1])


def in_mode(trainer: Trainer, mode: str) -> Trainer:
    """The same training with its passes in another order."""
    return replace(trainer, settings=replace(trainer.settings, execution_mode=mode))


def outlook(trainer: Trainer, chosen: bool = False) -> tuple[str, bool]:
    """What a training will need and whether it fits, for the person; False if it does not.

    Args:
        trainer: what is to be trained.
        chosen: its execution mode was chosen here.
    """
    need, room = need_of(trainer), room_of(trainer.patcher)
    on_card = _on_card(trainer.patcher)
    about = "about" if need.exact else "very roughly"
    beside = f"the model's {size_text(room.model)}" if on_card else "the model"
    mode = trainer.settings.execution_mode + (", chosen by auto" if chosen else "")
    both = "for both on the card" if on_card else "in the computer"
    line = (
        f"Training needs {about} {size_text(need.total)} beside {beside} (execution_mode {mode}). "
        f"{size_text(max(0, room.free))} are free {both}: "
    )
    if room.fits(need):
        return line + "it fits.", True
    if room.fits_in_part(need):
        return line + "it fits with part of the model kept off the card, which is slower.", True
    return f"{line}it does not fit. To need less: {_listed(trainer)}.", False


def stepped_down(trainer: Trainer, auto: bool = False) -> tuple[Trainer, str] | None:
    """The same training with less memory and as exact, and in which way; None if there is none.

    Args:
        trainer: what ran out of memory.
        auto: its execution mode was chosen here, so another may be.
    """
    mode = trainer.settings.execution_mode
    allowed = trainer.when_out_of_memory == "step_down"
    if mode != MODES[-1] and (allowed or auto):
        lower = MODES[MODES.index(mode) + 1]
        return in_mode(trainer, lower), f"execution_mode {lower}"
    if not trainer.gradient_checkpointing and allowed:
        return replace(trainer, gradient_checkpointing=True), "gradient_checkpointing"
    return None


def advice(trainer: Trainer) -> str:
    """What to change after memory ran out, and about how much each change saves."""
    need, on_card = need_of(trainer), _on_card(trainer.patcher)
    about = "about" if need.exact else "very roughly"
    own = f" and {size_text(need.lora)} for the LoRA and its optimiser" if need.lora else ""
    return (
        f"{'The graphics card' if on_card else 'The computer'} ran out of memory. Beside the model "
        f"this training needs {about} {size_text(need.activations)} for activations{own}. To need "
        f"less: {_listed(trainer)}. Or set when_out_of_memory to step_down. The model is unharmed "
        "and ComfyUI can be used at once."
    )


def _listed(trainer: Trainer) -> str:
    ways = sorted(_ways(trainer), key=lambda way: -way[1])
    return "; ".join(f"{way} (about {size_text(saved)} less)" for way, saved in ways)


def _ways(trainer: Trainer) -> list[tuple[str, float]]:
    settings, found = trainer.settings, []
    now = need_of(trainer)

    def saved(other: Trainer, area: float = 1.0) -> float:
        return now.activations - need_of(other, area).activations

    if not trainer.gradient_checkpointing:
        other = replace(trainer, gradient_checkpointing=True)
        found.append(("switch gradient_checkpointing on", saved(other)))
    if settings.execution_mode != MODES[-1]:
        other = in_mode(trainer, MODES[-1])
        found.append(("set execution_mode to sequential", saved(other)))
    if settings.batch_size > 1:
        other = replace(trainer, settings=replace(settings, batch_size=1))
        way = "set batch_size to 1 and raise grad_accumulation_steps instead"
        found.append((way, saved(other)))
    found.append(("encode the pairs with half the megapixels", saved(trainer, 0.5)))
    if now.lora:
        if trainer.origin.existing is None and trainer.adapter.rank > 1:
            found.append((f"set rank to {trainer.adapter.rank // 2}", now.lora / 2))
        algorithm = settings.optimizer.algorithm
        if algorithm != "adafactor":
            small = replace(settings.optimizer, algorithm="adafactor")
            other = replace(trainer, settings=replace(settings, optimizer=small))
            found.append(("use the optimizer adafactor", now.lora - need_of(other).lora))
    return [(way, size) for way, size in found if size > 0]


def _roughly(trainer: Trainer, area: float) -> float:
    """Activations, from what the host takes a forward pass to need."""
    batch = largest_batch(trainer)
    together = 1 if trainer.settings.execution_mode == "sequential" else len(batch[0].latents)
    rows = len(batch) * trainer.settings.noise.draws_per_pair * together
    shape = list(batch[0].latents[0].shape)
    shape[-2] = max(1, round(shape[-2] * area))
    forward = trainer.patcher.memory_required([rows, *shape])
    return float(forward) * (CHECKPOINTED if trainer.gradient_checkpointing else WHOLE)


def _on_card(patcher: ModelPatcher) -> bool:
    device: torch.device = patcher.load_device
    return not comfy.model_management.is_device_cpu(device)


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 / 10 else f"{max(1, size / 2**20):.0f} MB"
