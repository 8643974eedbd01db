"""What tells LoRAs of one name apart."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from hostkit.checkout import load_pack

PACK = load_pack().__name__
side_identity: Any = importlib.import_module(f"{PACK}.nodes.host.side_identity").side_identity
Recipe: Any = importlib.import_module(f"{PACK}.dpo_core.metadata.comfyui_recipe").Recipe
NODE = {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "one.safetensors"}}


def test_a_file_written_over_is_another_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = folder_paths.folder_names_and_paths
    monkeypatch.setitem(places, "loras", ([str(tmp_path)], {".safetensors"}))
    recipe = Recipe((NODE,), (("lora_name", "one.safetensors"),), ())
    missing = side_identity(recipe)
    (tmp_path / "one.safetensors").write_bytes(b"first")
    first = side_identity(recipe)
    assert first == side_identity(recipe) != missing
    (tmp_path / "one.safetensors").write_bytes(b"the second")
    assert side_identity(recipe) not in (first, missing)


def test_the_weights_of_a_connected_lora_count_and_not_where_they_come_from() -> None:
    nothing = Recipe((), (), ())
    assert side_identity(nothing) == ""
    one, same, other = ({"layer": torch.full((2, 2), value)} for value in (1.0, 1.0, 2.0))
    assert side_identity(nothing, one) == side_identity(nothing, same) != ""
    assert side_identity(nothing, one) != side_identity(nothing, other)
