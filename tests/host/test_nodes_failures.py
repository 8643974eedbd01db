"""Stop, a full card, a full disk, broken numbers: what is kept, what is said, what follows."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hostkit.bare_model import bare_latents
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, node, training
from safetensors.torch import load_file

KEPT = re.compile(
    r"What was learned in (\d+) steps? is kept: LoRA (\S+\.safetensors); run again to go on "
    r"from there \((\S+)\)\."
)


@pytest.fixture(scope="module", autouse=True)
def folder(comfy_server: ComfyServer) -> None:
    write_pairs(comfy_server.base_dir / "input" / "failures", 4)


def failing(
    checkpoint: str, failure: str, first: int, times: int, steps: int, seed: int
) -> Prompt:
    """Training on a model that fails. A step is two passes: the reference's, the policy's."""
    prompt = training(
        checkpoint,
        "failures",
        steps,
        model=["broken", 0],
        execution_mode="full_concurrent",
        seed=seed,
    )
    prompt["broken"] = node(
        "TestFailingModel", model=["checkpoint", 0], failure=failure, first=first, times=times
    )
    return prompt


def kept(server: ComfyServer, text: str) -> tuple[int, Path, Path]:
    """Steps, LoRA file and run folder that a message names."""
    match = KEPT.search(text)
    assert match is not None, text
    return int(match[1]), server.base_dir / match[2], server.base_dir / match[3]


def changed(path: Path) -> bool:
    return any(
        bool(tensor.any()) for name, tensor in load_file(path).items() if "lora_B" in name
    )


def error_of(result: RunResult) -> str:
    assert result.status == "error"
    return result.error


def test_stop_keeps_the_steps_done_and_the_next_run_goes_on_to_the_same_result(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    before = bare_latents(comfy_server, sd15_checkpoint.name, 0)
    prompt = training(sd15_checkpoint.name, "failures", 400, seed=31)
    prompt["save"] = node("SaveLoRA", lora=["steps", 1], prefix="loras/failures/stopped")
    prompt_id = comfy_server.submit(prompt)
    comfy_server.wait_for_event("progress", prompt_id=prompt_id, node="steps")
    seen = len(comfy_server.texts("steps"))
    comfy_server.interrupt()
    stopped = time.monotonic()
    result = comfy_server.wait(prompt_id, timeout=60)
    assert result.status == "interrupted"
    assert time.monotonic() - stopped < 30
    lines = comfy_server.texts("steps")
    steps, lora, run = kept(comfy_server, lines[-1])
    # Obeyed within a step: at most the one in progress, and one that ended meanwhile, came after.
    assert len([line for line in lines[seen:] if "/400" in line]) <= 2
    assert f"DPO: {lines[-1]}" in comfy_server.log()
    assert lora.parent == comfy_server.base_dir / "output" / "loras" / "dpo"
    assert lora.is_file() and (steps == 1 or changed(lora))
    assert (run / f"step_{steps:08d}.safetensors").is_file()
    assert torch.equal(bare_latents(comfy_server, sd15_checkpoint.name, 1), before)

    prompt["steps"]["inputs"]["steps"] = steps + 1
    gone_on = comfy_server.queue(prompt)
    assert gone_on.status == "success"
    said = "\n".join(comfy_server.texts("steps")[len(lines):])
    assert f"going on from step {steps}, which is on disk" in said
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == steps + 1

    # The step that was broken off has left no trace.
    for file in run.iterdir():
        file.unlink()
    run.rmdir()
    comfy_server.free()
    assert comfy_server.queue(prompt).status == "success"
    folder = comfy_server.base_dir / "output" / "loras" / "failures"
    in_parts, at_once = (load_file(path) for path in sorted(folder.glob("stopped_*")))
    assert all(torch.equal(in_parts[name], at_once[name]) for name in at_once)


def test_stop_is_obeyed_while_pairs_are_encoded(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "failures", 1, seed=32)
    prompt["vae"] = node("TestStoppedVAE", vae=["checkpoint", 2], at=3)
    prompt["dataset"]["inputs"]["vae"] = ["vae", 0]
    assert comfy_server.queue(prompt).status == "interrupted"
    assert comfy_server.queue(prompt).status == "success"


@pytest.mark.parametrize(
    ("failure", "steps"),
    [("out_of_memory", 2), ("backward", 2), ("update", 0), ("checkpoint", 4)],
)
def test_out_of_memory_is_said_plainly_and_sampling_works_right_after_it(
    comfy_server: ComfyServer, sd15_checkpoint: Path, failure: str, steps: int
) -> None:
    # In the policy's pass of the third step.
    seed = 41 + steps
    prompt = failing(sd15_checkpoint.name, failure, 5, 1, steps=4, seed=seed)
    message = error_of(comfy_server.queue(prompt))
    sampled_after = bare_latents(comfy_server, sd15_checkpoint.name, 2 + seed)
    assert "ran out of memory. Beside the model this training needs about " in message
    assert "ComfyUI can be used at once" in message
    if steps:
        kept_steps, lora, _ = kept(comfy_server, message)
        assert kept_steps == steps and changed(lora)
    else:  # half of a step is none, and there was no checkpoint yet
        assert "The last 2 steps could not be kept." in message
        return
    again = comfy_server.queue(prompt)
    assert (again.status, again.error) == ("success", "")
    (text,) = again.outputs["steps"]["text"]
    assert text.startswith("4 steps. Over the last 4: loss 0.") and " on disk." in text
    if failure == "backward":  # the model itself has not changed
        comfy_server.free()
        assert torch.equal(bare_latents(comfy_server, sd15_checkpoint.name, 3), sampled_after)


def test_out_of_memory_names_the_ways_to_need_less_and_what_each_saves(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = failing(sd15_checkpoint.name, "out_of_memory", 0, 10**6, steps=1, seed=42)
    prompt["trainer"]["inputs"] |= {
        "execution_mode": "policy_concurrent", "batch_size": 2, "rank": 8
    }
    message = error_of(comfy_server.queue(prompt))
    found = re.findall(r"(?:[:;] )([a-zA-Z_0-9 ]+) \(about (\d+) MB less\)", message)
    ways = {way: int(megabytes) for way, megabytes in found}
    (needed,) = re.findall(r"needs about (\d+) MB for activations", message)
    assert list(ways.values()) == sorted(ways.values(), reverse=True)
    share = {way: saved / int(needed) for way, saved in ways.items()}
    assert 0.2 < share["switch gradient_checkpointing on"] < 1
    # Graphs of 2 pairs of 2 images are kept: half of them each time.
    assert share["set execution_mode to sequential"] == pytest.approx(0.5, abs=0.1)
    # Half the image, but as much text.
    assert 0.2 < share["encode the pairs with half the megapixels"] < 0.6
    assert share["set batch_size to 1 and raise grad_accumulation_steps instead"] == pytest.approx(
        0.5, abs=0.1
    )
    # Of four parts, parameters, gradient and two moments, half of all, and two.
    (lora,) = re.findall(r"and (\d+) MB for the LoRA and its optimiser", message)
    assert ways["set rank to 4"] == ways["use the optimizer adafactor"]
    assert ways["set rank to 4"] == pytest.approx(int(lora) / 2, abs=1)
    assert "kept" not in message and "set when_out_of_memory to step_down" in message


def test_a_training_may_step_down_by_itself_and_says_so(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = failing(sd15_checkpoint.name, "out_of_memory", 5, 1, steps=4, seed=47)
    prompt["trainer"]["inputs"]["when_out_of_memory"] = "step_down"
    result = comfy_server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    line = "emory ran out: going on after step 2 with execution_mode policy_concurrent"
    (text,) = result.outputs["steps"]["text"]
    assert f"On the way: m{line}" in text
    events = [one for one in comfy_server.events() if one["type"] == "dpo.warning"]
    warnings = [one["data"]["text"] for one in events]
    assert f"M{line}." in warnings


def test_who_asks_twice_gets_one_training_and_who_leaves_finds_it_done(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "failures", 12, seed=48)
    first = comfy_server.submit(prompt)
    comfy_server.wait_for_event("progress", prompt_id=first, node="steps")
    # Another place in the graph, so that it is not taken from the host's cache.
    prompt["again"] = prompt.pop("steps")
    second = comfy_server.submit(prompt)
    comfy_server.leave()
    try:
        trained, found = comfy_server.wait(first), comfy_server.wait(second)
    finally:
        comfy_server.come_back()
    (text,), (twin,) = trained.outputs["steps"]["text"], found.outputs["again"]["text"]
    assert text.startswith("12 steps. ") and twin.startswith("12 steps. ")
    (run,) = re.findall(r"kept in (output/dpo/runs/\w+),", text)
    assert run in twin
    log = comfy_server.base_dir / run / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 12
    prompt["again"]["inputs"]["steps"] = 13
    longer = comfy_server.queue(prompt)
    assert longer.outputs["again"]["text"][0].startswith("13 steps. ")
    assert len(log.read_text().splitlines()) == 13
    assert comfy_server.texts("again"), "who came back is told again"


def test_a_step_without_finite_numbers_is_skipped_counted_and_passed_over(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = failing(sd15_checkpoint.name, "not_a_number", 2, 2, steps=3, seed=51)
    prompt["graph"] = node("LossGraphNode", loss=["steps", 2], filename_prefix="loss")
    result = comfy_server.queue(prompt)
    assert (result.status, result.error) == ("success", "")
    (summary,) = result.outputs["steps"]["text"]
    assert summary.startswith("3 steps. Over the last 2: loss 0.")
    assert "1 step had no finite result and changed nothing." in summary


def test_training_stops_after_five_steps_without_finite_numbers(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = failing(sd15_checkpoint.name, "not_a_number", 4, 10**6, steps=50, seed=52)
    message = error_of(comfy_server.queue(prompt))
    assert "not a finite number for 5 steps in a row" in message
    assert "lower learning rate" in message
    steps, lora, _ = kept(comfy_server, message)
    assert steps == 6
    # What is kept is the LoRA of the second step, the last that changed it.
    good = training(
        sd15_checkpoint.name, "failures", 2, execution_mode="full_concurrent", seed=52
    )
    good["save"] = node("SaveLoRA", lora=["steps", 1], prefix="loras/failures/good")
    assert comfy_server.queue(good).status == "success"
    (path,) = (comfy_server.base_dir / "output" / "loras" / "failures").glob("good_*")
    expected, found = load_file(path), load_file(lora)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_that_gives_no_numbers_at_all_is_said_so_before_training(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = failing(sd15_checkpoint.name, "not_a_number", 0, 10**6, steps=2, seed=53)
    message = error_of(comfy_server.queue(prompt))
    assert "not a finite number before anything was trained" in message
    assert "kept" not in message


@contextmanager
def full_disk(server: ComfyServer) -> Iterator[None]:
    """The host cannot write files above 1.5 MB: less than a LoRA of rank 16 here."""
    import resource

    assert server.process_id is not None
    limits = resource.prlimit(server.process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process_id, resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process_id, resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process as only Linux can")
def test_no_room_on_disk_leaves_nothing_half_written(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    output = comfy_server.base_dir / "output"
    before = set(output.rglob("*"))
    prompt = training(sd15_checkpoint.name, "failures", 1, rank=16, seed=61)
    with full_disk(comfy_server):
        message = error_of(comfy_server.queue(prompt))
    assert "Make room and run again" in message
    new = {path.name for path in set(output.rglob("*")) - before if path.is_file()}
    assert new <= {"settings.json", "metrics.jsonl", "run.json", "model_card.md", "lock"}

    assert comfy_server.queue(prompt).status == "success"
    prompt["save"] = node(
        "DPOSaveLoRA", lora=["steps", 1], filename_prefix="loras/full/disk", trainer=["steps", 0]
    )
    with full_disk(comfy_server):
        message = error_of(comfy_server.queue(prompt))
    assert message.startswith("The LoRA could not be saved: ")
    assert "Nothing half-written is left" in message
    assert list((output / "loras" / "full").iterdir()) == []
    assert comfy_server.queue(prompt).status == "success"
    assert [p.name for p in (output / "loras" / "full").iterdir()] == ["disk_00001_.safetensors"]


def test_a_killed_server_goes_on_from_what_it_had_put_by_and_says_what_was_lost(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = training(sd15_checkpoint.name, "failures", 100_000, seed=71)
    runs = comfy_server.base_dir / "output" / "dpo" / "runs"
    before = set(runs.glob("*"))
    comfy_server.submit(prompt)
    deadline = time.monotonic() + 200
    while not (put_by := sorted(runs.glob("*/autosave_*.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    comfy_server.wait_for_event("progress", node="steps")
    os.kill(comfy_server.process_id or 0, signal.SIGKILL)
    comfy_server.stop()
    (run,) = set(runs.glob("*")) - before
    put_by = sorted(run.glob("autosave_*.safetensors"))
    step = int(put_by[-1].stem.removeprefix("autosave_"))
    rows = len((run / "metrics.jsonl").read_text().splitlines())
    assert step >= 50 and 0 <= rows - step < 100

    comfy_server.start()
    prompt["steps"]["inputs"]["steps"] = step + 2
    result = comfy_server.queue(prompt)
    assert result.status == "success", result.error
    # Nor is anything encoded again.
    *_, prompts, pictures = "\n".join(comfy_server.texts("dataset")).splitlines()
    assert re.fullmatch(r"encoded 0 of (\d+) prompts, \1 known already", prompts)
    assert re.fullmatch(r"encoded 0 of (\d+) pictures, \1 known already", pictures)
    line = f"going on from step {step}, which is on disk"
    assert line in comfy_server.log() and line in result.outputs["steps"]["text"][0]
    if lost := rows - step:
        line += f"; the training before was broken off, and {lost} step"
        assert line in result.outputs["steps"]["text"][0]
    assert not list(run.glob("autosave_*")) and not list(run.glob(".*.part"))
    assert [path.name for path in run.glob("step_*")] == [f"step_{step + 2:08d}.safetensors"]
