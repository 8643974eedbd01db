"""The time during which a model is trained: entered, and left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch

from .injection import TrainedModel


@contextmanager
def training_session(trained: TrainedModel) -> Iterator[None]:
    """Gradients on, the host's training kernels on; afterwards the adapter is gone.

    Whatever happens inside, the host's model has its own forwards and tensors again on exit.
    """
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        # Nodes are executed in inference mode, which this thread leaves for the time being.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.in_training = before
        trained.remove()
        comfy.model_management.soft_empty_cache()
