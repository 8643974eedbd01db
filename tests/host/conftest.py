"""Fixtures for tests that need a real ComfyUI; without one every module here is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostkit import checkout

CHECKOUT = checkout.find_checkout()
if CHECKOUT is not None:
    checkout.enter_checkout(CHECKOUT)


class _SkippedModule(pytest.Module):
    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(checkout.missing_reason(), allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip a module before it is imported: its imports of `comfy` could not work."""
    if CHECKOUT is None:
        return _SkippedModule.from_parent(parent, path=module_path)
    return None
