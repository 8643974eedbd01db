"""The model as a trainer's LoRA has made it by now, to be sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy.model_patcher import ModelPatcher

from ..injection import TrainedModel
from ..sampling import sampling
from ..trainer import Trainer


@contextmanager
def policy_model(trainer: Trainer) -> Iterator[ModelPatcher]:
    """Inside, samplers of the host get the policy; what they draw does not touch the training.

    The LoRA is applied as in training, beside the weights, so that nothing of the model is changed
    and what is drawn is the very policy that learns from it.

    Raises:
        TrainingError: the trainer's checkpoint is gone or damaged.
    """
    state, existing = trainer.state(), trainer.origin.existing
    device = trainer.patcher.load_device
    if state is None and existing is None:  # a new LoRA does nothing yet
        with sampling(device):
            yield trainer.patcher
        return
    with torch.inference_mode(False):
        trained = TrainedModel(
            trainer.patcher,
            trainer.adapter,
            trainer.settings.seed,
            None if existing is None else dict(existing),
            gradient_checkpointing=False,
        )
        if state is not None:
            # Not the best so far, if that is to be saved: what goes on learning is the last.
            trained.adapter.load(state.latest)
    try:
        with sampling(device):
            yield trained.patcher
    finally:
        trained.remove()
