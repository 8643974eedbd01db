"""The LoRA being trained, over layers whose weights stay with their owner.

The owner of the model (ComfyUI, the demo) keeps its own modules. Each layer to be adapted is
described by a :class:`Target`, and the owner calls :meth:`Adapter.forward` in place of the layer's
forward. What a LoRA of each type computes is in ``adapter_layer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from .adapter_layer import (
    KINDS,
    LOW_RANK,
    AdapterLayer,
    DoraLayer,
    Draw,
    LohaLayer,
    LokrLayer,
    LoraLayer,
    new_parts,
    weight_shape,
)
from .lora_weights import LoraWeights
from .targets import MAX_RANK, pattern_problems, pattern_rank
from .transfer import sent


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of a new LoRA."""

    rank: int = 16
    """Size of the LoRA. 16 is plenty for a taste; larger files, slightly more detail."""

    alpha: float = 16.0
    """Strength the LoRA is trained at, relative to its rank. Equal to the rank is usual."""

    kind: str = "lora"
    """lora fits everywhere. rslora keeps its strength at high ranks. dora also learns how strongly
    each input counts; closest to training the whole model, a little slower. loha and lokr
    multiply small matrices otherwise: loha says more with the same rank, is the slowest and takes
    up to 2 GB more on models of Flux's size; lokr makes the smallest file. ComfyUI's LoRA loaders
    read them all."""

    targets: str = "all_linear"
    """Which layers learn. all_linear takes every linear layer of the blocks; attention_mlp leaves
    out those that steer by time and prompt; attention alone changes least; convolutions adds those
    of the blocks (SD 1.5, SDXL); pattern takes what the lines below name."""

    pattern: str = ""
    """Layer names with stars, one per line, such as *attn*to_q*. A line may give a rank of its own
    (*attn* = 32); of several that match a layer the last counts. With targets other than pattern
    the lines only give ranks. Alpha stays the trainer's."""

    dropout: float = 0.0
    """Chance that each of the LoRA's directions is left out at a look at a batch; 0.1 helps against
    learning few pairs by heart. Chosen, rejected and both computations of an image leave out the
    same ones; the reference, previews and the saved LoRA none. For lora, rslora and dora."""

    def alpha_at(self, rank: int) -> float:
        """What a LoRA loader, which divides by the rank, must read for a layer of this rank."""
        return self.alpha * (math.sqrt(rank) if self.kind == "rslora" else 1.0)

    def rank_at(self, name: str) -> int:
        """The rank of a layer."""
        return pattern_rank(self.pattern, name, self.rank)

    def problems(self) -> list[str]:
        found = []
        if not 1 <= self.rank <= MAX_RANK:
            found.append(f"rank is {self.rank}: use 1 to {MAX_RANK}, 16 is the default.")
        if not 0 < self.alpha <= 65536:
            found.append(f"alpha is {self.alpha}: use a number above 0, the rank is usual.")
        if self.kind not in KINDS:
            found.append(f"type is {self.kind!r}: choose {', '.join(KINDS)}.")
        found += pattern_problems(self.targets, self.pattern)
        if not 0 <= self.dropout < 1:
            found.append(f"dropout is {self.dropout}: use 0 to below 1, 0.1 is usual.")
        elif self.dropout and self.kind in KINDS and self.kind not in LOW_RANK:
            found.append(
                f"dropout cannot go with type {self.kind}, which has no directions to leave out: "
                f"set dropout to 0, or type to {', '.join(LOW_RANK)}."
            )
        return found


@dataclass(frozen=True)
class Target:
    """A frozen layer to be adapted.

    Attributes:
        name: where its weight lives in the model, without ``.weight``.
        layer: gives the geometry; an instance of the ``torch.nn`` layer it stands for, or any
            module with ``in_features`` and ``out_features``.
        forward: computes the frozen layer's output.
        borrow: the weight as it computes, lent for a moment; None: ``layer.weight``. Only DoRA
            reads it.
    """

    name: str
    layer: nn.Module
    forward: Callable[..., Tensor]
    borrow: Callable[[], AbstractContextManager[Tensor]] | None = None


