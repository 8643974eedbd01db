"""A tiny flow denoiser: convolution, prompt, convolution."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from dpo_core.training.adapter import Adapter, AdapterSettings, Target
from dpo_core.training.denoiser import Prediction, Rows
from dpo_core.training.lora_weights import LoraWeights

CPU = torch.device("cpu")
PROMPT = 3
"""Length of a conditioning vector."""


class Call(NamedTuple):
    """One ``predict``: what it was asked, and whether gradients were on."""

    rows: Rows
    graph: bool


class ToyFlow:
    """A model that answers with a velocity, noise minus image, as flow models do.

    Args:
        dtype: what it computes in.
        channels: of a latent, shape (channels, height, width).
        hidden: channels between the two convolutions.
        seed: of the frozen weights.

    Attributes:
        layers: the frozen layers by name.
        adapter: attached by :func:`toy_adapter`.
        calls: every ``predict`` so far.
        before_layer: called with the layer's name each time one is about to compute.
    """

    default_sigmas = "uniform"
    half_precision = False
    needs_loss_scaling = False

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        channels: int = 2,
        hidden: int = 4,
        seed: int = 0,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers: dict[str, nn.Module] = {
                "blocks.0.enter": nn.Conv2d(channels, hidden, 3, padding=1),
                "blocks.0.prompt": nn.Linear(PROMPT, hidden),
                "blocks.1.leave": nn.Conv2d(hidden, channels, 3, padding=1),
            }
        for layer in self.layers.values():
            layer.to(dtype).requires_grad_(False)
        self.dtype = dtype
        self.adapter: Adapter | None = None
        self.calls: list[Call] = []
        self.before_layer: Callable[[str], None] | None = None

    def targets(self) -> list[Target]:
        return [Target(name, layer, layer.forward) for name, layer in self.layers.items()]

    def sigma(self, percent: Tensor) -> Tensor:
        return (1 - percent).to(torch.float32)

    def signature(self, conditioning: Any, latent_shape: Sequence[int]) -> Hashable:
        return tuple(conditioning.shape)

    def predict(self, rows: Rows) -> Prediction:
        self.calls.append(Call(rows, torch.is_grad_enabled()))
        clean, noise = rows.latents.to(self.dtype), rows.noise.to(self.dtype)
        sigma = rows.sigma.to(self.dtype).reshape(-1, 1, 1, 1)
        prompts = torch.stack(rows.conditioning).to(self.dtype)
        hidden = self._layer("blocks.0.enter", (1 - sigma) * clean + sigma * noise)
        hidden = silu(hidden + self._layer("blocks.0.prompt", prompts)[:, :, None, None] + sigma)
        output = self._layer("blocks.1.leave", hidden)
        wide = torch.promote_types(self.dtype, torch.float32)
        residual = output.to(wide) - (noise - clean).to(wide)
        return Prediction(residual, output.detach().to(wide).square().flatten(1).mean(1))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        if self.before_layer is not None:
            self.before_layer(name)
        if self.adapter is None or name not in self.adapter.names:
            return self.layers[name](x)
        return self.adapter.forward(name, x)


def toy_adapter(
    model: ToyFlow,
    rank: int = 2,
    alpha: float = 3.0,
    seed: int = 0,
    existing: dict[str, LoraWeights] | None = None,
    **shape: Any,
) -> Adapter:
    """A LoRA on every layer of ``model``, attached to it; ``shape`` is more of its settings."""
    settings = AdapterSettings(rank, alpha, **shape)
    adapter = Adapter(model.targets(), settings, CPU, seed, existing)
    adapter.initialise()
    model.adapter = adapter
    return adapter


def toy_lora(model: ToyFlow, seed: int = 5, size: float = 0.3) -> dict[str, LoraWeights]:
    """A LoRA someone trained before: another rank and alpha in every layer, fp32."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for i, target in enumerate(model.targets()):
        layer: Any = target.layer
        out, into, *kernel = layer.weight.shape
        rank = i + 1
        down = torch.randn(rank, into, *kernel, generator=generator) * size
        up = torch.randn(out, rank, *[1] * len(kernel), generator=generator) * size
        found[target.name] = LoraWeights.plain(down, up, alpha=2.0 + i)
    return found


def widen(adapter: Adapter) -> None:
    """Makes parameters and frozen reference fp64: errors below 1e-9 become visible.

    Before any training both are fp32 values, so nothing is rounded.
    """
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.data = parameter.data.double()
    if (frozen := adapter.frozen_reference()) is not None:
        adapter.freeze_reference(frozen)


def stir(adapter: Adapter, size: float = 0.2, seed: int = 9) -> None:
    """Moves the policy away from its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            change = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((size * change).to(parameter.dtype))
