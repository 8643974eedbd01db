"""A step waits for the device once: to read what it made, all at once and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toykit import far_device, flow
from toykit.far_device import FarTensor, Waits, move_there
from toykit.flow import ToyFlow, toy_adapter
from toykit.pairs import toy_pairs

from dpo_core.run import TrainSettings, train
from dpo_core.training.denoiser import Prediction, Rows
from dpo_core.training.four_passes import SCHEDULES
from dpo_core.training.noise import NoiseSettings
from dpo_core.training.objectives import Objective
from dpo_core.training.optimizer import OptimizerSettings
from dpo_core.training.reference_cache import ReferenceCache
from dpo_core.training.transfer import sent

pytestmark = pytest.mark.skipif(not far_device.possible, reason=far_device.REASON)


class FarFlow(ToyFlow):
    """The toy model on the far device."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.layers.values():
            move_there(layer)

    def predict(self, rows: Rows) -> Prediction:
        def there(values: Tensor) -> Tensor:
            return sent(values, far_device.far_device())

        prompts = tuple(there(prompt) for prompt in rows.conditioning)
        return super().predict(
            Rows(there(rows.latents), prompts, there(rows.sigma), there(rows.noise))
        )


class AskingFlow(FarFlow):
    """One that looks at a value in every call."""

    def predict(self, rows: Rows) -> Prediction:
        prediction = super().predict(rows)
        assert prediction.power.sum() > 0
        return prediction


def waits(
    monkeypatch: pytest.MonkeyPatch,
    steps: int = 2,
    model: type[ToyFlow] = FarFlow,
    cache: ReferenceCache | None = None,
    dropout: float = 0.0,
    **settings: Any,
) -> list[list[str]]:
    """Where each step waited, two micro-batches of two pairs in each."""
    monkeypatch.setattr(flow, "CPU", far_device.far_device())
    found = []
    with Waits() as counted:
        far = model()
        adapter = toy_adapter(far, dropout=dropout)
        chosen = replace(TrainSettings(batch_size=2, grad_accumulation_steps=2), **settings)
        counted.places.clear()  # PEFT's, when a LoRA is made
        reports = train(far, adapter, toy_pairs(4), chosen, steps, cache=cache)
        for report in reports:
            assert not report.skipped
            found.append(list(counted.places))
            counted.places.clear()
    return found


@pytest.mark.parametrize("mode", SCHEDULES)
def test_a_step_waits_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for places in waits(monkeypatch, execution_mode=mode):
        assert len(places) == 1 and "step_metrics" in places[0], "\n".join(places)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": Objective(safeguard=0.5, supervised_mix=0.1, label_smoothing=0.1)},
        {"objective": Objective("davidson", also=Objective("dpop"))},
        {"objective": Objective("kto")},
        {"objective": Objective("orpo")},
        {"noise": NoiseSettings("stratified", draws_per_pair=2), "shared_noise": False},
        {"optimizer": OptimizerSettings(ema=0.9), "dropout": 0.5},
    ],
    ids=["pairs", "ties", "images", "no reference", "draws", "mean and dropout"],
)
def test_no_setting_adds_a_wait(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for places in waits(monkeypatch, **settings):
        assert len(places) == 1, "\n".join(places)


def test_reference_errors_are_read_together_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two visits of four pairs, each one step: then both draws of every pair are known.
    noise = NoiseSettings(cached_draws=2)
    found = waits(monkeypatch, steps=4, noise=noise, cache=ReferenceCache(1e-4))
    assert [len(places) for places in found] == [2, 2, 1, 1]


def test_a_look_at_a_value_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Reference and policy, two batches.
    (places,) = waits(monkeypatch, 1, AskingFlow, execution_mode="full_concurrent")
    assert len(places) == 1 + 4


LOOKS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda values: values[0].item(),
    "bool": lambda values: bool(values.sum() > 0),
    "float": lambda values: float(values.sum()),
    "tolist": lambda values: values.tolist(),
    "cpu": lambda values: values.cpu(),
    "nonzero": lambda values: values.nonzero(),
    "mask": lambda values: values[values > 1],
    "equal": lambda values: torch.equal(values, values),
    "a copy that blocks": lambda values: torch.ones(2).to(values.device),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=list(LOOKS))
def test_the_device_counts_every_look(look: Callable[[Tensor], object]) -> None:
    with Waits() as counted:
        values = sent(torch.arange(3.0), far_device.far_device())
        assert isinstance(values * 2, FarTensor) and len(counted) == 0
        look(values)
        assert len(counted) == 1
