"""LoRA files of any dialect the host reads, as weights of the model's own layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...dpo_core.training.lora_weights import LoraWeights
from .frozen_layer import is_host_layer
from .host_adapter import layer_weights, not_refined, wrong_size

TEXT_ENCODER_PREFIXES = ("lora_te", "text_encoder", "te1_", "te2_", "te_", "clip_", "lora_prior_te")

RowOrder = Callable[[Tensor], Tensor]


class Place(NamedTuple):
    """What of the model a name in a LoRA file stands for.

    Attributes:
        weight: name of the weight.
        rows: dimension, start and length of the slice of it; None for all.
        order: puts the file's rows in the model's order; None if they are.
    """

    weight: str
    rows: tuple[int, int, int] | None = None
    order: RowOrder | None = None

    @property
    def key(self) -> Any:
        """As the host's tables have it."""
        if self.order is not None:
            return tuple(self)
        return self.weight if self.rows is None else (self.weight, self.rows)


class _Part(NamedTuple):
    place: Place
    patch: Any


class ExistingLora:
    """A LoRA to go on from.

    Attributes:
        weights: per layer of the diffusion model.
        carried: tensors for text encoders, kept for the saved file as they are.
    """

    def __init__(self, weights: dict[str, LoraWeights], carried: dict[str, Tensor]) -> None:
        self.weights = weights
        self.carried = carried


def lora_places(patcher: ModelPatcher) -> dict[str, Place]:
    """The names of the model's layers in LoRA files, of every dialect that the host reads.

    The host's tables also name layers that only other sizes of the model have; those are left out.
    """
    state = patcher.model_state_dict()
    places = {
        name: Place(key) if isinstance(key, str) else Place(*key)
        for name, key in comfy.lora.model_lora_keys_unet(patcher.model, {}).items()
    }
    return {name: place for name, place in places.items() if place.weight in state}


def layer_shape(patcher: ModelPatcher, name: str) -> tuple[int, ...]:
    """Of a layer's weight as it computes; a state dict may hold several numbers in one place."""
    layer: Any = patcher.model.get_submodule(name)
    return tuple(layer.weight.shape)


def read_existing(patcher: ModelPatcher, lora: Mapping[str, Tensor]) -> ExistingLora:
    """Understands ``lora`` as the host does.

    Raises:
        ValueError: nothing in it fits the model, or it holds weights that cannot be refined.
    """
    carried = {k: v.clone() for k, v in lora.items() if k.startswith(TEXT_ENCODER_PREFIXES)}
    converted = comfy.lora_convert.convert_lora({k: v for k, v in lora.items() if k not in carried})
    if strange := [k for k, v in converted.items() if v.is_floating_point() and not _finite(v)]:
        raise ValueError(
            f"The LoRA is damaged: {len(strange)} of its tensors hold numbers that are not finite, "
            f"such as {strange[0]}. Use another copy of it."
        )
    places = lora_places(patcher)
    parts, unused = _parts(converted, places | _peft_names(places))
    if not parts:
        raise ValueError(
            "The LoRA does not fit this model: none of its weights belong to a layer of it. Was "
            "it made for another base model?"
        )
    weights = {}
    for weight, found in parts.items():
        name = _layer(weight)
        weights[name] = _merged(found, layer_shape(patcher, name), name)
        if not _trains(patcher.model.get_submodule(name)):
            what = "weights for other layers than linear ones and ungrouped convolutions"
            raise ValueError(not_refined(what, name))
    if unused:
        raise ValueError(
            f"The LoRA does not fit this model: {len(unused)} of its weights belong to no layer "
            f"of it, such as {', '.join(unused[:3])}. Was it made for another base model?"
        )
    return ExistingLora(weights, carried)


def _peft_names(places: Mapping[str, Place]) -> dict[str, Place]:
    """What diffusers calls the attention of UNets today; the host has only its older names."""
    found = {}
    for name, place in places.items():
        if name.startswith("unet.") and ".processor.to_" in name:
            module = name.replace(".processor.to_", ".to_")
            found[f"{module}.0" if module.endswith(".to_out") else module] = place
    return found


def _trains(layer: Any) -> bool:
    """True if an adapter can be put on ``layer``."""
    convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    known = layer.groups == 1 if convolution else hasattr(layer, "in_features")
    return known and is_host_layer(layer)


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.float().isfinite().all())


