"""AdamW over the adapter, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients become changes of the LoRA."""

    learning_rate: float = 5e-5
    """How far one step goes. Adam hides the scale of the loss, so this, not beta, is the
    strength. 5e-5 suits a few hundred steps; above 1e-4 models tend to collapse."""

    schedule: str = "constant"
    """constant, or cosine or linear, which fall to zero at total_steps."""

    warmup_steps: int = 10
    """Steps over which the learning rate rises from zero."""

    total_steps: int = 0
    """Where cosine and linear end, however many runs it takes to get there. 0: no end, constant."""

    weight_decay: float = 0.0
    """Pull of the LoRA's weights towards zero."""

    beta1: float = 0.9
    """Adam's memory of the gradient."""

    beta2: float = 0.999
    """Adam's memory of the gradient's square."""

    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""

    def problems(self) -> list[str]:
        found = []
        if not 0 < self.learning_rate <= 1:
            found.append(f"learning_rate is {self.learning_rate}: use a number like 5e-5.")
        if self.schedule not in ("constant", "cosine", "linear"):
            found.append(f"schedule is {self.schedule!r}: choose constant, cosine or linear.")
        if self.warmup_steps < 0 or self.total_steps < 0:
            found.append("warmup_steps and total_steps must not be negative.")
        if self.weight_decay < 0 or not math.isfinite(self.weight_decay):
            found.append(f"weight_decay is {self.weight_decay}: use 0 or a small number.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            found.append(f"beta1 {self.beta1} and beta2 {self.beta2} must be from 0 to below 1.")
        if not self.max_grad_norm > 0:
            found.append(f"max_grad_norm is {self.max_grad_norm}: use a number above 0.")
        return found


def learning_rate(settings: OptimizerSettings, step: int) -> float:
    """The rate of optimiser step ``step``, counted from 0.

    The schedule's horizon is ``total_steps`` alone, so two runs of 100 equal one of 200.
    """
    warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    if settings.schedule == "constant" or settings.total_steps == 0:
        return settings.learning_rate * warmup
    done = min(1.0, step / settings.total_steps)
    fall = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * warmup * fall


class AdapterOptimizer:
    """AdamW whose whole state can leave and come back as tensors.

    Args:
        parameters: the adapter's parameters by name.
        settings: rates and decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters = dict(parameters)
        self._settings = settings
        self._adamw = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def grad_norm(self, divisor: float) -> Tensor:
        """Divides all gradients, and returns their norm, a scalar on the device."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        torch._foreach_div_(grads, divisor)
        return torch.nn.utils.get_total_norm(grads)

    def step(self, step: int, grad_norm: Tensor) -> None:
        """One update with gradients clipped by their norm."""
        torch.nn.utils.clip_grads_with_norm_(
            list(self._parameters.values()), self._settings.max_grad_norm, grad_norm
        )
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self._settings, step)
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """Moments and counters by parameter name, copied to the CPU; empty before a first step."""
        return {
            f"{name}/{key}": value.detach().to("cpu", copy=True)
            for name, parameter in self._parameters.items()
            for key, value in self._adamw.state.get(parameter, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`state` gave.

        Raises:
            ValueError: if it belongs to another adapter.
        """
        by_name: dict[str, dict[str, Tensor]] = {}
        for full, value in state.items():
            name, key = full.rsplit("/", 1)
            by_name.setdefault(name, {})[key] = value
        if unknown := by_name.keys() - self._parameters.keys():
            raise ValueError(f"Optimiser state of another LoRA: {sorted(unknown)[:5]}.")
        for name, values in by_name.items():
            parameter = self._parameters[name]
            self._adamw.state[parameter] = {
                # AdamW keeps its step counter on the CPU.
                key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                for key, value in values.items()
            }
