"""What judges with weights share: they can be moved between devices."""

from __future__ import annotations

from typing import Any

import torch


class NetworkJudge:
    """A judge that holds a network of torch.

    Args:
        name: as of a judge.
        network: what it computes with; a `torch.nn.Module`.
    """

    def __init__(self, name: str, network: Any) -> None:
        self.name = name
        self._network = network

    @property
    def nbytes(self) -> int:
        """What its weights take on the device they are on."""
        return sum(tensor.nbytes for tensor in self._network.parameters())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self._network.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Moves it; to the CPU to free a card."""
        self._network.to(device)
