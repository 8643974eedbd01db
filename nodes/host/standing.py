"""How far a training has come on disk, and what was lost of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from ...dpo_core.evaluation.validation import carried
from ...dpo_core.pairs.record import counted
from ...dpo_core.run import TrainingError, TrainState
from .trainer import Trainer


@dataclass(frozen=True)
class Standing:
    """A trainer at the furthest step on disk.

    Attributes:
        trainer: at that step.
        state: of it; None before the first step.
        damaged: later steps whose checkpoints cannot be read.
    """

    trainer: Trainer
    state: TrainState | None
    damaged: tuple[int, ...] = ()

    def is_done(self, target: int) -> bool:
        """Whether there is nothing left to train on the way to a step."""
        if self.state is None or self.state.unvalidated:
            return False
        return self.trainer.step == target or is_stopped(self.trainer, self.state)


def standing(trainer: Trainer, target: int) -> Standing:
    """The furthest step on disk between the trainer's own and ``target``.

    Raises:
        TrainingError: there is none, and what the trainer goes on from cannot be read.
    """
    damaged: list[int] = []
    for step in reversed(trainer.run.checkpoints()):
        if trainer.step < step <= target:
            current = replace(trainer, step=step)
            try:
                return Standing(current, current.state(), tuple(damaged))
            except TrainingError:
                damaged.append(step)
    return Standing(trainer, trainer.state(), tuple(damaged))


def is_stopped(trainer: Trainer, state: TrainState) -> bool:
    """Whether validation has ended the training on these very pairs."""
    same_pairs = state.epochs.dataset == trainer.dataset.digest
    settings, held_out = trainer.settings.validation, trainer.held_out.digest
    return carried(state.validation, settings, held_out, same_pairs).stopped


def resumed(before: Trainer, now: Standing) -> list[str]:
    """What the person must know of how a training goes on; forgets the metrics of lost steps.

    Args:
        before: the trainer as it came from the graph.
        now: where it stands on disk.
    """
    run, at = now.trainer.run, now.trainer.step
    said = [
        f"the checkpoint of step {step} is damaged and was passed over" for step in now.damaged
    ]
    whole = [step for step in run.checkpoints() if step not in now.damaged]
    last, lost = max(whole, default=before.origin.step), 0
    with suppress(OSError):
        lost = run.forget_after(last)
    from_disk = now.trainer is not before
    again = f"{counted(lost, 'step')} after it {'is' if lost == 1 else 'are'} done again"
    if from_disk:
        line = f"going on from step {at}, which is on disk"
        if lost and last == at:
            line += f"; the training before was broken off, and {again}"
        said.append(line)
    elif lost and last <= at:
        said.append(
            "beginning again: the training before was broken off before its first checkpoint, "
            f"and {counted(lost, 'step')} {'is' if lost == 1 else 'are'} done again"
        )
    return said
