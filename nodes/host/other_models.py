"""The models beside the one that is trained: text encoders, VAEs, whatever has been at work."""

from __future__ import annotations

import comfy.model_management
from comfy.model_patcher import ModelPatcher


def make_way(patcher: ModelPatcher, needed: float) -> None:
    """Sends other models off the card as far as room is needed; where there is room, they stay.

    The host does so by itself where it loads a model whole. Models it brings page by page it lets
    share the card, and would notice only in the middle of a step.

    Args:
        patcher: the model to be trained; it and its clones are left as they are.
        needed: bytes beside it.
    """
    management, device = comfy.model_management, patcher.load_device
    if management.is_device_cpu(device):
        return
    present = [one for one in management.current_loaded_models if one.model is not None]
    own = [one for one in present if patcher.is_clone(one.model)]
    to_come = patcher.model_size() - sum(one.model_loaded_memory() for one in own)
    wanted = needed + max(0, to_come) + management.extra_reserved_memory()
    if wanted > management.get_free_memory(device):
        management.free_memory(wanted, device, keep_loaded=own)
