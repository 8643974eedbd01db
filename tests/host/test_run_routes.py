"""The routes of runs in a real ComfyUI: what they tell of training, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer
from hostkit.workflows import Prompt, node, training

STEPS = 3


def runs_folder(server: ComfyServer) -> Path:
    return server.base_dir / "output" / "dpo" / "runs"


def listed(server: ComfyServer) -> list[dict[str, Any]]:
    reply = server.get("/dpo/runs")
    assert reply.status == 200
    runs: list[dict[str, Any]] = reply.json()["runs"]
    return runs


def told(server: ComfyServer, run: str) -> dict[str, Any]:
    reply = server.get(f"/api/dpo/runs/{run}")
    assert reply.status == 200
    answer: dict[str, Any] = reply.json()
    return answer


def trained(checkpoint: str, steps: int, seed: int) -> Prompt:
    prompt = training(checkpoint, "runs", steps, seed=seed, gradient_checkpointing=True)
    saved = {"lora": ["steps", 1], "trainer": ["steps", 0]}
    prompt["save"] = node("DPOSaveLoRA", filename_prefix="loras/runs/taste", **saved)
    return prompt


@pytest.fixture(scope="module")
def run(comfy_server: ComfyServer, sd15_checkpoint: Path) -> str:
    """The id of a run of `STEPS` steps whose LoRA was saved."""
    write_pairs(comfy_server.base_dir / "input" / "runs", 4)
    before = {one["id"] for one in listed(comfy_server)}
    result = comfy_server.queue(trained(sd15_checkpoint.name, STEPS, seed=700))
    assert (result.status, result.error) == ("success", "")
    (one,) = [one["id"] for one in listed(comfy_server) if one["id"] not in before]
    return str(one)


def test_a_finished_run_is_told_with_its_model_pairs_settings_and_lora(
    comfy_server: ComfyServer, sd15_checkpoint: Path, run: str
) -> None:
    one = told(comfy_server, run)
    expected = {
        "id": run, "status": "finished", "step": STEPS, "target": STEPS, "pairs": 4,
        "model": sd15_checkpoint.name, "title": "taste_00001", "loss": "sigmoid",
        "execution_mode": "sequential", "gradient_checkpointing": True, "continued_by": [],
        "checkpoints": [STEPS], "path": str(runs_folder(comfy_server) / run),
    }  # fmt: skip
    assert one | expected == one
    assert 0 <= one["accuracy"] <= 1
    assert (one["settings"]["seed"], one["adapter"]["rank"]) == (700, 2)
    (lora,) = one["loras"]
    assert (lora["file"], lora["step"]) == ("loras/runs/taste_00001_.safetensors", STEPS)
    assert lora["bytes"] == (comfy_server.base_dir / "output" / lora["file"]).stat().st_size
    assert one["card"].startswith("# taste\\_00001\n") and lora["file"] in one["card"]
    metrics = comfy_server.get(f"/dpo/runs/{run}/metrics?after=1").json()
    assert [row["step"] for row in metrics["rows"]] == [2, 3] and metrics["last"] == STEPS
    assert all(row["loss/dpo"] > 0 for row in metrics["rows"])


def test_a_run_in_training_cannot_be_deleted_and_is_told_as_it_is_until_it_is(
    comfy_server: ComfyServer, sd15_checkpoint: Path, run: str
) -> None:
    prompt_id = comfy_server.submit(trained(sd15_checkpoint.name, 400, seed=701))
    comfy_server.wait_for_event("progress", prompt_id=prompt_id, node="steps")
    one = listed(comfy_server)[0]
    assert (one["status"], one["target"]) == ("running", 400)
    refused = comfy_server.post(f"/dpo/runs/{one['id']}/delete", {"id": one["id"]})
    assert refused.status == 409 and "Stop the training first" in refused.json()["error"]
    comfy_server.interrupt()
    comfy_server.wait(prompt_id, timeout=60)
    one = told(comfy_server, one["id"])
    assert one["status"] == "stopped" and 0 < one["step"] < 400
    (lora,) = one["loras"]
    assert lora["step"] == one["step"] and lora["bytes"] > 0
    assert f"for {one['step']} steps" in one["card"] and lora["file"] in one["card"]

    path = f"/dpo/runs/{one['id']}/delete"
    assert comfy_server.post(path, {"id": run}).status == 400
    assert comfy_server.post(path, {"id": one["id"]}).json()["deleted"] == one["id"]
    assert comfy_server.get(f"/dpo/runs/{one['id']}").status == 404
    assert not (runs_folder(comfy_server) / one["id"]).exists()
    assert (comfy_server.base_dir / "output" / lora["file"]).is_file()
    assert told(comfy_server, run)["status"] == "finished"


def test_a_run_that_fails_says_why(
    comfy_server: ComfyServer, sd15_checkpoint: Path, run: str
) -> None:
    prompt = trained(sd15_checkpoint.name, STEPS, seed=702)
    first = {one["id"] for one in listed(comfy_server)}
    assert run in first
    comfy_server.queue(prompt)
    (made,) = {one["id"] for one in listed(comfy_server)} - first
    folder = runs_folder(comfy_server) / made
    (folder / f"step_{STEPS:08d}.safetensors").unlink()
    (folder / f"step_{STEPS:08d}.safetensors").mkdir()
    comfy_server.free()
    assert comfy_server.queue(prompt).status == "error"
    one = told(comfy_server, made)
    assert one["status"] == "failed" and "Writing the results failed" in one["reason"]


HOSTILE = [
    "..", ".", "%2e%2e", "..%2f..%2fuser", "%00" * 20, "a" * 19, "A" * 20, quote("ä" * 20),
    ".deleted_" + "a" * 20, "..%5c..%5cuser", "a" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_run_is_refused(comfy_server: ComfyServer, run: str, name: str) -> None:
    before = sorted(comfy_server.base_dir.joinpath("output").rglob("*"))
    for path in (f"/dpo/runs/{name}", f"/dpo/runs/{name}/metrics"):
        assert comfy_server.get(path).status in (400, 404)
    assert comfy_server.post(f"/dpo/runs/{name}/delete", {"id": name}).status in (400, 404, 405)
    assert sorted(comfy_server.base_dir.joinpath("output").rglob("*")) == before


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data"}, 415),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_other_sites_delete_nothing(
    comfy_server: ComfyServer, run: str, headers: dict[str, str], status: int
) -> None:
    reply = comfy_server.post(f"/dpo/runs/{run}/delete", {"id": run}, headers)
    assert reply.status == status
    assert told(comfy_server, run)["status"] == "finished"


def test_nothing_is_deleted_by_get_or_by_a_body_that_is_none(
    comfy_server: ComfyServer, run: str
) -> None:
    path = f"/dpo/runs/{run}/delete"
    assert comfy_server.get(path).status in (404, 405)
    wrong = {"id": run[::-1]}, {"id": run, "continued_by": 3}, {"id": "x" * 600_000}
    for body in (None, [], "x", *wrong):
        assert comfy_server.post(path, body).status in (400, 413)
    assert told(comfy_server, run)["status"] == "finished"
