"""Which run a training goes on from, when what it learns from has grown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...dpo_core.saving.run_folder import RunFolder, runs_like
from ...dpo_core.training.lora_weights import LoraWeights


@dataclass(frozen=True)
class Origin:
    """Where a trainer's adapter starts from and what it is compared with.

    Attributes:
        existing: frozen weights that are the reference; None if the bare model is.
        carried: tensors for text encoders that go into the saved file unchanged.
        run: folder of the run continued from, None for a fresh start.
        step: step of it.
    """

    existing: Mapping[str, LoraWeights] | None = None
    carried: Mapping[str, Tensor] | None = None
    run: RunFolder | None = None
    step: int = 0


def _relatives(run: RunFolder) -> list[RunFolder]:
    """Runs of the same collection as it grew, in no order."""
    return runs_like(run.path.parent, run.content, ("pairs", "held_out", "continues", "restart"))


def _same_pairs(one: RunFolder, other: RunFolder) -> bool:
    return all(one.content[name] == other.content[name] for name in ("pairs", "held_out"))


def _last_readable(run: RunFolder) -> int | None:
    """The last step whose checkpoint is not damaged; None if there is none."""
    for step in reversed(run.checkpoints()):
        try:
            run.load_checkpoint(step)
        except OSError:
            continue
        return step
    return None


def started_over(fresh: RunFolder, origin: Origin) -> tuple[RunFolder, Origin]:
    """A fresh start, which is from then on what the collection goes on from."""
    starts = {run.content.get("restart", 0): run for run in _relatives(fresh)
              if run.content["continues"] is None and run.content.get("restart", 0) > 0}
    last = max(starts, default=0)
    if last and _same_pairs(starts[last], fresh):
        return starts[last], origin
    return RunFolder(fresh.path.parent, fresh.content | {"restart": last + 1}), origin


def in_lineage(fresh: RunFolder, origin: Origin) -> tuple[RunFolder, Origin]:
    """The run of just these pairs, else one that goes on from the furthest there is.

    Args:
        fresh: the run as it would be without any before.
        origin: likewise.
    """
    root = fresh.path.parent
    found = {run: steps[-1] for run in _relatives(fresh) if (steps := run.checkpoints())}
    restart = max((run.content.get("restart", 0) for run in found), default=0)
    # What was left behind by starting over stays behind.
    furthest = {
        run: step for run, step in found.items() if run.content.get("restart", 0) == restart
    }
    content = fresh.content | {"restart": restart}
    if not furthest:
        return fresh, origin
    same = [run for run in furthest if _same_pairs(run, fresh)]
    # By id where the steps are equal: which one it is must not depend on the file system.
    ranked = sorted(same or furthest, key=lambda run: (furthest[run], run.id), reverse=True)
    last = ranked[0]
    if not same:
        for run in ranked:
            if (step := _last_readable(run)) is not None:
                origin = replace(origin, run=run, step=step)
                return RunFolder(root, content | {"continues": [run.id, step]}), origin
        return RunFolder(root, content), origin
    if last.content["continues"]:
        parent, step = last.content["continues"]
        origin = replace(origin, run=RunFolder.at(root / parent), step=step)
    return last, origin
