"""A step on the host's model waits for the device once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hostkit.tiny_models import tiny_patcher
from hostkit.training import pack_module, random_pairs, train_settings
from toykit import far_device
from toykit.far_device import Waits, move_there

pytestmark = pytest.mark.skipif(not far_device.possible, reason=far_device.REASON)


def waits(kind: str, checkpointing: bool, **settings: Any) -> list[list[str]]:
    """Where each of two steps waited. The model is loaded on the CPU, and then moved."""
    patcher, far = tiny_patcher(kind), far_device.far_device()
    near, found = patcher.load_device, []
    shape = pack_module("dpo_core.training.adapter").AdapterSettings(4, 4.0)
    with torch.inference_mode(False), Waits() as counted:
        patcher.load_device = far
        trained = pack_module("nodes.host.injection").TrainedModel(
            patcher, shape, 0, None, checkpointing
        )
        trained.patcher.load_device = near
        with pack_module("nodes.host.session").training_session(trained):
            pack_module("nodes.host.denoiser").HostDenoiser(trained.patcher).load()
            move_there(trained.patcher.model)
            trained.patcher.load_device = far
            denoiser = pack_module("nodes.host.denoiser").HostDenoiser(trained.patcher)
            trained.patcher.load_device = near
            options = train_settings(batch_size=2, **settings)
            train = pack_module("dpo_core.run").train
            counted.places.clear()
            for _ in train(denoiser, trained.adapter, random_pairs(kind, 4), options, 2):
                found.append(list(counted.places))
                counted.places.clear()
    return found


@pytest.mark.parametrize("kind", ["sd15", "flux_guidance"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_a_step_waits_once(kind: str, checkpointing: bool) -> None:
    mode = "sequential" if checkpointing else "full_concurrent"
    for places in waits(kind, checkpointing, execution_mode=mode):
        assert len(places) == 1 and "step_metrics" in places[0], "\n".join(places)
