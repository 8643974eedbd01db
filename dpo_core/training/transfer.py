"""Numbers on their way to the device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

_WAIT = ("mps", "xpu", "privateuseone")
"""Kinds of devices on which a copy that is not waited for is not reliable, or slower."""


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` of any shape on ``device``, in the order of what it was told to do before.

    An ordinary copy waits until the device has done all of that, and the device then waits for
    the next orders.
    """
    if values.device == device:
        return values
    if values.device.type != "cpu":
        return values.to(device)
    if device.type == "cuda":
        # Else the driver waits nevertheless. Torch keeps the pinned copy until it has been read.
        values = values.pin_memory()
    return values.to(device, non_blocking=device.type not in _WAIT)
