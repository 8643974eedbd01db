"""A running mean of the adapter, which is calmer than its last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AdapterAverage:
    """Exponential moving average of parameters, on their device.

    Args:
        parameters: the adapter's parameters by name.
        decay: share of the mean kept at every step, 0 to below 1. At first it is lower,
            ``(1 + step) / (10 + step)``, or the LoRA's initial values would stay in for long.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._mean = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the parameters in after optimiser step ``step``, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        live = [self._parameters[name].detach() for name in self._mean]
        torch._foreach_lerp_(list(self._mean.values()), live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters are the mean: a pointer swap."""
        live = {name: parameter.data for name, parameter in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self._mean[name]
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = live[name]

    def state(self) -> dict[str, Tensor]:
        """The mean, copied to the CPU."""
        return {name: mean.to("cpu", copy=True) for name, mean in self._mean.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`state` gave."""
        for name, mean in self._mean.items():
            mean.copy_(state[name])
