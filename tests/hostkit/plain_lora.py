"""Ground truth for gradients: a fully loaded model, autograd, and textbook formulas.

Nothing here is shared with the pack. The LoRA is a forward hook, upstream LoRAs are added to the
weights by hand, the network is called directly, and the target is written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from hostkit.tiny_models import TINY_MODELS, diffusion_state_dict, tiny_patcher
from hostkit.training import objective

Deltas = Mapping[str, Tensor]
PREFIX = "diffusion_model."


def true_model(kind: str, storage: str = "fp32", deltas: Deltas | None = None) -> ModelPatcher:
    """A plainly loaded fp32 model outside inference mode, holding what `storage` rounds to.

    `storage` is fp32, bf16, fp8 or quantised; `deltas` (by parameter name) are added on top.
    """
    patcher = tiny_patcher(kind, inference=False)
    comfy.model_management.load_models_gpu([patcher])
    with torch.no_grad():
        for name, tensor in patcher.model.diffusion_model.state_dict().items():
            tensor.copy_(stored(name, tensor.clone(), storage))
            if deltas and name in deltas:
                tensor.add_(deltas[name])
    return patcher


def stored(name: str, weight: Tensor, storage: str) -> Tensor:
    """What is left of `weight` in the tiny file of this storage."""
    fp8 = torch.float8_e4m3fn
    if storage in ("fp8", "bf16"):
        return weight.to(fp8 if storage == "fp8" else torch.bfloat16).float()
    if storage == "quantised" and "blocks." in name and weight.ndim == 2:
        scale = weight.abs().amax() / torch.finfo(fp8).max
        return (weight / scale).to(fp8).float() * scale
    return weight


def network_input(kind: str, patcher: ModelPatcher, rows: Any) -> tuple[Tensor, Tensor]:
    """The network's answer to the noised rows, and what it should have been."""
    clean = TINY_MODELS[kind].latent_format().process_in(rows.latents)
    sigma = rows.sigma.reshape(-1, 1, 1, 1)
    if kind.startswith("sd15"):
        noisy = clean + sigma * rows.noise
        scaled = noisy / (1 + sigma**2).sqrt()
        time = patcher.get_model_object("model_sampling").timestep(rows.sigma).float()
        signal, noise = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        target = signal * rows.noise - noise * clean if kind == "sd15_v" else rows.noise
    else:
        scaled = (1 - sigma) * clean + sigma * rows.noise
        time = rows.sigma * (1000 if kind == "sd3" else 1)
        target = rows.noise - clean
    return call_network(kind, patcher, scaled, time, rows.conditioning), target


def call_network(
    kind: str, patcher: ModelPatcher, x: Tensor, time: Tensor, conditioning: Any
) -> Tensor:
    """The bare network on rows that have a prompt each."""
    inputs = {"context": torch.cat([entry[0] for entry in conditioning])}
    if not kind.startswith("sd15"):
        inputs["y"] = torch.cat([entry[1]["pooled_output"] for entry in conditioning])
    if kind == "flux_guidance":
        inputs["guidance"] = torch.tensor([entry[1]["guidance"] for entry in conditioning])
    return patcher.model.diffusion_model(x, time, **inputs)


def true_residual(kind: str, patcher: ModelPatcher, rows: Any) -> Tensor:
    """Prediction minus target in the native prediction space."""
    output, target = network_input(kind, patcher, rows)
    return output - target


@contextmanager
def hooked_lora(
    patcher: ModelPatcher, weights: Mapping[str, Tensor], scale: float = 1.0
) -> Iterator[dict[str, Tensor]]:
    """The adapter `weights` (named as the pack names them) as forward hooks; yields parameters."""
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    handles = []
    for name in weights:
        layer_name, kind = name.rsplit(".lora_", 1)
        if kind == "A.weight":
            down, up = parameters[name], parameters[f"{layer_name}.lora_B.weight"]
            layer = patcher.model.get_submodule(layer_name)
            handles.append(layer.register_forward_hook(_adding(down, up, scale)))
    try:
        yield parameters
    finally:
        for handle in handles:
            handle.remove()


def _adding(down: Tensor, up: Tensor, scale: float) -> Any:
    def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + scale * (inputs[0] @ down.t() @ up.t())

    return hook


@contextmanager
def differentiable() -> Iterator[None]:
    """The host's training kernels, and tensors that may change after they were saved."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autograd.graph.allow_mutation_on_saved_tensors(),
        ):
            yield
    finally:
        comfy.model_management.in_training = before


def true_gradients(
    kind: str, patcher: ModelPatcher, weights: Mapping[str, Tensor], rows: Any
) -> dict[str, Tensor]:
    """d objective / d parameter by plain autograd."""
    with differentiable(), hooked_lora(patcher, weights) as parameters:
        loss = objective(true_residual(kind, patcher, rows))
        grads = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, grads, strict=True))


def upstream_lora(
    kind: str, seed: int, rank: int = 2, size: float = 0.3
) -> tuple[dict[str, Tensor], Deltas]:
    """A LoRA file for every other matrix of the network, and what strength 1 adds to each.

    Alpha is twice the rank.
    """
    generator = torch.Generator().manual_seed(seed)
    lora: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    matrices = [
        (name, weight)
        for name, weight in diffusion_state_dict(kind if kind != "sd15_v" else "sd15").items()
        if weight.ndim == 2 and name.endswith(".weight") and "embed" not in name
    ]
    for name, weight in matrices[seed % 2 :: 2]:
        rows, columns = weight.shape
        up = torch.randn(rows, rank, generator=generator) * size
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        layer = PREFIX + name.removesuffix(".weight")
        lora |= {
            f"{layer}.lora_up.weight": up,
            f"{layer}.lora_down.weight": down,
            f"{layer}.alpha": torch.tensor(2.0 * rank),
        }
        deltas[name] = 2.0 * up @ down
    return lora, deltas
