"""Preferences to and from other programs, through the nodes of a real host."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from hostkit.pair_folder import PROMPTS, write_pairs
from hostkit.server import ComfyServer
from hostkit.workflows import Prompt, node

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None


def exported(source: Prompt, folder: str, **inputs: object) -> Prompt:
    export = node("DPOExportPairFolder", pairs=["in", 0], folder=folder, **inputs)
    return source | {"export": export}


def loaded(folder: str) -> Prompt:
    inputs = {"chosen_pattern": "chosen/{}", "rejected_pattern": "rejected/{}"}
    return {"in": node("DPOLoadPairFolder", folder=folder, on_problem="error", **inputs)}


def imported(folder: str, **inputs: object) -> Prompt:
    settings = {"layout": "auto", "limit": 0, "on_problem": "error"} | inputs
    return {"in": node("DPOImportPreferences", folder=folder, **settings)}


@pytest.fixture(scope="module")
def pairs(comfy_server: ComfyServer) -> Path:
    folder = comfy_server.base_dir / "input" / "to_exchange"
    write_pairs(folder, 6)
    return folder


def done(server: ComfyServer, prompt: Prompt) -> str:
    """The text on the export node."""
    result = server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    (text,) = result.outputs["export"]["text"]
    return str(text)


def test_pairs_go_to_onetrainer_split_by_prompt_and_come_back(
    comfy_server: ComfyServer, pairs: Path
) -> None:
    out = comfy_server.base_dir / "output" / "ot"
    prompt = exported(loaded("to_exchange"), "ot", layout="onetrainer", validation_percent=50)
    assert "6 pairs, 2 prompts" in done(comfy_server, prompt)
    sides = [
        {path.read_text() for path in (out / "chosen" / split).glob("*.txt")}
        for split in ("train", "val")
    ]
    assert sorted(map(len, sides)) == [1, 1] and sides[0] | sides[1] == set(PROMPTS)
    done(comfy_server, exported(loaded("to_exchange"), "ot", layout="onetrainer",
                                validation_percent=0))  # fmt: skip
    assert not (out / "chosen/val").exists()
    done(comfy_server, exported(imported("ot"), "from_ot"))
    for number in range(6):
        for side in ("chosen", "rejected"):
            copy = comfy_server.base_dir / f"output/from_ot/{side}/{number + 1:04d}.png"
            assert copy.read_bytes() == (pairs / side / f"{number}.png").read_bytes()


def test_a_dataset_goes_out_and_comes_back_or_says_what_it_needs(
    comfy_server: ComfyServer, pairs: Path
) -> None:
    prompt = exported(loaded("to_exchange"), "hf", layout="huggingface", validation_percent=50)
    if not HAS_PYARROW:
        result = comfy_server.queue(prompt)
        assert result.status == "error" and "pyarrow, which is missing" in result.error
        assert not (comfy_server.base_dir / "output/hf").exists()
        return
    done(comfy_server, prompt)
    data = comfy_server.base_dir / "output/hf/data"
    assert [path.name for path in sorted(data.iterdir())] == [
        "train-00000-of-00001.parquet", "validation-00000-of-00001.parquet",
    ]  # fmt: skip
    assert "split: 3 train, 3 val" in done(
        comfy_server,
        imported("hf") | {"export": node("PreviewAny", source=["in", 1])},
    )
    (images,) = (comfy_server.base_dir / "output/dpo/imports").glob("hf-*")
    originals = {path.read_bytes() for path in pairs.rglob("*.png")}
    assert {path.read_bytes() for path in images.iterdir()} == originals


def test_a_list_leads_only_into_comfyuis_own_folders(
    comfy_server: ComfyServer, pairs: Path, tmp_path: Path
) -> None:
    """Although a person may name any folder of this computer in full."""
    outside = tmp_path / "outside"
    write_pairs(outside, 1)
    folder = comfy_server.base_dir / "input" / "listed"
    folder.mkdir()

    def result(place: Path) -> tuple[str, str]:
        concepts = [
            {"type": f"DPO_{side.upper()}", "path": str(place / side)}
            for side in ("chosen", "rejected")
        ]
        (folder / "concepts.json").write_text(json.dumps(concepts))
        found = comfy_server.queue(
            imported("listed") | {"show": node("PreviewAny", source=["in", 1])}
        )
        return found.status, found.error or found.outputs["show"]["text"][0]

    status, text = result(outside)
    assert status == "error" and "may not be read from here (2)" in text
    assert result(pairs)[0] == "success"
    inside = comfy_server.base_dir / "input" / "link"
    inside.symlink_to(outside)
    assert result(inside)[0] == "error"
    done(comfy_server, exported(loaded(str(outside)), "from_outside"))
