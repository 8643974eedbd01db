"""Conditioning that brings pictures along: references of edit models, the prior of a cascade."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.checkout import load_pack
from hostkit.tiny_models import (
    as_latent,
    denoise,
    random_conditioning,
    random_latents,
    tiny_patcher,
)
from hostkit.training import PERCENTS, Training, pack_module, steps, training
from torch import Tensor

dataset_node: Any = importlib.import_module(f"{load_pack().__name__}.nodes.dataset")
REFERENCE_SIZES = ((4, 4), (6, 4))
PRIOR_SIZES = ((2, 2), (3, 2))


def with_references(kind: str, seed: int) -> Any:
    """A prompt with a picture to edit, larger for every second seed."""
    ((context, options),) = random_conditioning(kind, seed)
    reference = random_latents(kind, 1, REFERENCE_SIZES[seed % 2], seed + 50)
    return [[context, options | {"reference_latents": [reference]}]]


def with_prior(kind: str, seed: int) -> Any:
    """A prompt with what stage C made of it, larger for every second seed."""
    ((context, options),) = random_conditioning(kind, seed)
    with torch.inference_mode():
        prior = torch.randn(1, 16, *PRIOR_SIZES[seed % 2])
    return [[context, options | {"stable_cascade_prior": prior}]]


def through_the_node(kind: str, conditions: list[Any]) -> Any:
    sides = [
        [as_latent(random_latents(kind, 1, 4 * (1 + 3 * (kind == "cascade_b")), seed=seed))
         for seed in range(first, 2 * len(conditions), 2)]
        for first in (0, 1)
    ]  # fmt: skip
    return dataset_node.DatasetFromLatents.execute(*sides, conditions).result[0]


def residual(run: Training, dataset: Any, indices: list[int]) -> Tensor:
    """Of the chosen images, in one batch."""
    sigma = run.denoiser.sigma(torch.tensor(PERCENTS, dtype=torch.float64))
    chosen = torch.stack([dataset[i].chosen for i in indices])
    noise = torch.randn(chosen.shape, generator=torch.Generator().manual_seed(1))
    prompts = tuple(dataset[i].conditioning for i in indices)
    rows = pack_module("dpo_core.training.denoiser").Rows(chosen, prompts, sigma, noise)
    return run.denoiser.predict(rows).residual


def denoised_by_the_host(patcher: ModelPatcher, dataset: Any, indices: list[int]) -> Tensor:
    """The same as a sampler denoises, one by one: the residual of a flow is (x0 - x) / sigma."""
    found = []
    generator = torch.Generator().manual_seed(1)
    noises = torch.randn(len(indices), *dataset[0].chosen.shape, generator=generator)
    sampling = patcher.get_model_object("model_sampling")
    for i, percent, noise in zip(indices, PERCENTS, noises, strict=True):
        sigma = float(sampling.percent_to_sigma(percent))
        clean = patcher.model.process_latent_in(dataset[i].chosen[None])
        noisy = (1 - sigma) * clean + sigma * noise
        picture = patcher.model.process_latent_out(noisy)
        answer = denoise(patcher, picture, [dataset[i].conditioning], sigma)
        found.append((patcher.model.process_latent_in(answer) - clean) / -sigma)
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["flux2", "qwen_image"])
def test_references_reach_the_model_and_are_grouped_by_size(kind: str) -> None:
    dataset = through_the_node(kind, [with_references(kind, seed) for seed in range(4)])
    bare = through_the_node(kind, [random_conditioning(kind, seed) for seed in range(4)])
    patcher = tiny_patcher(kind)
    buckets = pack_module("dpo_core.training.dataset").buckets
    with training(patcher, filled=False) as run:
        dataset = pack_module("nodes.host.encoding").model_shaped(
            dataset, patcher.model.latent_format, kind
        )
        bare = pack_module("nodes.host.encoding").model_shaped(
            bare, patcher.model.latent_format, kind
        )
        groups = buckets(dataset.records, run.denoiser)
        assert groups == [[0, 2], [1, 3]]
        with torch.no_grad():
            found = [residual(run, dataset, group) for group in groups]
            without = residual(run, bare, groups[0])
        reports = list(steps(run, dataset, 2, batch_size=2))
        assert all(torch.isfinite(torch.tensor(one.metrics["loss/dpo"])) for one in reports)
    for one, group in zip(found, groups, strict=True):
        expected = denoised_by_the_host(patcher, dataset, group)
        assert (one - expected).norm() / expected.norm() < 1e-5
    assert (found[0] - without).norm() / without.norm() > 1e-4


def test_the_prior_of_a_cascade_reaches_its_second_stage() -> None:
    kind = "cascade_b"
    dataset = through_the_node(kind, [with_prior(kind, seed) for seed in range(4)])
    bare = through_the_node(kind, [random_conditioning(kind, seed) for seed in range(4)])
    assert dataset.digest != bare.digest
    buckets = pack_module("dpo_core.training.dataset").buckets
    with training(tiny_patcher(kind), filled=False) as run, torch.no_grad():
        assert buckets(dataset.records, run.denoiser) == [[0, 2], [1, 3]]
        found, without = (residual(run, one, [0, 2]) for one in (dataset, bare))
    assert (found - without).norm() / without.norm() > 1e-4


def test_equal_prompts_of_several_pairs_are_kept_once() -> None:
    dataset = through_the_node("sd15", [random_conditioning("sd15", seed) for seed in (0, 1, 0)])
    first, other, again = (one.conditioning for one in dataset.records)
    assert first is again and first is not other
    assert first[0].shape == other[0].shape and not torch.equal(first[0], other[0])
