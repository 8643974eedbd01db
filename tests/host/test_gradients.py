"""The adapter's gradients are those of the error, with and without checkpointing."""

from __future__ import annotations

import pytest
import torch
from hostkit.tiny_models import TINY_MODELS, tiny_patcher
from hostkit.training import adapter_gradients, objective, training, training_rows
from torch import Tensor

STEP = 3e-4


def gradients(kind: str, checkpointing: bool) -> dict[str, Tensor]:
    with training(tiny_patcher(kind), checkpointing=checkpointing) as run:
        return adapter_gradients(run, training_rows(kind, run.denoiser))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("kind", TINY_MODELS)
def test_gradient_is_the_derivative_along_directions(kind: str, checkpointing: bool) -> None:
    with training(tiny_patcher(kind), checkpointing=checkpointing) as run:
        rows = training_rows(kind, run.denoiser)
        grads = adapter_gradients(run, rows)
        base = run.adapter.snapshot()

        def value(direction: dict[str, Tensor], step: float) -> float:
            run.adapter.load({name: base[name] + step * direction[name] for name in base})
            with torch.no_grad():
                return objective(run.denoiser.predict(rows).residual).item()

        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            direction = {n: torch.randn(p.shape, generator=generator) for n, p in base.items()}
            # Half the gradient's own direction, half random: the derivative is never near zero.
            size = sum(d.square().sum() for d in direction.values()).sqrt()
            norm = sum(g.square().sum() for g in grads.values()).sqrt()
            direction = {n: d + size / 4 * grads[n] / norm for n, d in direction.items()}
            slope = sum((direction[n] * grads[n]).sum().item() for n in base)
            rise = value(direction, STEP) - value(direction, -STEP)
            assert abs(slope) > norm
            assert slope == pytest.approx(rise / (2 * STEP), rel=2e-3)


@pytest.mark.parametrize("kind", TINY_MODELS)
def test_checkpointing_changes_no_gradient(kind: str) -> None:
    kept, checkpointed = gradients(kind, False), gradients(kind, True)
    for name, gradient in kept.items():
        assert gradient.norm() > 0, name
        assert (checkpointed[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def test_adapter_covers_the_linear_layers_of_every_block() -> None:
    with training(tiny_patcher("sd15")) as run:
        names = run.adapter.names
        assert any("attn1.to_q" in name for name in names)
        assert any("ff.net" in name for name in names)
        assert not any("time_embed" in name or name.endswith("out.2") for name in names)
        for parameter in run.adapter.parameters().values():
            assert parameter.dtype == torch.float32 and not parameter.is_inference()
