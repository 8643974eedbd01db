"""Random weights with which a network computes as a trained one does: nothing at zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

StateDict = dict[str, Tensor]


def random_state_dict(shapes: Mapping[str, Tensor], seed: int) -> StateDict:
    """A value for every key of `shapes` (only names and shapes are read), drawn from `seed`.

    Matrices and kernels keep the variance of their input (standard deviation fan_in ** -0.5);
    norm weights lie around one, biases and position tables are small and never zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator)

    weights: StateDict = {}
    for name, tensor in shapes.items():
        if "embedding.weight" in name or name.endswith("pos_embed"):
            weights[name] = 0.5 * draw(tensor.shape)
        elif tensor.ndim >= 2:
            weights[name] = draw(tensor.shape) * tensor[0].numel() ** -0.5
        elif name.endswith(("bias", ".scale")):  # a scale is added to one, a weight is not
            weights[name] = 0.1 * draw(tensor.shape)
        else:
            weights[name] = 1 + 0.1 * draw(tensor.shape)
    return weights
