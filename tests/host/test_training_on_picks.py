"""Generate, rank, train, and sample with the LoRA in one graph that is run again and again."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from hostkit.ranking import pick, post_vote, rank, shown_set
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, encoding, node, text_to_image, train_steps, trainer

RUN = re.compile(r"pairs?, run ([0-9a-f]{20})")


def workflow(
    checkpoint: str, session: str, seed: int, ranking: dict[str, Any], **trainer_inputs: Any
) -> Prompt:
    """Four images, ranked; three steps on what was picked so far; one image with the LoRA."""
    prompt = text_to_image(checkpoint, seed=seed, steps=1, batch=4, size=32)
    prompt.pop("save")
    prompt["rank"] = rank(["decode", 0], session, ranking=ranking)
    prompt["dataset"] = encoding(["rank", 0])
    prompt["trainer"] = trainer(**trainer_inputs)
    prompt["steps"] = train_steps("trainer", 3)
    prompt["count"] = node("PreviewAny", source=["steps", 3])
    prompt["save_lora"] = node(
        "DPOSaveLoRA", lora=["steps", 1], filename_prefix=f"loras/{session}/it",
        trainer=["steps", 0],
    )  # fmt: skip
    prompt["with_lora"] = node(
        "LoraModelLoader", model=["checkpoint", 0], lora=["steps", 1], strength_model=1.0,
        bypass=False,
    )  # fmt: skip
    sampler = prompt["sampler"]["inputs"] | {"model": ["with_lora", 0], "seed": 1}
    prompt["sampler_with_lora"] = node("KSampler", **sampler)
    prompt["decode_with_lora"] = node(
        "VAEDecode", samples=["sampler_with_lora", 0], vae=["checkpoint", 2]
    )
    prompt["save"] = node("SaveImage", images=["decode_with_lora", 0], filename_prefix="taught")
    return prompt


def run_of(server: ComfyServer, result: RunResult) -> Path:
    (said,) = result.outputs["trainer"]["text"]
    match = RUN.search(said)
    assert match is not None, said
    return server.base_dir / "output" / "dpo" / "runs" / match[1]


def own_rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def saved_loras(server: ComfyServer, session: str) -> int:
    return len(list((server.base_dir / "output" / "loras" / session).glob("*.safetensors")))


def steps_done(result: RunResult) -> str:
    (text,) = result.outputs["count"]["text"]
    return str(text)


@pytest.mark.parametrize("randomised", [True, False], ids=["randomised seed", "fixed seed"])
def test_every_run_trains_on_all_picks_and_goes_on_from_the_one_before(
    comfy_server: ComfyServer, sd15_checkpoint: Path, randomised: bool
) -> None:
    session = f"picks {randomised}"
    value: dict[str, Any] = {}

    def run(number: int, **inputs: Any) -> RunResult:
        seed = number if randomised else 0
        result = comfy_server.queue(
            workflow(sd15_checkpoint.name, session, seed, value, **inputs)
        )
        assert result.error == ""
        return result

    first = run(1)
    assert {"trainer", "steps", "save"}.isdisjoint(first.outputs)  # blocked, and no error

    value = pick(comfy_server, shown_set(first), best=0, worst=3)
    second = run(2)
    assert steps_done(second) == "3" and "save" in second.outputs
    one_pair = run_of(comfy_server, second)
    shown = shown_set(second)
    assert (shown["set_id"] != value["set_id"]) == randomised  # the next batch is there

    third = run(3)
    if randomised:  # nothing was picked since: the training is found, the pictures are new
        assert steps_done(third) == "3" and run_of(comfy_server, third) == one_pair
        assert "found in" in third.outputs["steps"]["text"][0]
        assert shown_set(third)["set_id"] != shown["set_id"]
        (line,) = third.outputs["save_lora"]["text"]
        assert line.startswith("Nothing new since output/loras/")
    assert saved_loras(comfy_server, session) == 1

    # In the graph's second batch, or two more images of the only one.
    value = pick(comfy_server, shown, best=1, worst=2)
    fourth = run(4)
    more_pairs = run_of(comfy_server, fourth)
    assert steps_done(fourth) == "6" and more_pairs != one_pair
    assert f"goes on from step 3 of run {one_pair.name}" in fourth.outputs["trainer"]["text"][0]
    row = own_rows(more_pairs)[0]
    # Of the original model, not of what the LoRA had come to: then nothing would have changed.
    assert row["step"] == 4 and row["prediction_change"] > 0
    before = own_rows(one_pair)
    assert before[0]["prediction_change"] == 0
    assert row["learning_rate"] > before[-1]["learning_rate"]  # the warm-up goes on
    assert saved_loras(comfy_server, session) == 2
    settings = json.loads((more_pairs / "settings.json").read_text())
    assert settings["continues"] == [one_pair.name, 3]


def test_an_undone_pick_finds_what_was_trained_without_it(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    def run(seed: int, value: dict[str, Any], **inputs: Any) -> RunResult:
        prompt = workflow(sd15_checkpoint.name, "undone", seed, value, **inputs)
        result = comfy_server.queue(prompt)
        assert result.error == ""
        return result

    first = run(1, {})
    value = pick(comfy_server, shown_set(first))
    one = run(2, value)
    shown = shown_set(one)
    value = pick(comfy_server, shown)
    two = run(3, value)
    assert steps_done(two) == "6"
    view = comfy_server.get(f"/dpo/sessions/undone/sets/{shown['set_id']}").json()
    reply = comfy_server.post(
        "/dpo/sessions/undone/undo",
        {"vote_id": view["votes"][-1]["id"], "undo_id": str(uuid.uuid4())},
    )
    assert reply.status == 200
    comfy_server.free()
    back = run(4, {})
    assert steps_done(back) == "3"
    assert run_of(comfy_server, back) == run_of(comfy_server, one)

    vote = {"kind": "best_worst", "set": shown["set_id"]}
    ids = [image["id"] for image in view["images"]]
    post_vote(comfy_server, "undone", vote | {"best": ids[3], "worst": ids[2]})
    third = run(5, {})
    # Another pair than the one undone: it goes on from the furthest there is.
    assert steps_done(third) == "9"
    assert "goes on from step 6" in third.outputs["trainer"]["text"][0]


def test_other_settings_and_start_over_begin_a_new_lora(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    def run(seed: int, value: dict[str, Any], **inputs: Any) -> RunResult:
        prompt = workflow(sd15_checkpoint.name, "anew", seed, value, **inputs)
        result = comfy_server.queue(prompt)
        assert result.error == ""
        return result

    value = pick(comfy_server, shown_set(run(1, {})))
    second = run(2, value)
    value = pick(comfy_server, shown_set(second))
    assert steps_done(run(3, value)) == "6"
    assert steps_done(run(3, value, learning_rate=2e-3)) == "3"
    assert steps_done(run(3, value, rank=3)) == "3"
    fresh = run(3, value, new_picks="start_over")
    assert steps_done(fresh) == "3"
    assert own_rows(run_of(comfy_server, fresh))[0]["prediction_change"] == 0
    value = pick(comfy_server, shown_set(fresh), best=0, worst=1)
    # What was left behind stays behind, however far it had come.
    later = run(4, value)
    assert steps_done(later) == "6"
    assert f"goes on from step 3 of run {run_of(comfy_server, fresh).name}" in (
        later.outputs["trainer"]["text"][0]
    )
    # Choosing how passes are scheduled, or other encoding, is another matter than settings.
    assert steps_done(run(4, value, execution_mode="full_concurrent")) == "6"


def test_a_stopped_training_is_gone_on_from_with_new_picks(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    value = pick(comfy_server, shown_set(comfy_server.queue(
        workflow(sd15_checkpoint.name, "stopped", 1, {})
    )))  # fmt: skip
    long = workflow(sd15_checkpoint.name, "stopped", 2, value)
    long["steps"]["inputs"]["steps"] = 100_000
    prompt_id = comfy_server.submit(long)
    comfy_server.wait_for_event("progress", prompt_id=prompt_id, node="steps")
    comfy_server.interrupt()
    assert comfy_server.wait(prompt_id).status == "interrupted"
    shown = shown_set(comfy_server.queue(workflow(sd15_checkpoint.name, "stopped", 3, {})))
    value = pick(comfy_server, shown)
    result = comfy_server.queue(workflow(sd15_checkpoint.name, "stopped", 4, value))
    assert result.error == ""
    assert int(steps_done(result)) > 3