class Adapter:
    """A LoRA over ``targets``, its parameters in fp32 on ``device``.

    Args:
        targets: the layers to adapt.
        settings: shape of a new LoRA.
        device: where the model computes.
        seed: of the initial values; they do not depend on anything else.
        existing: a LoRA to go on from, by target name. Its types, ranks and alphas replace those of
            ``settings``, and as it is now it becomes the reference.

    Raises:
        ValueError: if there is nothing to adapt, or what exists does not fit the targets.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        settings: AdapterSettings,
        device: torch.device,
        seed: int,
        existing: Mapping[str, LoraWeights] | None = None,
    ) -> None:
        if existing is not None:
            targets = [target for target in targets if target.name in existing]
        if not targets:
            raise ValueError("The model has no layer this LoRA can attach to.")
        self._targets = {target.name: target for target in targets}
        if existing is None:
            self._layers = _new_layers(targets, settings, device, seed)
        else:
            self._layers = _existing_layers(self._targets, existing, device)
        self._device, self._dropout = device, settings.dropout
        self._draws: dict[str, Draw] | None = None
        self._frozen: dict[str, Tensor] | None = None
        self._active = True
        if existing is not None:
            self.freeze_reference({n: p.detach() for n, p in self.parameters().items()})

    @property
    def names(self) -> list[str]:
        """Names of the adapted layers."""
        return list(self._layers)

    def forward(self, name: str, x: Tensor, *others: Any, **options: Any) -> Tensor:
        """The adapted layer's output: the frozen layer's, plus the LoRA's if it is on."""
        frozen = self._targets[name].forward
        if not self._active:
            return frozen(x, *others, **options)
        draw = Draw() if self._draws is None else self._draws[name]
        return self._layers[name].forward(lambda z: frozen(z, *others, **options), x, draw)

    def initialise(self) -> None:
        """Completes a new LoRA from the frozen weights, which must be loaded: for DoRA."""
        for layer in self._layers.values():
            layer.initialise()

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Inside, parameters stay as they are: what follows from them is computed once."""
        self._draws = {name: Draw() for name in self._layers}
        try:
            yield
        finally:
            self._draws = None

    @contextmanager
    def micro_batch(self, seed: int, step: int, number: int) -> Iterator[None]:
        """As :meth:`steady`, and one dropout holds for every pass of the policy.

        Args:
            seed: of the run.
            step: the optimiser step, counted from 0. The first has no dropout, so that policy and
                reference can be compared before anything is trained.
            number: of the micro-batch in the step.
        """
        with self.steady():
            if self._dropout and step > 0 and self._draws is not None:
                for name, kept in self._drawn(f"adapter dropout {seed} {step} {number}").items():
                    self._draws[name].kept = kept
            yield

    def _drawn(self, key: str) -> dict[str, Tensor]:
        """For every layer the directions kept, shape (rank,), enlarged to keep their sum."""
        digest = blake2b(key.encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        ranks = [layer.rank for layer in self._layers.values()]
        kept = torch.rand(sum(ranks), generator=generator) >= self._dropout
        enlarged = sent(kept / (1 - self._dropout), self._device)
        return dict(zip(self._layers, enlarged.split(ranks), strict=True))

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable ones by their names in a LoRA file, ``<layer>.lora_A.weight`` and so on."""
        return {
            f"{name}.{part}": parameter
            for name, layer in self._layers.items()
            for part, parameter in layer.parts.items()
        }

    def alphas(self) -> dict[str, float]:
        """Alpha of every adapted layer that has one."""
        return {n: layer.alpha for n, layer in self._layers.items() if layer.alpha is not None}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the parameters, fp32 on the CPU."""
        return {
            name: parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in self.parameters().items()
        }

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrites every parameter.

        Raises:
            ValueError: if names or shapes do not fit.
        """
        parameters = self.parameters()
        wrong = sorted(parameters.keys() ^ weights.keys()) + [
            name for name, p in parameters.items()
            if name in weights and weights[name].shape != p.shape
        ]
        if wrong:
            raise ValueError(f"The LoRA does not fit the model: {', '.join(wrong[:5])}.")
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])

    def freeze_reference(self, weights: Mapping[str, Tensor]) -> None:
        """Makes ``weights`` the reference instead of the bare model."""
        self._frozen = {
            name: weights[name].to(parameter.device, parameter.dtype, copy=True)
            for name, parameter in self.parameters().items()
        }

    def frozen_reference(self) -> dict[str, Tensor] | None:
        """The frozen reference weights on the CPU, None if the bare model is the reference."""
        if self._frozen is None:
            return None
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._frozen.items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, only the frozen model answers."""
        before, self._active = self._active, False
        try:
            yield
        finally:
            self._active = before

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model is the reference: a pointer swap, nothing is copied."""
        if self._frozen is None:
            with self.off():
                yield
            return
        with self.holding(self._frozen):
            yield

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the parameters are these: a pointer swap, nothing is copied.

        Args:
            weights: one for each parameter, on the adapter's device.
        """
        parameters = self.parameters()
        live = {name: parameter.data for name, parameter in parameters.items()}
        draws, self._draws = self._draws, None
        try:
            for name, parameter in parameters.items():
                parameter.data = weights[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = live[name]
            self._draws = draws


def _new_layers(
    targets: Sequence[Target], settings: AdapterSettings, device: torch.device, seed: int
) -> dict[str, AdapterLayer]:
    ranks = [settings.rank_at(target.name) for target in targets]
    made = new_parts([target.layer for target in targets], settings.kind, ranks, device, seed)
    return {
        target.name: _layer(target, settings.kind, parts, settings.alpha_at(rank))
        for target, parts, rank in zip(targets, made, ranks, strict=True)
    }


def _existing_layers(
    targets: Mapping[str, Target], existing: Mapping[str, LoraWeights], device: torch.device
) -> dict[str, AdapterLayer]:
    wrong = sorted(existing.keys() - targets.keys()) + [
        name for name, target in targets.items()
        if not existing[name].fits(weight_shape(target.layer))
    ]
    if wrong:
        raise ValueError(f"The LoRA does not fit the model: {', '.join(wrong[:5])}.")
    found = {}
    for name, target in targets.items():
        weights = existing[name]
        parts = {
            part: nn.Parameter(tensor.detach().to(device, torch.float32, copy=True).contiguous())
            for part, tensor in weights.parts.items()
        }
        found[name] = _layer(target, weights.kind, parts, weights.alpha or 0.0)
    return found


def _layer(
    target: Target, kind: str, parts: Mapping[str, nn.Parameter], alpha: float
) -> AdapterLayer:
    if kind == "dora":
        weight = target.borrow or partial(_own_weight, target.layer)
        return DoraLayer(target.layer, parts, alpha, weight)
    kinds: dict[str, Callable[..., AdapterLayer]] = {"loha": LohaLayer, "lokr": LokrLayer}
    return kinds.get(kind, LoraLayer)(target.layer, parts, alpha)


def _own_weight(layer: Any) -> AbstractContextManager[Tensor]:
    return nullcontext(layer.weight)
