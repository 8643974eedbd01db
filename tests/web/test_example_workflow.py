"""The example workflows in ComfyUI's page: opened, filled in, run, and there again after F5."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostkit.checkout import PACK_ROOT
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer
from PIL import Image
from webkit.front_end import CANVAS_MODES, FrontEnd, Run
from webkit.node import Node
from webkit.ranking import Ranking

FOLDER = PACK_ROOT / "example_workflows"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
NAME = "train_from_a_pair_folder"
CHECKPOINT = "tiny.safetensors"
STEPS = 4
SIZE = 64

Box = tuple[float, float, float, float]


def _workflow(name: str = NAME) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return workflow


def _pack(server: ComfyServer) -> str:
    return server.pack_dir.name


def test_the_browser_of_templates_lists_each_with_its_picture(web_server: ComfyServer) -> None:
    pack = _pack(web_server)
    assert sorted(web_server.get("/workflow_templates").json()[pack]) == NAMES
    for name in NAMES:
        reply = web_server.get(f"/api/workflow_templates/{pack}/{name}.jpg")
        assert reply.status == 200 and len(reply.body) < 400_000, name
        assert Image.open(io.BytesIO(reply.body)).format == "JPEG"


@pytest.mark.parametrize("name", NAMES)
def test_it_names_no_place_outside_this_machine_and_none_on_it(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text()
    assert "://" not in text
    # A folder from the root on; a markdown link or a pattern such as chosen/{} is none.
    assert re.findall(r"[\"\s(]/\w|\b[A-Z]:\\\\", text) == []
    assert "dpo_set" not in text and '"set_id"' not in text  # nothing ranked yet


@pytest.mark.parametrize("name", NAMES)
def test_its_nodes_are_apart_and_inside_groups(front_end: FrontEnd, name: str) -> None:
    front_end.load(_workflow(name))
    assert front_end.missing_node_types() == []
    boxes = {f"{node.title} ({node.id})": node.box() for node in front_end.nodes()}
    titles = sorted(boxes)
    assert len(titles) == len(_workflow(name)["nodes"])
    overlaps = [
        (a, b) for i, a in enumerate(titles) for b in titles[:i] if _overlap(boxes[a], boxes[b])
    ]
    assert overlaps == []
    groups = [tuple(group["bounding"]) for group in _workflow(name)["groups"]]
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


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)
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


# The workflows that rank, each in one way of drawing.


def _open(front_end: FrontEnd, name: str, **settings: Any) -> tuple[Ranking, list[Path]]:
    """The example filled in for a small machine; the ranking in it, and the LoRAs there are."""
    front_end.open_template(_pack(front_end.server), name)
    _put(front_end.node("CheckpointLoaderSimple"), ckpt_name=CHECKPOINT)
    _put(front_end.node("EmptyLatentImage"), width=SIZE, height=SIZE)
    _put(front_end.node("DPOTrainer"), grad_accumulation_steps=1)
    _put(front_end.node("DPOTrainSteps"), steps=2, **settings)
    for sampler in front_end.nodes("KSampler"):
        _put(sampler, steps=2)
    return Ranking(front_end, front_end.node("DPORankImages").id), _loras(front_end)


def _put(node: Node, **values: Any) -> None:
    node.evaluate(
        """(node, values) => {
            for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find(w => w.name === name);
                widget.value = value; widget.callback?.(value) } }""",
        values,
    )


def _loras(front_end: FrontEnd) -> list[Path]:
    return sorted((front_end.server.base_dir / "output" / "loras").glob("dpo_*.safetensors"))


def _run(front_end: FrontEnd) -> Run:
    run = front_end.run()
    assert (run.status, run.error) == ("success", "")
    assert front_end.errors == []
    return run


def _said(front_end: FrontEnd, run: Run, name: str) -> str:
    """What a node told of this run, empty if it did not run."""
    return "\n".join(run.outputs.get(str(front_end.node(name).id), {}).get("text", []))


def _rounds(front_end: FrontEnd, ranking: Ranking) -> Iterator[Run]:
    """Runs and ranks by turns; the pictures of each run are others."""
    seen: set[str] = set()
    while True:
        run = _run(front_end)
        ranking.node.show()
        assert ranking.shown()["set_id"] not in seen
        seen.add(ranking.shown()["set_id"])
        yield run
        ranking.wait_for_saved()


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)
def test_each_run_trains_on_the_best_and_worst_so_far_and_brings_the_next_four(
    front_end: FrontEnd,
) -> None:
    ranking, before = _open(front_end, "rank_and_train", min_pairs=2)
    rounds = _rounds(front_end, ranking)
    said = []
    for _ in range(4):
        run = next(rounds)
        said.append((_said(front_end, run, "DPOTrainer"), _said(front_end, run, "DPOTrainSteps")))
        ranking.wait_for_pictures()
        assert ranking.tiles.count() == 4
        ranking.picture(2).click()
        ranking.picture(3).click()
    assert said[0] == ("", "")
    assert said[1][1] == "1 of 2 pairs so far: not training yet."
    (run_id,) = re.findall(r"2 pairs, run (\w{20})", said[2][0])
    assert said[2][1].startswith("2 steps. ")
    # On from there, with one pair more.
    assert f"goes on from step 2 of run {run_id}" in said[3][0] and "3 pairs" in said[3][0]
    assert said[3][1].startswith("4 steps. ")

    saved = [file for file in _loras(front_end) if file not in before]
    assert len(saved) == 2 and all(file.stat().st_size for file in saved)
    assert front_end.node("Saved as").value("preview_text") == str(saved[-1])
    without, with_lora = _sampled(front_end, run.outputs)
    assert without != with_lora


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)
def test_a_tournament_gives_the_best_the_order_and_three_pairs(front_end: FrontEnd) -> None:
    ranking, before = _open(front_end, "tournament", min_pairs=3)
    rounds = _rounds(front_end, ranking)
    run = next(rounds)
    assert _said(front_end, run, "Keep the pairs as a folder") == ""
    matches = _play(ranking)
    assert matches == 12
    run = next(rounds)

    output = front_end.server.base_dir / "output"
    (best,) = run.outputs[str(front_end.node("The best, saved").id)]["images"]
    ranked = run.outputs[str(front_end.node("From best to worst").id)]["images"]
    view = _ranked(front_end, ranking)
    ids = [one["id"] for one in view["standings"]]
    images = output / "dpo" / "sessions" / "tournament" / "images"
    assert _pixels(output / best["subfolder"] / best["filename"]) == _pixels(
        images / f"{ids[0]}.png"
    )
    assert len(ranked) == 8
    folder = output / "dpo" / "tournament_pairs"
    chosen = {_pixels(file) for file in (folder / "chosen").glob("*.png")}
    assert chosen == {_pixels(images / f"{pair['chosen']}.png") for pair in view["pairs"]}
    assert len(chosen) == len(list((folder / "rejected").glob("*.png"))) == 3
    assert _said(front_end, run, "DPOTrainSteps").startswith("2 steps. ")
    assert len(_loras(front_end)) == len(before) + 1


def _play(ranking: Ranking) -> int:
    """Ends the tournament: of two images, the one whose id comes first wins. Counts the matches."""
    counter = ranking.panel.locator(".dpo-counter")
    for played in range(100):
        shown = counter.inner_text()
        if shown.startswith("Standings"):
            return played
        frames = ranking.panel.locator(".dpo-frame img").all()
        left, right = [str(frame.get_attribute("src")) for frame in frames]
        side = "left" if left < right else "right"
        ranking.button(f"The {side} image is better").click()
        ranking.page.wait_for_function(
            "([counter, shown]) => counter.innerText !== shown",
            arg=[counter.element_handle(), shown],
        )
    raise AssertionError("the tournament has no end")


def _ranked(front_end: FrontEnd, ranking: Ranking) -> dict[str, Any]:
    """The set that was ranked last, as the server has it."""
    value, count = ranking.value(), ranking.node.value("pairs_per_group")
    path = f"/dpo/sessions/{value['session']}/sets/{value['set_id']}?pairs_per_group={count}"
    view: dict[str, Any] = front_end.server.get(path).json()
    return view


def _pixels(file: Path) -> bytes:
    return Image.open(file).convert("RGB").tobytes()


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)
def test_thumbs_become_pairs_and_the_same_pictures_come_with_the_lora(
    front_end: FrontEnd,
) -> None:
    ranking, before = _open(front_end, "thumbs", min_pairs=3)
    rounds = _rounds(front_end, ranking)
    next(rounds)
    ranking.wait_for_pictures()
    for number, label in enumerate(("good", "bad", "good", "good", "bad", "bad"), 1):
        ranking.button(f"Image {number}: {label}").click()
    run = next(rounds)
    assert "3 pairs" in _said(front_end, run, "DPOTrainer")
    assert _said(front_end, run, "DPOTrainSteps").startswith("2 steps. ")
    assert len(_loras(front_end)) == len(before) + 1
    assert len(front_end.node("The same six with the LoRA").pictures()) == 6
    # Each is one of those to be ranked now, a little changed: of the same seed.
    shown = _ranked_now(front_end, ranking)
    twins = [
        [i for i, one in enumerate(shown) if np.abs(picture - one).mean() < 8]
        for picture in _with_lora(front_end, run.outputs)
    ]
    assert sorted(twins) == [[i] for i in range(6)]


def _with_lora(front_end: FrontEnd, outputs: Mapping[str, Any]) -> list[np.ndarray]:
    records = outputs[str(front_end.node("The same six with the LoRA").id)]["images"]
    folder = front_end.server.base_dir / "temp"
    return [_levels(folder / one["subfolder"] / one["filename"]) for one in records]


def _ranked_now(front_end: FrontEnd, ranking: Ranking) -> list[np.ndarray]:
    images = front_end.server.base_dir / "output" / "dpo" / "sessions" / "thumbs" / "images"
    return [_levels(images / f"{one}.png") for one in ranking.ids()]


def _levels(file: Path) -> np.ndarray:
    """(height, width, 3), 0 to 255."""
    return np.asarray(Image.open(file).convert("RGB"), dtype=np.float64)
