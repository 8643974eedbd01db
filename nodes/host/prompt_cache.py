"""What some models keep of a prompt between calls, which a change of weights makes wrong."""

from __future__ import annotations

from torch import nn


def forget_prompts(model: nn.Module) -> None:
    """Drops the keys and values of prompts that HiDream-O1 keeps for the next sampling step.

    They are of the weights they were computed with: the reference's for the policy, or last
    step's with last step's graph.
    """
    forget = getattr(model, "clear_kv_cache", None)
    if forget is not None:
        forget()
