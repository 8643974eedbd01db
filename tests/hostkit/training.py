"""Opens the pack's training of a host model, and makes inputs for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from hostkit.checkout import load_pack
from hostkit.tiny_models import random_conditioning, random_latents

GUIDANCE = {"flux_guidance": 2.0}
PERCENTS = (0.3, 0.7)


def pack_module(name: str) -> ModuleType:
    """A module of the pack, such as `nodes.host.injection`, as the host imports it."""
    return importlib.import_module(f"{load_pack().__name__}.{name}")


class Training(NamedTuple):
    """A model being trained: `trained` of `nodes.host.injection`, `denoiser` of `.denoiser`."""

    trained: Any
    denoiser: Any

    @property
    def adapter(self) -> Any:
        return self.trained.adapter


def random_adapter(adapter: Any, seed: int = 0, size: float = 0.05) -> dict[str, Tensor]:
    """A value for every parameter of `adapter`, the same for the same names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: size * torch.randn(parameter.shape, generator=generator)
        for name, parameter in sorted(adapter.parameters().items())
    }


@contextmanager
def training(
    patcher: ModelPatcher,
    *,
    rank: int = 4,
    alpha: float = 4.0,
    existing: Any = None,
    checkpointing: bool = True,
    filled: bool = True,
    **shape: Any,
) -> Iterator[Training]:
    """A training session on `patcher`; `filled` gives the adapter random weights.

    `shape` is what else AdapterSettings takes, such as the kind.
    """
    settings = pack_module("dpo_core.training.adapter").AdapterSettings(rank, alpha, **shape)
    injection, session = pack_module("nodes.host.injection"), pack_module("nodes.host.session")
    with torch.inference_mode(False):
        trained = injection.TrainedModel(patcher, settings, 0, existing, checkpointing)
        if filled:
            trained.adapter.load(random_adapter(trained.adapter))
    with session.training_session(trained):
        yield Training(trained, pack_module("nodes.host.denoiser").HostDenoiser(trained.patcher))


def prompt(kind: str, seed: int, tokens: int = 7) -> list[Any]:
    """One CONDITIONING entry without inference tensors."""
    entry = random_conditioning(kind, seed, tokens, guidance=GUIDANCE.get(kind))[0]
    return pack_module("nodes.host.conditioning").plain_conditioning(entry)


def training_rows(
    kind: str,
    denoiser: Any,
    seed: int = 0,
    size: int | tuple[int, int] | None = None,
    percents: tuple[float, ...] = PERCENTS,
    tokens: int = 7,
) -> Any:
    """Rows with a prompt, a sigma and a noise of their own each, as many as `percents`."""
    count = len(percents)
    latents = random_latents(kind, count, size, seed).clone()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed + 100))
    return pack_module("dpo_core.training.denoiser").Rows(
        latents,
        tuple(prompt(kind, seed + i + 1, tokens) for i in range(count)),
        denoiser.sigma(torch.tensor(percents, dtype=torch.float64)),
        noise,
    )


def direction_like(residual: Tensor, seed: int = 50) -> Tensor:
    """A fixed direction of length one per row: what the tests differentiate along."""
    direction = torch.randn(residual.shape, generator=torch.Generator().manual_seed(seed))
    return direction / residual[0].numel() ** 0.5


def objective(residual: Tensor) -> Tensor:
    """A scalar whose gradient is neither tiny nor zero at any weights, in fp64."""
    return (residual.double() * direction_like(residual)).sum()


def adapter_gradients(
    run: Training, rows: Any, between: Callable[[], object] = lambda: None
) -> dict[str, Tensor]:
    """d objective / d parameter by name; `between` is called between forward and backward."""
    for parameter in run.adapter.parameters().values():
        parameter.grad = None
    loss = objective(run.denoiser.predict(rows).residual)
    between()
    loss.backward()
    return {name: p.grad.clone() for name, p in run.adapter.parameters().items()}


def compare(found: dict[str, Tensor], truth: dict[str, Tensor]) -> tuple[float, float]:
    """Largest relative error of a parameter's gradient (by norm), and the cosine of the whole."""
    assert found.keys() == truth.keys()
    worst = max(
        ((found[name] - truth[name]).norm() / truth[name].norm()).item() for name in truth
    )
    flat = [torch.cat([g[name].flatten().double() for name in truth]) for g in (found, truth)]
    return worst, torch.nn.functional.cosine_similarity(*flat, dim=0).item()


def random_pairs(
    kind: str, count: int = 2, tokens: tuple[int, ...] = (7,), size: int | None = None
) -> Any:
    """`count` pairs of random latents, their prompts of these token lengths in turn."""
    dataset = pack_module("dpo_core.training.dataset")
    pairs = []
    for i in range(count):
        seeds = (2 * i, 2 * i + 1)
        chosen, rejected = (random_latents(kind, 1, size, seed=s)[0].clone() for s in seeds)
        entry = prompt(kind, 10 + i, tokens[i % len(tokens)])
        pairs.append(dataset.EncodedPair(chosen, rejected, entry, key=f"pair {i}"))
    return dataset.EncodedPairs(tuple(pairs))


def train_settings(**options: Any) -> Any:
    """Settings of a run whose steps are large enough to see: rate 1e-3 without warm-up."""
    optimizer = pack_module("dpo_core.training.optimizer").OptimizerSettings(1e-3, warmup_steps=0)
    options = {"optimizer": optimizer, "grad_accumulation_steps": 2} | options
    return pack_module("dpo_core.run").TrainSettings(**options)


def trainer_on(
    patcher: ModelPatcher, pairs: Any, checkpointing: bool, rank: int, **how: Any
) -> Any:
    """A trainer as DPOTrainer makes it, with :func:`train_settings`."""
    shape = pack_module("dpo_core.training.adapter").AdapterSettings(rank, float(rank))
    return pack_module("nodes.host.trainer").build_trainer(
        patcher, pairs, train_settings(**how), shape, checkpointing,
        pack_module("nodes.host.lineage").Origin(), replace(pairs, pairs=()),
    )


def steps(run: Training, dataset: Any, count: int, **options: Any) -> Iterator[Any]:
    """`dpo_core.run.train` on an opened training."""
    train = pack_module("dpo_core.run").train
    yield from train(run.denoiser, run.adapter, dataset, train_settings(**options), count)
