"""Memory that a training step takes, counted before anything is trained.

The step itself, with its passes and its adapter, is run on the model without its numbers
(``model_shapes``), and the bytes of its tensors are counted as they come and go. That takes no
memory, a few seconds, and no assumption about what a model keeps for backward.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...dpo_core.training.batch import gather
from ...dpo_core.training.dataset import Record
from ...dpo_core.training.denoiser import Prediction, Rows
from ...dpo_core.training.four_passes import SCHEDULES
from ...dpo_core.training.live_bytes import LiveBytes
from ...dpo_core.training.objectives import FRESH
from ...dpo_core.training.plan import MicroBatch
from .denoiser import HostDenoiser
from .injection import TrainedModel
from .model_shapes import META, ModelShapes
from .session import training_session
from .trainer import Trainer

_CALLS: dict[Hashable, Any] = {}
"""What calls on tensors without numbers give."""
_MOST_CALLS = 20_000
_COUNTED: WeakKeyDictionary[Any, dict[Hashable, Counted]] = WeakKeyDictionary()
"""What steps of a model take, by all that it depends on."""


class Counted(NamedTuple):
    """What was counted of a training.

    Attributes:
        parameters: numbers that its LoRA is made of; 0 if unknown.
        step: bytes at the peak of a step's largest batch, beside the model, the LoRA and its
            gradient; None if this model's code decides by numbers, so that it cannot run without.
    """

    parameters: int
    step: int | None


def counted(trainer: Trainer, area: float = 1.0) -> Counted:
    """What a training takes.

    Args:
        trainer: what is trained, and how; its execution mode is one of those there are.
        area: of the images, as a share of what it is.
    """
    records = largest_batch(trainer)
    known = _COUNTED.setdefault(trainer.patcher.model, {})
    key = _key(trainer, records, area)
    if key not in known:
        known[key] = _count(trainer, records, area)
    return known[key]


def largest_batch(trainer: Trainer) -> Sequence[Record]:
    """The records of the batch with the most numbers in it."""
    alike: dict[Hashable, list[Record]] = {}
    for record in trainer.dataset.records:
        alike.setdefault(_form(record), []).append(record)
    batches = [records[: trainer.settings.batch_size] for records in alike.values()]
    return max(batches, key=lambda batch: [len(batch) * size for size in _sizes(batch[0])])


def _count(trainer: Trainer, records: Sequence[Record], area: float) -> Counted:
    parameters, existing = 0, trainer.origin.existing
    try:
        with torch.inference_mode(False):
            trained = TrainedModel(
                ModelShapes(trainer.patcher),
                trainer.adapter,
                0,
                None if existing is None else dict(existing),
                trainer.gradient_checkpointing,
            )
        with training_session(trained):
            parameters = sum(p.numel() for p in trained.adapter.parameters().values())
            return Counted(parameters, _peak(trainer, trained, records, area))
    except Exception as error:  # whatever a model's code does with tensors it cannot look into
        logging.info("DPO: the memory of a step can only be estimated roughly: %s", error)
        return Counted(parameters, None)


def _peak(
    trainer: Trainer, trained: TrainedModel, records: Sequence[Record], area: float
) -> int:
    settings, denoiser = trainer.settings, _ShapeDenoiser(trained.patcher, area)
    batch = gather(
        records, MicroBatch(tuple(range(len(records))), 0), denoiser, settings.noise, 0,
        settings.shared_noise,
    )
    for parameter in trained.adapter.parameters().values():
        # There already, as in every batch but a step's first.
        parameter.grad = torch.zeros_like(parameter)
    passes = SCHEDULES[settings.execution_mode]
    with trained.adapter.micro_batch(0, 1, 0), _Memory() as memory:
        passes(denoiser, trained.adapter, batch, settings.objective, 1.0, FRESH, None)
    return memory.peak


class _Memory(LiveBytes):
    """Of tensors without numbers; works out each kind of call once, as blocks are much alike."""

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = (func, _call_form(args), _call_form(kwargs)) if _gives_new_tensors(func) else None
        if key in _CALLS:
            return tree_map(_again, _CALLS[key])
        result = func(*args, **kwargs)
        if key is not None and all(
            leaf.is_meta for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)
        ):
            if len(_CALLS) >= _MOST_CALLS:
                _CALLS.clear()
            _CALLS[key] = tree_map(_remembered, result)
        return result


@dataclass(frozen=True)
class _Remembered:
    """A tensor's shape and layout."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def again(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=META)


@cache
def _gives_new_tensors(func: Any) -> bool:
    schema = func._schema
    aliases = any(one.alias_info is not None for one in schema.returns)
    return not (aliases or schema.is_mutable or "view" in schema.name or "alias" in schema.name)


def _call_form(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.device, value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple([_call_form(one) for one in value])
    if isinstance(value, dict):
        return tuple([(name, _call_form(one)) for name, one in value.items()])
    return type(value), value


def _remembered(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return _Remembered(value.shape, value.stride(), value.dtype)


def _again(value: Any) -> Any:
    return value.again() if isinstance(value, _Remembered) else value


class _ShapeDenoiser(HostDenoiser):
    """Works out shapes, in images of a share of the area."""

    def __init__(self, patcher: Any, area: float) -> None:
        super().__init__(patcher)
        self._area = area

    def load(self, make_room: bool = False) -> None:
        """There is nothing to load."""

    def predict(self, rows: Rows) -> Prediction:
        rows = Rows(
            self._scaled(rows.latents), rows.conditioning, rows.sigma, self._scaled(rows.noise)
        )
        if torch.is_grad_enabled():
            return super().predict(rows)
        # A pass without a graph is never the largest: one with a graph holds all of that and more.
        residual = torch.empty(rows.latents.shape, dtype=torch.float32, device=META)
        return Prediction(residual, residual.new_empty(len(rows)))

    def _scaled(self, latents: Tensor) -> Tensor:
        return latents[..., : max(2, round(latents.shape[-2] * self._area / 2) * 2), :]


def _key(trainer: Trainer, records: Sequence[Record], area: float) -> Hashable:
    settings, existing = trainer.settings, trainer.origin.existing
    return (
        trainer.patcher.patches_uuid if trainer.patcher.object_patches else None,
        trainer.adapter,
        None if existing is None else tuple((n, _shapes(vars(w))) for n, w in existing.items()),
        trainer.gradient_checkpointing,
        settings.execution_mode,
        settings.objective,
        settings.noise.draws_per_pair,
        settings.shared_noise,
        len(records),
        _form(records[0]),
        area,
    )


def _form(record: Record) -> Hashable:
    """Equal for records whose batches take the same memory."""
    return len(record.latents), tuple(record.latents[0].shape), _shapes(record.conditioning)


def _shapes(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return tuple((str(key), _shapes(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_shapes, value))
    return None


def _sizes(record: Record) -> tuple[int, int]:
    """How large a record's images are, and its prompt."""
    tensors = [leaf for leaf in tree_leaves(record.conditioning) if isinstance(leaf, Tensor)]
    images = sum(latent.numel() for latent in record.latents)
    return images, sum(tensor.numel() for tensor in tensors)
