"""A model of the host in training, and the bare passes through it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import comfy.model_management
import torch
from hostkit.checkout import load_pack
from hostkit.tiny_models import random_conditioning, random_latents, tiny_patcher
from torch.nn import functional as F

RANK, TOKENS = 16, 77


def pack(module: str) -> ModuleType:
    """A module of the pack, as the host imports it."""
    return importlib.import_module(f"{load_pack().__name__}.{module}")


def random_pairs(kind: str, count: int, size: int, prompts: int | None = None) -> Any:
    """Encoded pairs of random latents, under so many prompts, in turn."""
    dataset, conditioning = pack("dpo_core.training.dataset"), pack("nodes.host.conditioning")
    entries = [
        conditioning.plain_conditioning(random_conditioning(kind, 9 + i, TOKENS)[0])
        for i in range(prompts or count)
    ]
    latents = random_latents(kind, 2 * count, size).clone()
    return dataset.EncodedPairs(tuple(
        dataset.EncodedPair(latents[i], latents[count + i], entries[i % len(entries)], key=str(i))
        for i in range(count)
    ))


class Opened:
    """A model with its adapter, opened for training."""

    def __init__(self, kind: str, trained: Any, denoiser: Any) -> None:
        self.kind, self.denoiser, self.adapter = kind, denoiser, trained.adapter
        self.model = trained.patcher.model
        self._parameters = list(trained.adapter.parameters().values())

    def inputs(self, rows: int, size: int) -> Callable[[Any], torch.Tensor]:
        """A forward pass of so many rows, all that it takes being ready; returns the answer."""
        pairs = random_pairs(self.kind, rows, size)
        latents = torch.stack([pair.chosen for pair in pairs])
        sigma = self.denoiser.sigma(torch.full((rows,), 0.4))
        shape = sigma.reshape(-1, *[1] * (latents.ndim - 1))
        noisy = self.model.model_sampling.noise_scaling(shape, torch.randn_like(latents), latents)
        prompts = self.denoiser._conditioning.rows(
            [pair.conditioning for pair in pairs], latents.shape[1:]
        )
        options = self.denoiser._options(sigma)
        return lambda model: model.apply_model(noisy, sigma, **prompts, transformer_options=options)

    def forward(self, rows: int, size: int) -> Callable[[], None]:
        """The reference's pass."""
        passed = self.inputs(rows, size)

        def run() -> None:
            with torch.no_grad(), self.adapter.reference():
                passed(self.model)

        return run

    def both(self, rows: int, size: int) -> Callable[[], None]:
        """The policy's forward and backward pass."""
        passed = self.inputs(rows, size)

        def run() -> None:
            for parameter in self._parameters:
                parameter.grad = None
            passed(self.model).square().mean().backward()
            for parameter in self._parameters:
                parameter.grad = None

        return run

    def ordinary(self, size: int) -> Callable[[], None]:
        """An ordinary LoRA step: two images, one after the other, and AdamW."""
        passed = self.inputs(1, size)
        optimizer = torch.optim.AdamW(self._parameters, lr=1e-9)

        def run() -> None:
            for _ in range(2):
                passed(self.model).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return run

    def step(self, pairs: Any, **settings: Any) -> Callable[[], object]:
        """Whole training steps, one at each call: noise, passes, loss, update and metrics."""
        run = pack("dpo_core.run")
        # Several trainings take turns at one adapter: none may move it far.
        optimizer = pack("dpo_core.training.optimizer").OptimizerSettings(1e-9)
        settings = {"grad_accumulation_steps": 1, "optimizer": optimizer} | settings
        cache = pack("dpo_core.training.reference_cache").ReferenceCache(1e-4)
        begun = run.TrainState(1, self.adapter.snapshot(), {})
        reports = run.train(
            self.denoiser, self.adapter, pairs, run.TrainSettings(**settings), 10**6, begun, cache
        )
        return lambda: next(reports)


@contextmanager
def opened(
    kind: str,
    *,
    checkpointing: bool = False,
    rank: int = RANK,
    targets: str = "all_linear",
    patcher: Any = None,
) -> Iterator[Opened]:
    """A model of the host's loader with the pack's adapter, frozen layers and all."""
    settings = pack("dpo_core.training.adapter").AdapterSettings(
        rank, float(rank), targets=targets
    )
    with torch.inference_mode(False):
        trained = pack("nodes.host.injection").TrainedModel(
            patcher or tiny_patcher(kind), settings, 0, None, checkpointing
        )
    with pack("nodes.host.session").training_session(trained):
        denoiser = pack("nodes.host.denoiser").HostDenoiser(trained.patcher)
        denoiser.load()
        yield Opened(kind, trained, denoiser)


class PlainModel:
    """The same model and LoRA by ordinary autograd: all weights resident in fp32, and saved.

    What no trainer of a paged or quantised model can have, and so the limit for all.
    """

    def __init__(self, opened: Opened) -> None:
        patcher = tiny_patcher(opened.kind, inference=False)
        comfy.model_management.load_models_gpu([patcher])
        opened.denoiser.load()
        self._patcher, self.model, self._on = patcher, patcher.model, True
        self.model.requires_grad_(False)
        self._parameters: list[torch.nn.Parameter] = []
        live = opened.adapter.parameters()
        for name, layer in self.model.diffusion_model.named_modules():
            full = f"diffusion_model.{name}"
            if full in opened.adapter.names:
                pair = [torch.nn.Parameter(live[f"{full}.lora_{part}.weight"].detach().clone())
                        for part in "AB"]
                self._parameters += pair
                layer.forward = self._with_lora(layer.forward, *pair)
        # Flux adds to its stream in place, which ordinary autograd takes only so.
        keeps = torch.autograd.graph.allow_mutation_on_saved_tensors
        self._kept = keeps if opened.kind.startswith("flux") else nullcontext

    def _with_lora(self, frozen: Any, down: torch.Tensor, up: torch.Tensor) -> Any:
        def forward(x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = frozen(x)
            return y + F.linear(F.linear(x, down), up) if self._on else y

        return forward

    def passes(self, opened: Opened, rows: int, size: int) -> Callable[[], None]:
        """The reference's forward pass, and the policy's forward and backward pass."""
        passed = opened.inputs(rows, size)

        def run() -> None:
            for parameter in self._parameters:
                parameter.grad = None
            self._on = False
            with torch.no_grad():
                passed(self.model)
            self._on = True
            with ExitStack() as stack:
                stack.enter_context(self._kept())
                passed(self.model).square().mean().backward()

        return run