def _parts(
    lora: Mapping[str, Tensor], places: Mapping[str, Place]
) -> tuple[dict[str, list[_Part]], list[str]]:
    """What the file holds for each weight, and the names of what is for none."""
    parts: dict[str, list[_Part]] = {}
    named: dict[Place, str] = {}
    used: set[str] = set()
    for name, place in places.items():
        # One name at a time: of two names for one place the host keeps only the last.
        for key, patch in _patches(lora, name, place).items():
            if key != place.key:
                raise ValueError(not_refined("changes of biases", name))
            if (other := named.setdefault(place, name)) != name:
                raise ValueError(
                    f"The LoRA names one layer twice, as {other} and as {name}. ComfyUI would use "
                    "one of them and drop the other: use a file that holds one."
                )
            parts.setdefault(place.weight, []).append(_Part(place, patch))
            used |= getattr(patch, "loaded_keys", set())
    return parts, sorted(lora.keys() - used)


def _patches(lora: Mapping[str, Tensor], name: str, place: Place) -> dict[Any, Any]:
    """What the host reads of ``lora`` under one name."""
    try:
        return comfy.lora.load_lora(lora, {name: place.key}, log_missing=False)
    except KeyError as error:
        raise ValueError(
            f"The LoRA is incomplete: it lacks {error.args[0]}. Use another copy of it."
        ) from error


def refuse_if_upstream(patcher: ModelPatcher, weights: Mapping[str, LoraWeights]) -> None:
    """The same LoRA must not act twice.

    Raises:
        ValueError: it is already applied to the model by a loader before the trainer.
    """
    for name, ours in weights.items():
        weight = f"{name}.weight"
        for _, patch, _, rows, order in patcher.patches.get(weight, []):
            part = _Part(Place(weight, rows, order), patch)
            try:
                theirs = _merged([part], layer_shape(patcher, name), name)
            except ValueError:
                continue  # what cannot be refined is not what is refined
            if _among(theirs, ours):
                raise ValueError(
                    "The LoRA given as existing_lora is already applied to the model by a LoRA "
                    "loader before the trainer, so it would act twice. Connect the model without "
                    "that loader."
                )


def _among(theirs: LoraWeights, ours: LoraWeights) -> bool:
    """True if all that ``theirs`` does to the layer is among what ``ours`` does."""
    if theirs.kind != ours.kind:
        return False
    if theirs.rank == ours.rank:
        return theirs.parts.keys() == ours.parts.keys() and all(
            torch.equal(tensor, ours.parts[part]) for part, tensor in theirs.parts.items()
        )
    if theirs.kind != "lora" or theirs.alpha is None:
        return False
    # One slice of a fused layer: the same directions among those of other slices.
    size, (down, up) = theirs.rank, theirs.parts.values()
    ours_down, ours_up = ours.parts.values()
    return any(
        torch.equal(down, ours_down[start : start + size])
        and torch.equal(up * (theirs.alpha / size), ours_up[:, start : start + size])
        for start in range(ours.rank - size + 1)
    )


def _layer(weight: str) -> str:
    if not weight.endswith(".weight"):
        raise ValueError(not_refined("changes of other than layers' weights", weight))
    return weight.removesuffix(".weight")


def _merged(parts: list[_Part], shape: tuple[int, ...], name: str) -> LoraWeights:
    """One layer's weights; slices of a fused layer become one pair of their summed rank."""
    if len(parts) == 1 and parts[0].place[1:] == (None, None):
        return layer_weights(parts[0].patch, name, shape)
    downs, ups = [], []
    for place, patch in parts:
        first, length = (0, shape[0]) if place.rows is None else _rows(place.rows, shape, name)
        weights = layer_weights(patch, name, (length, *shape[1:]))
        if weights.kind != "lora" or weights.alpha is None:
            raise ValueError(not_refined(f"{weights.kind} for parts of a layer", name))
        down, up = weights.parts.values()
        up = up * (weights.alpha / weights.rank)
        wide = up.new_zeros(shape[0], *up.shape[1:])
        wide[first : first + length] = up if place.order is None else _ordered(place, up, down)
        downs.append(down)
        ups.append(wide)
    # The parts' scales are in the weights now; alpha = rank leaves them alone.
    rank = sum(down.shape[0] for down in downs)
    return LoraWeights.plain(torch.cat(downs), torch.cat(ups, dim=1), float(rank))


def _ordered(place: Place, up: Tensor, down: Tensor) -> Tensor:
    """``up`` in the model's order of rows, which in some dialects differs from the file's."""
    assert place.order is not None
    ordered, change = place.order(up), up.flatten(1) @ down.flatten(1)
    if not torch.allclose(ordered.flatten(1) @ down.flatten(1), place.order(change)):
        raise ValueError(f"The LoRA changes {place.weight} in a way that cannot be refined.")
    return ordered


def _rows(
    rows: tuple[int, int, int], shape: tuple[int, ...], name: str
) -> tuple[int, int]:
    dimension, first, length = rows
    if dimension != 0:
        raise ValueError(not_refined("changes of some of a layer's inputs", name))
    if first + length > shape[0]:  # some of the host's names take q, k, v for thirds
        raise ValueError(wrong_size(name))
    return first, length
