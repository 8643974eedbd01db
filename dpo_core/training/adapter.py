"""The LoRA being trained: PEFT layers over layers whose weights stay with their owner.

The owner of the model (ComfyUI, the demo) keeps its own modules. Each layer to be adapted is
described by a :class:`Target`; PEFT builds its LoRA over a stand-in with the same geometry and
no weights, and the owner calls :meth:`Adapter.forward` in place of the layer's forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

ADAPTER = "default"


@dataclass(frozen=True)
class AdapterSettings:
    """Shape of a new LoRA."""

    rank: int = 16
    """Size of the LoRA. 16 is plenty for a taste; larger files, slightly more detail."""

    alpha: float = 16.0
    """Strength the LoRA is trained at, relative to its rank. Equal to the rank is usual."""

    def problems(self) -> list[str]:
        found = []
        if not 1 <= self.rank <= 1024:
            found.append(f"rank is {self.rank}: use 1 to 1024, 16 is the default.")
        if not 0 < self.alpha <= 65536:
            found.append(f"alpha is {self.alpha}: use a number above 0, the rank is usual.")
        return found


@dataclass(frozen=True)
class Target:
    """A frozen layer to be adapted.

    Attributes:
        name: where its weight lives in the model, without ``.weight``.
        layer: gives the geometry; an instance of the ``torch.nn`` layer it stands for, or any
            module with ``in_features`` and ``out_features``. Its weights are not read.
        forward: computes the frozen layer's output.
    """

    name: str
    layer: nn.Module
    forward: Callable[..., Tensor]


@dataclass(frozen=True)
class LoraWeights:
    """One layer's low-rank weights.

    Attributes:
        down: shape (rank, in, *kernel).
        up: shape (out, rank, *ones).
        alpha: the layer's scale is ``alpha / rank``.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


class Adapter:
    """A LoRA over ``targets``, its parameters in fp32 on ``device``.

    Args:
        targets: the layers to adapt.
        settings: rank and alpha of a new LoRA.
        device: where the model computes.
        seed: of the initial values; they do not depend on anything else.
        existing: a LoRA to go on from, by target name. Its ranks and alphas replace those of
            ``settings``, and as it is now it becomes the reference.

    Raises:
        ValueError: if there is nothing to adapt.
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
        self._layers = _peft_layers(targets, settings, device, seed, existing)
        self._frozen: dict[str, Tensor] | None = None
        self._active = True
        if existing is not None:
            self.load(_named_weights(existing))
            self.freeze_reference(self.snapshot())

    @property
    def names(self) -> list[str]:
        """Names of the adapted layers."""
        return list(self._layers)

    def forward(self, name: str, *inputs: Any, **options: Any) -> Tensor:
        """The adapted layer's output: the frozen layer's, plus the LoRA's if it is on."""
        if self._active:
            return self._layers[name](*inputs, **options)
        return self._targets[name].forward(*inputs, **options)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable ones: ``<layer>.lora_A.weight`` (down), ``<layer>.lora_B.weight`` (up)."""
        found = {}
        for name, layer in self._layers.items():
            found[f"{name}.lora_A.weight"] = layer.lora_A[ADAPTER].weight
            found[f"{name}.lora_B.weight"] = layer.lora_B[ADAPTER].weight
        return found

    def alphas(self) -> dict[str, float]:
        """Alpha of every adapted layer."""
        return {name: float(layer.lora_alpha[ADAPTER]) for name, layer in self._layers.items()}

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
        parameters = self.parameters()
        live = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._frozen[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = live[name]


def _named_weights(existing: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    found = {}
    for name, weights in existing.items():
        found[f"{name}.lora_A.weight"] = weights.down
        found[f"{name}.lora_B.weight"] = weights.up
    return found


def _peft_layers(
    targets: Sequence[Target],
    settings: AdapterSettings,
    device: torch.device,
    seed: int,
    existing: Mapping[str, LoraWeights] | None,
) -> dict[str, Any]:
    # PEFT reads dots as paths; numbered children keep a model's own names out of its patterns.
    root = nn.Module()
    children = {f"t{i}": target for i, target in enumerate(targets)}
    for child, target in children.items():
        root.add_module(child, _stand_in(target, device))
    ranks, alphas = {}, {}
    if existing is not None:
        ranks = {child: existing[t.name].rank for child, t in children.items()}
        alphas = {child: existing[t.name].alpha for child, t in children.items()}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT only divides by it
        target_modules=list(children),
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        inject_adapter_in_model(config, root, adapter_name=ADAPTER)
    layers = {}
    for child, target in children.items():
        layer: Any = root.get_submodule(child)
        # fp32 weights are cast down to what the model computes in. PEFT would cast the
        # activations up, and keep them for backward in twice the size.
        layer.cast_input_dtype_enabled = False
        if hasattr(layer.base_layer, "dilation"):  # PEFT leaves it out
            layer.lora_A[ADAPTER].dilation = layer.base_layer.dilation
        for module in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            module.forward = _forward_in_input_dtype(module)
        layers[target.name] = layer
    return layers


def _stand_in(target: Target, device: torch.device) -> nn.Module:
    """A layer of the target's geometry that holds no weights and computes through the target."""
    layer: Any = target.layer
    stand_in: nn.Module
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        kind: Any = next(k for k in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, k))
        stand_in = kind(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
            layer.padding, layer.dilation, layer.groups, bias=False, device="meta",
        )
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels, *layer.kernel_size)
    else:
        shape = (layer.out_features, layer.in_features)
        stand_in = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    # PEFT takes device and dtype from the weight: one zero, expanded, says fp32 on the device.
    zero = torch.zeros(1, device=device).expand(shape)
    stand_in.weight = nn.Parameter(zero, requires_grad=False)
    stand_in.forward = target.forward
    return stand_in


def _forward_in_input_dtype(module: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(module, nn.Linear):
        return lambda x: nn.functional.linear(x, module.weight.to(x.dtype))
    convolution: Any = module
    return lambda x: convolution._conv_forward(x, convolution.weight.to(x.dtype), None)
