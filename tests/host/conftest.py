"""Fixtures for tests that need a real ComfyUI; without one every module here is skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostkit import checkout

if TYPE_CHECKING:
    from hostkit.server import ComfyServer

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


@pytest.fixture(scope="session")
def sd15_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a whole tiny SD 1.5 checkpoint."""
    from hostkit.tiny_models import write_sd15_checkpoint

    return write_sd15_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def comfy_server(
    sd15_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack and `sd15_checkpoint.name` in models/checkpoints.

    The nodes of `hostkit/node_pack` are there, too.
    """
    server = _server(tmp_path_factory.mktemp("comfyui"), "comfyui-dpo.test-1")
    link = server.base_dir / "models" / "checkpoints" / sd15_checkpoint.name
    link.symlink_to(sd15_checkpoint)
    with server:
        yield server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """As `comfy_server`, without a model: for several users, and others can reach it."""
    arguments = ("--multi-user", "--listen", "0.0.0.0")
    with _server(tmp_path_factory.mktemp("shared"), "comfyui-dpo-shared", *arguments) as server:
        yield server


def _server(folder: Path, pack: str, *arguments: str) -> ComfyServer:
    """A ComfyUI, not started, with the pack and the nodes of `hostkit/node_pack`."""
    from hostkit.server import ComfyServer

    assert CHECKOUT is not None
    server = ComfyServer(CHECKOUT, folder, pack, arguments)
    nodes = Path(__file__).parents[1] / "hostkit" / "node_pack"
    shutil.copytree(nodes, folder / "custom_nodes" / "dpo-test-nodes")
    return server
