"""A training's state as one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..evaluation.validation import ValidationState
from ..run import TrainState
from ..training.objectives import ObjectiveState
from ..training.plan import Epochs
from .tensor_file import DamagedFile, read_tensors, write_tensors

TENSORS = ("adapter", "optimizer", "average", "best")
"""What a checkpoint holds of a TrainState, besides numbers."""


def write_checkpoint(
    path: Path, state: TrainState, poll: Callable[[], None] = lambda: None
) -> None:
    """Writes everything a continuation needs into one file, atomically.

    Args:
        path: the final name.
        state: where training stands.
        poll: is called now and then; what it raises breaks the writing off.

    Raises:
        OSError: no room; nothing is left behind.
    """
    parts = {name: getattr(state, name) for name in TENSORS}
    tensors = {
        f"{part}/{name}": tensor for part, held in parts.items() for name, tensor in held.items()
    }
    scalars = {
        "step": state.step,
        "rho": state.rho,
        "loss_scale": state.loss_scale,
        "epochs": asdict(state.epochs),
        "visits": state.visits,
        "objective": asdict(state.objective),
        "algorithm": state.algorithm,
        "validation": asdict(state.validation),
        "unvalidated": dict(state.unvalidated),
    }
    write_tensors(path, tensors, {"state": json.dumps(scalars)}, poll, checked=True)


def read_checkpoint(path: Path) -> TrainState:
    """What :func:`write_checkpoint` wrote.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it is not what was written, or no checkpoint.
    """
    tensors, metadata = read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in TENSORS}
    try:
        scalars = json.loads(metadata["state"])
        for name, tensor in tensors.items():
            part, rest = name.split("/", 1)
            parts[part][rest] = tensor
        return TrainState(
            scalars["step"],
            parts["adapter"],
            parts["optimizer"],
            scalars["rho"],
            scalars["loss_scale"],
            Epochs(**scalars["epochs"] | {"batches": tuple(scalars["epochs"]["batches"])}),
            scalars["visits"],
            ObjectiveState(**scalars["objective"]),
            parts["average"],
            scalars["algorithm"],
            ValidationState(**scalars["validation"]),
            parts["best"],
            scalars.get("unvalidated", {}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path.name} is no checkpoint: {error!r}") from error


def is_whole(path: Path) -> bool:
    """Whether a file has the length its header tells; reads no more than that."""
    try:
        with safe_open(path, framework="pt") as file:
            return "state" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
