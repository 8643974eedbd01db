"""The optimiser over the adapter, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

SCHEDULES = ("constant", "cosine", "linear")
PACKAGES = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt"}
"""What an algorithm needs besides torch."""
STATE_COPIES = {"adamw": 2, "adamw_8bit": 1, "adafactor": 0, "prodigy": 4}
"""How many times the parameters' room an algorithm's memory takes, rounded up."""

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

    algorithm: str = "adamw"
    """adamw: the usual one. adamw_8bit: the same with a quarter of the memory, needs bitsandbytes.
    adafactor: next to no memory. prodigy: finds the learning rate by itself, set that to 1; needs
    prodigyopt."""

    ema: float = 0.0
    """Above 0 the LoRA you get is a running mean over the last steps, which is calmer; 0.99 is
    about the last hundred. 0: the last step as it is."""

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = []
        package = PACKAGES.get(self.algorithm)
        if self.algorithm not in ALGORITHMS:
            found.append(f"optimizer is {self.algorithm!r}: choose {', '.join(ALGORITHMS)}.")
        elif package is not None and find_spec(package) is None:
            found.append(
                f"optimizer {self.algorithm} needs the package {package}, which is not installed: "
                f"install it into the Python that runs this, or choose adamw."
            )
        elif self.algorithm == "prodigy" and self.learning_rate < 0.1:
            found.append(
                f"learning_rate is {self.learning_rate}, but prodigy finds the rate by itself and "
                "multiplies it with this: use 1."
            )
        if not 0 < self.learning_rate <= 1:
            found.append(f"learning_rate is {self.learning_rate}: use a number like 5e-5.")
        if self.schedule not in SCHEDULES:
            found.append(f"schedule is {self.schedule!r}: choose {', '.join(SCHEDULES)}.")
        if self.warmup_steps < 0 or self.total_steps < 0:
            found.append("warmup_steps and total_steps must not be negative.")
        if self.weight_decay < 0 or not math.isfinite(self.weight_decay):
            found.append(f"weight_decay is {self.weight_decay}: use 0 or a small number.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            found.append(f"beta1 {self.beta1} and beta2 {self.beta2} must be from 0 to below 1.")
        if not 0 <= self.ema < 1:
            found.append(f"ema is {self.ema}: use 0, or a number below 1 such as 0.99.")
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


def _adamw(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, **_adam(settings))


def _adamw_8bit(
    parameters: list[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Dettmers et al. 2021 (arXiv:2110.02861)."""
    from bitsandbytes import optim

    algorithms: Any = optim  # it does not say what it exports
    made: torch.optim.Optimizer = algorithms.AdamW8bit(parameters, **_adam(settings))
    return made


def _adafactor(
    parameters: list[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Shazeer & Stern 2018 (arXiv:1804.04235)."""
    return torch.optim.Adafactor(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def _prodigy(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Mishchenko & Defazio 2023 (arXiv:2306.06101); with the two settings its authors advise."""
    from prodigyopt import Prodigy

    made: torch.optim.Optimizer = Prodigy(
        parameters, **_adam(settings), use_bias_correction=True,
        safeguard_warmup=settings.warmup_steps > 0,
    )  # fmt: skip
    return made


def _adam(settings: OptimizerSettings) -> dict[str, Any]:
    return {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
    }


ALGORITHMS: dict[
    str, Callable[[list[nn.Parameter], OptimizerSettings], torch.optim.Optimizer]
] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
    "prodigy": _prodigy,
}


class AdapterOptimizer:
    """An optimiser whose whole state can leave and come back as tensors.

    Args:
        parameters: the adapter's parameters by name.
        settings: algorithm, rates and decay.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters = dict(parameters)
        self._settings = settings
        self._optimizer = ALGORITHMS[settings.algorithm](list(self._parameters.values()), settings)

    def zero_grad(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def grad_norm(self, divisor: float) -> Tensor:
        """Divides all gradients, and returns their norm, a scalar on the device."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        torch._foreach_div_(grads, divisor)
        return torch.nn.utils.get_total_norm(grads)

    def reserve(self) -> None:
        """Takes the room that an update works in, and gives it back: the allocator then has it.

        An update that ran out of memory half-way would leave parameters of no step.

        Raises:
            torch.OutOfMemoryError: there is none. Nothing has changed.
        """
        for device in {p.device for p in self._parameters.values()} - {torch.device("cpu")}:
            here = [p for p in self._parameters.values() if p.device == device]
            first = 0 if self._optimizer.state else STATE_COPIES.get(self._settings.algorithm, 2)
            torch.empty((1 + first) * sum(p.nbytes for p in here), dtype=torch.uint8, device=device)

    def step(self, step: int, grad_norm: Tensor) -> None:
        """One update with gradients clipped by their norm."""
        torch.nn.utils.clip_grads_with_norm_(
            list(self._parameters.values()), self._settings.max_grad_norm, grad_norm
        )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._settings, step)
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Everything it remembers, copied to the CPU; empty before a first step.

        By ``<parameter>/<name>``, and ``group/<name>`` for what all parameters share. Python
        numbers are float64 scalars, their names ending in ``:int`` or ``:float``.
        """
        if not self._optimizer.state:
            return {}
        found: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                found |= _packed(f"{name}/{key}", value)
        (group,) = self._optimizer.param_groups
        defaults = self._optimizer.defaults
        for key, value in group.items():
            if key != "lr" and (key not in defaults or value != defaults[key]):
                found |= _packed(f"group/{key}", value)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`state` gave.

        Raises:
            ValueError: if it belongs to another adapter.
        """
        by_name: dict[str, dict[str, Any]] = {}
        for full, value in state.items():
            name, key = full.rsplit("/", 1)
            key, _, kind = key.partition(":")
            by_name.setdefault(name, {})[key] = _KINDS[kind](value.item()) if kind else value
        self._optimizer.param_groups[0].update(by_name.pop("group", {}))
        if unknown := by_name.keys() - self._parameters.keys():
            raise ValueError(f"Optimiser state of another LoRA: {sorted(unknown)[:5]}.")
        for name, values in by_name.items():
            parameter = self._parameters[name]
            self._optimizer.state[parameter] = {
                key: _copied(key, value, parameter) for key, value in values.items()
            }


_KINDS: dict[str, type] = {"int": int, "float": float}


def _packed(name: str, value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value.detach().to("cpu", copy=True)}
    if type(value) in _KINDS.values():
        return {f"{name}:{type(value).__name__}": torch.tensor(value, dtype=torch.float64)}
    return {}


def _copied(key: str, value: Any, parameter: nn.Parameter) -> Any:
    if not isinstance(value, Tensor):
        return value
    # torch's optimisers keep their step counter on the CPU.
    return value.clone() if key == "step" else value.to(parameter.device, copy=True)
