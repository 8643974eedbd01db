"""Rounds of online training through a running ComfyUI, by a judge and by a person."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostkit.bare_model import bare_latents
from hostkit.denoising import write_denoising_checkpoint
from hostkit.judging import judge, registered
from hostkit.ranking import get_set, pick, shown_set
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, node, objective, trainer
from PIL import Image
from safetensors.torch import load_file

PROMPTS = "a cat\na dog"
SEED_NAMES = (
    "objective/kl", "objective/rlhf_reward", "objective/non_score_reward", "objective/scores",
    "objective/scores_margin", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
    "rewards/margins", "logps/chosen", "logps/rejected", "beta", "diversity",
)  # fmt: skip
"""What TRL's Online DPO trainer logs, as far as it has a meaning for images, and diversity."""


@pytest.fixture(scope="module")
def denoiser(
    comfy_server: ComfyServer, sd15_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The name of a checkpoint that draws pictures of one colour each."""
    file = write_denoising_checkpoint(sd15_checkpoint, tmp_path_factory.mktemp("denoiser"))
    (comfy_server.base_dir / "models" / "checkpoints" / file.name).symlink_to(file)
    return file.name


def online(
    checkpoint: str, session: str, by: dict[str, Any] | None = None, **inputs: Any
) -> Prompt:
    """Rounds on a checkpoint; ids: checkpoint, trainer, judge, rounds, save."""
    settings: dict[str, Any] = {
        "trainer": ["trainer", 0],
        "clip": ["checkpoint", 1],
        "vae": ["checkpoint", 2],
        "prompts": PROMPTS,
        "negative": "",
        "session": session,
        "mode": "best_worst",
        "rounds": 1,
        "images_per_prompt": 3,
        "steps_per_round": 2,
        "pairs_per_group": 1,
        "seed": 0,
        "steps": 2,
        "cfg": 1.0,
        "sampler": "euler",
        "scheduler": "normal",
        "width": 32,
        "height": 32,
        "held_out_seeds": 0,
    }
    prompt: Prompt = {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "trainer": trainer(rank=4, alpha=4.0),
        "rounds": node("DPOOnlineRounds", **settings),
    }
    del prompt["trainer"]["inputs"]["dataset"]
    if by is not None:
        prompt["judge"] = by
        prompt["rounds"]["inputs"]["judge"] = ["judge", 0]
    prompt["rounds"]["inputs"] |= inputs
    prompt["save"] = node(
        "DPOSaveLoRA", lora=["rounds", 1], filename_prefix=f"loras/{session}/it",
        trainer=["rounds", 0],
    )  # fmt: skip
    return prompt


def rounds_of(server: ComfyServer, session: str) -> list[dict[str, Any]]:
    """What is noted of a session's rounds."""
    for folder in (server.base_dir / "output" / "dpo" / "online").iterdir():
        if json.loads((folder / "settings.json").read_text())["session"] == session:
            return list(json.loads((folder / "rounds.json").read_text())["rounds"])
    return []


def text_of(result: RunResult) -> str:
    assert result.status == "success", result.error
    (text,) = result.outputs["rounds"]["text"]
    return str(text)


def loras(server: ComfyServer, session: str) -> list[Path]:
    return sorted((server.base_dir / "output" / "loras" / session).glob("*.safetensors"))


def votes(server: ComfyServer, session: str) -> list[dict[str, Any]]:
    file = server.base_dir / "output" / "dpo" / "sessions" / session / "votes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_three_rounds_with_a_measurable_judge_raise_its_score_each_time(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    session = "raised"
    prompt = online(
        denoiser, session, judge("target_colour", colour="#0000ff"), rounds=3, steps=3,
        images_per_prompt=6, pairs_per_group=2, prompts="a cat\na dog\nthe sea\na red house",
        steps_per_round=8, held_out_seeds=4, reference="each_round",
    )  # fmt: skip
    prompt["trainer"]["inputs"] |= {
        "learning_rate": 2e-4, "batch_size": 4, "execution_mode": "full_concurrent",
        "objective": ["objective", 0],
    }  # fmt: skip
    prompt["objective"] = objective(beta=500.0)
    prompt["curves"] = node("PreviewAny", source=["rounds", 2])
    result = comfy_server.queue(prompt)
    text_of(result)
    rows = [one["metrics"] for one in rounds_of(comfy_server, session)]
    scores = [row["objective/scores"] for row in rows]
    assert scores[0] < scores[1] < scores[2]
    # Of other seeds than those of training, compared with the same before all rounds.
    held_out = [row["held_out/gain"] for row in rows]
    assert 0 < held_out[0] < held_out[1] < held_out[2]
    assert all(row["held_out/win_rate"] > 0.75 for row in rows)
    assert [row["replayed"] for row in rows] == [0, 8, 8] and rows[2]["pairs"] == 8
    for name in SEED_NAMES:
        assert all(name in row for row in rows), name
        assert f'"{name}"' in result.outputs["curves"]["text"][0].replace("'", '"'), name
    assert all(row["beta"] == 500 for row in rows)
    for row in rows:
        kl, score = row["objective/kl"], row["objective/scores"]
        assert row["objective/non_score_reward"] == pytest.approx(500 * kl)
        assert row["objective/rlhf_reward"] == pytest.approx(score - 500 * kl)

    # The same rounds asked for again are there; more of them go on.
    comfy_server.free()
    drawn = len(votes(comfy_server, session))
    again = comfy_server.queue(prompt)
    assert "3 rounds of this session are played" in text_of(again)
    assert len(votes(comfy_server, session)) == drawn and len(loras(comfy_server, session)) == 1
    prompt["rounds"]["inputs"] |= {"rounds": 4, "steps_per_round": 1, "prompts": "a cat"}
    comfy_server.queue(prompt)
    last = rounds_of(comfy_server, session)[3]
    assert last["start"][1] == 24 and last["end"][1] == 25
    assert len(loras(comfy_server, session)) == 2


def test_a_person_ranks_between_runs_and_a_restart_loses_nothing(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    session = "by hand"
    prompt = online(denoiser, session, held_out_seeds=1)
    prompt["samples"] = node("PreviewImage", images=["rounds", 3])
    prompt["strip"] = node("PreviewImage", images=["rounds", 4])
    prompt["after"] = node("PreviewAny", source=["rounds", 0])
    first = comfy_server.queue(prompt)
    assert "Round 1 is here: 2 sets" in text_of(first)
    # There is no LoRA yet, nor a training to go on from, and that is no error.
    assert "save" not in first.outputs and "after" not in first.outputs
    assert len(first.outputs["samples"]["images"]) == 6
    shown = shown_set(first, "rounds")
    assert shown["mode"] == "best_worst" and shown["session"] == session
    untouched = comfy_server.queue(prompt)
    assert "rounds" not in untouched.executed  # nothing was ranked: nothing is to be done

    value = pick(comfy_server, shown, best=0, worst=2)
    prompt["rounds"]["inputs"]["ranking"] = value
    second = comfy_server.queue(prompt)
    assert "Round 1: 1 pair, at step 2" in text_of(second)
    assert "Round 2 is here" in text_of(second)
    one, two = rounds_of(comfy_server, session)
    assert one["closed"] and two["start"] == one["end"] and not two["closed"]
    assert one["metrics"]["rewards/accuracies"] >= 0 and "objective/scores" not in one["metrics"]
    next_shown = shown_set(second, "rounds")
    assert next_shown["set_id"] in two["sets"] and next_shown["set_id"] not in one["sets"]
    (lora,) = loras(comfy_server, session)
    assert any(bool(w.any()) for name, w in load_file(lora).items() if "lora_B" in name)

    comfy_server.stop()
    comfy_server.start()
    # As a script does it.
    ids = set_images(comfy_server, next_shown["set_id"])
    vote = {
        "kind": "best_worst", "set": next_shown["set_id"], "best": ids[1], "worst": ids[0],
    }  # fmt: skip
    prompt["rounds"]["inputs"]["ranking"] = {"votes": [vote]}
    # What else is changed meanwhile does not begin anew.
    prompt["trainer"]["inputs"]["learning_rate"] = 2e-3
    prompt["rounds"]["inputs"] |= {"prompts": "a bird", "images_per_prompt": 2, "seed": 5}
    third = comfy_server.queue(prompt)
    assert "Round 2: 1 pair and 1 replayed, at step 4" in text_of(third)
    _, _, three = rounds_of(comfy_server, session)
    assert three["prompts"] == ["a bird"] and three["start"] == [*rounds_of(
        comfy_server, session)[1]["end"]]
    assert len(loras(comfy_server, session)) == 2


def set_images(server: ComfyServer, set_id: str) -> list[str]:
    view = get_set(server, "by hand", set_id)
    return [image["id"] for image in view["images"]]


def test_a_stop_between_pictures_and_one_in_training_lose_neither(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    session = "stopped"
    untouched = bare_latents(comfy_server, denoiser, 2)
    prompt = online(
        denoiser, session, registered("test counted"), prompts="\n".join("abcdef"), steps=6,
        steps_per_round=300, images_per_prompt=2,
    )  # fmt: skip
    prompt_id = comfy_server.submit(prompt)
    wait_for_text(comfy_server, "drawing prompt 3 of 6")
    comfy_server.interrupt()
    assert comfy_server.wait(prompt_id, timeout=60).status == "interrupted"
    (one,) = rounds_of(comfy_server, session)
    assert len(one["sets"]) in (2, 3) and not one["training"]
    before = list(one["sets"])

    prompt_id = comfy_server.submit(prompt)
    wait_for_text(comfy_server, "/300")
    comfy_server.interrupt()
    stopped = comfy_server.wait(prompt_id, timeout=60)
    assert stopped.status == "interrupted"
    (one,) = rounds_of(comfy_server, session)
    assert one["sets"][: len(before)] == before and len(one["sets"]) == 6
    runs = comfy_server.base_dir / "output" / "dpo" / "runs"
    (checkpoint,) = (runs / one["training"]).glob("step_*.safetensors")
    done = int(checkpoint.stem.removeprefix("step_"))
    asked = (comfy_server.base_dir / "output" / "judged.txt").read_text()

    prompt["rounds"]["inputs"]["steps_per_round"] = done + 1
    text = text_of(comfy_server.queue(prompt))
    assert f"at step {done + 1}" in text and f"going on from step {done}" in text
    (one,) = rounds_of(comfy_server, session)
    assert one["closed"] and one["end"][1] == done + 1
    # Nor was the judge asked again.
    assert (comfy_server.base_dir / "output" / "judged.txt").read_text() == asked
    assert torch.equal(bare_latents(comfy_server, denoiser, 3), untouched)


def test_pictures_that_do_not_fit_together_are_drawn_one_by_one_and_are_the_same(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    for session in ("together", "one by one"):
        prompt = online(denoiser, session, registered("test redness"), steps_per_round=1)
        if session == "one by one":
            prompt["broken"] = node(
                "TestFailingModel", model=["checkpoint", 0], failure="out_of_memory", first=1,
                times=1,
            )  # fmt: skip
            prompt["trainer"]["inputs"]["model"] = ["broken", 0]
        text_of(comfy_server.queue(prompt))
    assert "3 pictures do not fit in memory together" in "\n".join(comfy_server.texts("rounds"))
    together, alone = (
        [pixels_of(comfy_server, session, set_id) for set_id in one["sets"]]
        for session in ("together", "one by one")
        for one in rounds_of(comfy_server, session)
    )
    for first, second in zip(together, alone, strict=True):
        # A batch and single rows may differ in the last bit of a float.
        assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


def pixels_of(server: ComfyServer, session: str, set_id: str) -> np.ndarray:
    folder = server.base_dir / "output" / "dpo" / "sessions" / session / "images"
    ids = [image["id"] for image in get_set(server, session, set_id)["images"]]
    return np.stack([np.asarray(Image.open(folder / f"{one}.png")) for one in ids])


def wait_for_text(server: ComfyServer, wanted: str) -> None:
    deadline = time.monotonic() + 90
    while not any(wanted in line for line in server.texts("rounds")):
        assert time.monotonic() < deadline, server.texts("rounds")[-3:]
        time.sleep(0.02)


def test_a_judge_that_fails_keeps_the_pictures_and_another_goes_on_with_them(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    session = "mended"
    prompt = online(denoiser, session, registered("test raises"))
    result = comfy_server.queue(prompt)
    assert result.status == "error" and "test raises" in result.error
    assert "The pictures of round 1 and all rounds before are kept" in result.error
    (one,) = rounds_of(comfy_server, session)
    assert len(one["sets"]) == 2 and not one["closed"]
    prompt["judge"] = registered("test nan")
    result = comfy_server.queue(prompt)
    assert result.status == "error" and "the score nan" in result.error
    prompt["judge"] = registered("test redness")
    assert "Round 1: 2 pairs, at step 2" in text_of(comfy_server.queue(prompt))
    (again,) = rounds_of(comfy_server, session)
    assert again["sets"] == one["sets"]


def test_rounds_in_which_nothing_is_told_apart_train_nothing_and_say_so(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    session = "alike"
    result = comfy_server.queue(
        online(denoiser, session, registered("test all alike"), rounds=2, prompts="a cat")
    )
    text = text_of(result)
    assert text.count("no pictures were told apart, so nothing was trained") == 2
    assert "save" not in result.outputs
    assert [one["end"] for one in rounds_of(comfy_server, session)] == [None, None]


def test_rounds_stop_early_where_held_out_pictures_get_no_better(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    prompt = online(
        denoiser, "no better", registered("test redness"), rounds=5, patience=2, prompts="a cat",
        held_out_seeds=1,
    )  # fmt: skip
    prompt["trainer"]["inputs"]["learning_rate"] = 1e-8  # too little for a picture to change
    text = text_of(comfy_server.queue(prompt))
    assert "Stopped early: 2 rounds without a better score" in text
    rounds = rounds_of(comfy_server, "no better")
    assert [one["metrics"]["held_out/gain"] for one in rounds] == [0, 0]


def test_everything_out_of_range_is_said_at_once(comfy_server: ComfyServer, denoiser: str) -> None:
    result = comfy_server.queue(online(denoiser, "wrong", prompts=" \n", min_gap=0.0))
    assert result.status == "error"
    assert "There is no prompt: write at least one line." in result.error
    assert rounds_of(comfy_server, "wrong") == []


def test_the_reference_moves_only_when_asked(comfy_server: ComfyServer, denoiser: str) -> None:
    sets = {"rounds": 2, "prompts": "a cat", "held_out_seeds": 0}
    kept = online(denoiser, "kept", registered("test redness"), **sets)
    moved = online(denoiser, "moved", registered("test redness"), **sets, reference="each_round")
    first = {}
    for session, prompt in (("kept", kept), ("moved", moved)):
        text_of(comfy_server.queue(prompt))
        run = rounds_of(comfy_server, session)[1]["end"][0]
        folder = comfy_server.base_dir / "output" / "dpo" / "runs" / run
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        first[session] = rows[0]
        assert (folder / "reference.safetensors").exists() == (session == "moved")
    # At the first step of the second round the LoRA has moved away from what it was held to in the
    # first, and not yet from what it was at the beginning of the second.
    assert first["kept"]["prediction_change"] > 1e-9
    assert first["moved"]["prediction_change"] == 0

    # Nor does it stay where it has moved once it is to be kept.
    moved["rounds"]["inputs"] |= {"rounds": 3, "reference": "keep"}
    text_of(comfy_server.queue(moved))
    last = rounds_of(comfy_server, "moved")[2]["end"][0]
    runs = comfy_server.base_dir / "output" / "dpo" / "runs"
    assert not (runs / last / "reference.safetensors").exists()

    shutil.rmtree(runs / last)
    moved["rounds"]["inputs"]["rounds"] = 4
    lost = comfy_server.queue(moved)
    assert lost.status == "error" and f"step 6 of run {last}" in lost.error
    assert "another session" in lost.error


def test_sessions_whose_rounds_begin_alike_do_not_share_what_they_forget(
    comfy_server: ComfyServer, denoiser: str
) -> None:
    short, long = (
        online(
            denoiser, session, registered("test redness"), rounds=rounds, prompts="a cat",
            steps_per_round=1,
        )
        for session, rounds in (("short", 1), ("long", 4))
    )  # fmt: skip
    text_of(comfy_server.queue(short))
    text_of(comfy_server.queue(long))
    comfy_server.free()
    short["rounds"]["inputs"]["rounds"] = 2
    assert "Round 2" in text_of(comfy_server.queue(short))
    runs = comfy_server.base_dir / "output" / "dpo" / "runs"
    kept = [
        len(list((runs / one["end"][0]).glob("step_*"))) for one in rounds_of(comfy_server, "long")
    ]
    assert kept[2:] == [1, 1] and kept[0] == 0
