"""For programs that tests start beside their own: loads the host and the pack once."""

from __future__ import annotations

from hostkit import checkout

FOUND = checkout.find_checkout()
if FOUND is not None:
    checkout.enter_checkout(FOUND)

from hostkit.faults import train_in_child  # noqa: E402
from hostkit.training import pack_module  # noqa: E402

pack_module("nodes.host.training")

__all__ = ["train_in_child"]
