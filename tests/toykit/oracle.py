"""DPO on the toy model written out with merged weights and plain autograd.

Shares no line with `dpo_core`: no PEFT, no passes, no objectives. Everything is fp64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

Lora = Mapping[str, tuple[Tensor, Tensor, float]]
"""Layer -> (down, up, alpha / rank)."""


@dataclass(frozen=True)
class Side:
    """One image of a pair: latent (C, H, W), prompt (P,), sigma (), noise (C, H, W)."""

    latent: Tensor
    prompt: Tensor
    sigma: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Answer:
    """Per pair (B,) tensors, and the gradient of the mean loss by each down and up matrix."""

    loss: Tensor
    preference: Tensor
    errors: dict[str, Tensor]
    change: Tensor
    power: Tensor
    gradients: dict[str, Tensor]


def velocity(layers: Mapping[str, tuple[Tensor, Tensor]], lora: Lora, side: Side) -> Tensor:
    """The model's answer for one image, with the LoRA merged into its weights."""

    def weight(name: str) -> Tensor:
        base = layers[name][0].double()
        if name not in lora:
            return base
        down, up, scale = lora[name]
        return base + scale * (up.flatten(1) @ down.flatten(1)).reshape(base.shape)

    def bias(name: str) -> Tensor:
        return layers[name][1].double()

    s = side.sigma.double()
    x = (1 - s) * side.latent.double() + s * side.noise.double()
    hidden = conv2d(x[None], weight("blocks.0.enter"), bias("blocks.0.enter"), padding=1)[0]
    prompt = weight("blocks.0.prompt") @ side.prompt.double() + bias("blocks.0.prompt")
    hidden = hidden + prompt[:, None, None] + s
    hidden = hidden / (1 + torch.exp(-hidden))
    return conv2d(hidden[None], weight("blocks.1.leave"), bias("blocks.1.leave"), padding=1)[0]


def dpo(
    layers: Mapping[str, tuple[Tensor, Tensor]],
    policy: Lora,
    reference: Lora,
    pairs: Sequence[tuple[Side, Side]],
    beta: float,
    wrong: Sequence[float],
    supervised_mix: float,
) -> Answer:
    """Loss and gradients of (chosen, rejected) pairs.

    Args:
        layers: name -> (weight, bias) of the frozen model.
        policy: the LoRA being trained.
        reference: the LoRA it is compared with; empty for the bare model.
        pairs: one after the other, never batched.
        beta: factor on the margin.
        wrong: probability that each pair's label is wrong.
        supervised_mix: weight of the chosen image's error.
    """
    leaves = {
        name: (down.detach().double().requires_grad_(), up.detach().double().requires_grad_(), s)
        for name, (down, up, s) in policy.items()
    }
    columns: dict[str, list[Tensor]] = {
        key: [] for key in
        ("chosen", "rejected", "reference_chosen", "reference_rejected", "change", "power",
         "loss", "preference")
    }
    for (chosen, rejected), eps in zip(pairs, wrong, strict=True):
        error = {}
        change = power = torch.zeros((), dtype=torch.float64)
        for kind, side in (("chosen", chosen), ("rejected", rejected)):
            target = side.noise.double() - side.latent.double()
            ours, theirs = velocity(layers, leaves, side), velocity(layers, reference, side)
            error[kind] = ((ours - target) ** 2).mean()
            error[f"reference_{kind}"] = ((theirs - target) ** 2).mean()
            change = change + ((ours - theirs) ** 2).mean() / 2
            power = power + (theirs**2).mean() / 2
        margin = (error["reference_chosen"] - error["chosen"]) - (
            error["reference_rejected"] - error["rejected"]
        )
        right = 1 / (1 + torch.exp(-beta * margin))
        preference = -(1 - eps) * torch.log(right) - eps * torch.log(1 - right)
        for key, value in error.items():
            columns[key].append(value)
        columns["change"].append(change)
        columns["power"].append(power)
        columns["preference"].append(preference)
        columns["loss"].append(preference + supervised_mix * error["chosen"])
    stacked = {key: torch.stack(values) for key, values in columns.items()}
    names = [f"{name}.{part}.weight" for name in leaves for part in ("lora_A", "lora_B")]
    inputs = [tensor for down, up, _ in leaves.values() for tensor in (down, up)]
    gradients = torch.autograd.grad(stacked["loss"].mean(), inputs)
    detached = {key: value.detach() for key, value in stacked.items()}
    return Answer(
        detached["loss"],
        detached["preference"],
        {k: detached[k] for k in
         ("chosen", "rejected", "reference_chosen", "reference_rejected")},
        detached["change"],
        detached["power"],
        dict(zip(names, gradients, strict=True)),
    )
