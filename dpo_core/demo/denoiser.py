"""The demo's network as the core's denoiser: the second implementation of its Protocols."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..training.adapter import Adapter, AdapterSettings, Target
from ..training.denoiser import Prediction, Rows
from .network import ConvBlock, FlowNetwork, TransformerBlock

Words = tuple[int, ...]
"""A prompt as ``pictures.encode`` gives it: the conditioning."""


class DemoDenoiser:
    """Velocity errors of a :class:`FlowNetwork`; sigma is the noise level itself."""

    default_sigmas = "logit_normal"
    half_precision = False
    needs_loss_scaling = False

    def __init__(self, network: FlowNetwork) -> None:
        self._network = network

    def sigma(self, percent: Tensor) -> Tensor:
        return (1 - percent).float()

    def signature(self, conditioning: Words, latent_shape: Sequence[int]) -> Hashable:
        return len(conditioning)

    def predict(self, rows: Rows) -> Prediction:
        sigma = rows.sigma[:, None, None, None]
        noisy = (1 - sigma) * rows.latents + sigma * rows.noise
        words = torch.tensor(rows.conditioning, dtype=torch.int64)
        velocity = self._network(noisy, rows.sigma, words)
        residual = velocity - (rows.noise - rows.latents)
        return Prediction(residual, velocity.detach().square().flatten(1).mean(1))


def build_adapter(network: FlowNetwork, settings: AdapterSettings, seed: int) -> Adapter:
    """A LoRA over the linear and convolution layers of the network's blocks."""
    blocks = (ConvBlock, TransformerBlock)
    inside = [block.modules() for block in network.modules() if isinstance(block, blocks)]
    members = {id(module) for modules in inside for module in modules}
    targets = [
        Target(name, module, type(module).forward.__get__(module))
        for name, module in network.named_modules()
        if id(module) in members and isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    return Adapter(targets, settings, torch.device("cpu"), seed)


@contextmanager
def attached(network: FlowNetwork, adapter: Adapter) -> Iterator[None]:
    """Inside, the network computes with the adapter; afterwards it is the base model again."""
    layers = [network.get_submodule(name) for name in adapter.names]
    try:
        for name, layer in zip(adapter.names, layers, strict=True):
            layer.forward = partial(adapter.forward, name)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
