"""ComfyUI loads the pack under whatever name its folder has, and reads its description."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from comfy_config.config_parser import extract_node_configuration
from hostkit.checkout import PACK_ROOT

PUBLISHED = ("__init__.py", "pyproject.toml", "dpo_core", "nodes")
"""Enough to run; the tests, above all, are not published."""


@pytest.fixture
def host_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """ComfyUI's own loader of custom nodes; what is loaded is forgotten afterwards."""
    module = importlib.import_module("nodes")
    monkeypatch.setattr(module, "NODE_CLASS_MAPPINGS", {})
    monkeypatch.setattr(module, "NODE_DISPLAY_NAME_MAPPINGS", {})
    monkeypatch.setattr(module, "EXTENSION_WEB_DIRS", {})
    monkeypatch.setattr(module, "LOADED_MODULE_DIRS", {})
    # ComfyUI's Python knows neither the pack's folder nor its core by name.
    path = [entry for entry in sys.path if Path(entry).resolve() != PACK_ROOT]
    monkeypatch.setattr(sys, "path", path)
    for name in [name for name in sys.modules if name.split(".")[0] == "dpo_core"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield module
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["dpo-trainer", "dpo.trainer-0.1", "DPO Trainer (copy)", "1dpo", "nodes", "dpö"]
)
def test_loads_from_a_folder_of_any_name(
    host_nodes: ModuleType, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "custom_nodes" / name
    for item in PUBLISHED:
        source = PACK_ROOT / item
        if source.is_dir():
            shutil.copytree(source, folder / item, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / item)
    assert asyncio.run(host_nodes.load_custom_node(str(folder)))
    classes = host_nodes.NODE_CLASS_MAPPINGS
    assert "DPOTrainer" in classes
    assert all(node_id.startswith("DPO") for node_id in classes)
    files = {Path(str(sys.modules[each.__module__].__file__)) for each in classes.values()}
    assert all(folder in file.parents for file in files)


def test_the_host_reads_how_the_pack_describes_itself() -> None:
    described = extract_node_configuration(str(PACK_ROOT))
    assert described is not None
    project, comfy = described.project, described.tool_comfy
    assert "comfyui" not in project.name.lower()
    assert all(part.isdigit() for part in project.version.split("."))
    assert project.version.count(".") == 2
    assert (PACK_ROOT / project.license.file).is_file()
    assert project.urls.repository.startswith("https://")
    assert project.supported_comfyui_version == ">=0.33.0"
    assert project.supported_os == ["OS Independent"]
    assert (comfy.publisher_id, comfy.display_name) == ("dpo-trainer", "DPO Trainer")
    # WEB_DIRECTORY says where the front end's files are; said twice, they would load twice.
    assert comfy.web is None
