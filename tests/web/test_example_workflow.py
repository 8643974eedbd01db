"""The example workflow in ComfyUI's page: opened, filled in, run, and there again after F5."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hostkit.checkout import PACK_ROOT
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer
from PIL import Image
from webkit.front_end import CANVAS_MODES, FrontEnd

NAME = "train_from_a_pair_folder"
FILE = PACK_ROOT / "example_workflows" / f"{NAME}.json"
CHECKPOINT = "tiny.safetensors"
STEPS = 4
SIZE = 64

Box = tuple[float, float, float, float]


def _workflow() -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads(FILE.read_text())
    return workflow


def _pack(server: ComfyServer) -> str:
    return server.pack_dir.name


def test_the_browser_of_templates_lists_it_with_its_picture(web_server: ComfyServer) -> None:
    pack = _pack(web_server)
    assert NAME in web_server.get("/workflow_templates").json()[pack]
    reply = web_server.get(f"/api/workflow_templates/{pack}/{NAME}.jpg")
    assert reply.status == 200 and len(reply.body) < 400_000
    assert Image.open(io.BytesIO(reply.body)).format == "JPEG"


def test_it_names_no_place_outside_this_machine() -> None:
    assert "://" not in FILE.read_text()


def test_its_nodes_are_apart_and_inside_groups(front_end: FrontEnd) -> None:
    front_end.load(_workflow())
    boxes = {node.title: node.box() for node in front_end.nodes()}
    titles = sorted(boxes)
    overlaps = [
        (a, b) for i, a in enumerate(titles) for b in titles[:i] if _overlap(boxes[a], boxes[b])
    ]
    assert overlaps == []
    groups = [tuple(group["bounding"]) for group in _workflow()["groups"]]
    outside = [
        title for title, box in boxes.items() if not any(_inside(box, group) for group in groups)
    ]
    assert outside == []


def _overlap(a: Box, b: Box) -> bool:
    return (
        a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
    )


def _inside(box: Box, group: Box) -> bool:
    return (
        group[0] <= box[0]
        and group[1] <= box[1]
        and box[0] + box[2] <= group[0] + group[2]
        and box[1] + box[3] <= group[1] + group[3]
    )


@pytest.fixture
def pairs(web_server: ComfyServer, canvas_mode: str) -> Path:
    """`input/pairs` with four pairs; others for each way of drawing, to be trained on anew."""
    folder = web_server.base_dir / "input" / "pairs"
    shutil.rmtree(folder, ignore_errors=True)
    write_pairs(folder, 4, first=10 * CANVAS_MODES.index(canvas_mode))
    return folder


def _fill_in(front_end: FrontEnd) -> None:
    front_end.node("CheckpointLoaderSimple").set("ckpt_name", CHECKPOINT)
    for side in ("width", "height"):
        front_end.node("EmptyLatentImage").set(side, SIZE)
    front_end.node("DPOTrainer").set("grad_accumulation_steps", 1)
    front_end.node("DPOTrainSteps").set("steps", STEPS)
    for sampler in front_end.nodes("KSampler"):
        sampler.set("steps", 2)


def test_it_trains_and_shows_pictures_without_and_with_the_lora(
    front_end: FrontEnd, pairs: Path
) -> None:
    front_end.open_template(_pack(front_end.server), NAME)
    assert front_end.missing_node_types() == []
    assert len(front_end.nodes()) == len(_workflow()["nodes"])
    front_end.screenshot("example_opened")
    _fill_in(front_end)

    steps = front_end.node("DPOTrainSteps")
    front_end.fit()
    run = front_end.run(watch=(steps,))
    assert (run.status, run.error) == ("success", "")
    front_end.fit()
    front_end.screenshot("example_run")

    lines = run.texts[steps.id]
    assert any(re.match(rf"\d/{STEPS} +loss \d\.\d+ +accuracy", line) for line in lines), lines
    assert steps.text().startswith(f"{STEPS} steps. ")
    assert front_end.node("Without the LoRA").pictures() == [(SIZE, SIZE)]
    assert front_end.node("With the LoRA").pictures() == [(SIZE, SIZE)]
    ((width, height),) = front_end.node("How training went").pictures()
    assert width > height > 300
    assert front_end.node("What was found").value("preview_text").startswith("4 pairs")
    saved = Path(front_end.node("Saved as").value("preview_text"))
    assert saved.is_file() and saved.parent == front_end.server.base_dir / "output" / "loras"
    without, with_lora = _sampled(front_end, run.outputs)
    assert without != with_lora
    assert front_end.errors == []

    before = _settings(front_end)
    front_end.reload()
    assert _settings(front_end) == before
    front_end.screenshot("example_after_f5")


def _sampled(front_end: FrontEnd, outputs: Any) -> list[bytes]:
    titles = ("Without the LoRA", "With the LoRA")
    records = [outputs[str(front_end.node(title).id)]["images"][0] for title in titles]
    files = [front_end.server.get(f"/view?filename={r['filename']}&subfolder={r['subfolder']}"
                                  f"&type={r['type']}").body for r in records]
    return [Image.open(io.BytesIO(file)).tobytes() for file in files]


def _settings(front_end: FrontEnd) -> dict[int, tuple[str, Any]]:
    """Each node's title and widget values."""
    return {
        node["id"]: (node.get("title", node["type"]), node.get("widgets_values") or [])
        for node in front_end.workflow()["nodes"]
    }
