"""Judge and Judge Images in a real ComfyUI: what they give, keep, and refuse."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from hostkit.judging import judge, judging, registered
from hostkit.ranking import noise, pick, rank, shown_set
from hostkit.server import ComfyServer, PromptRejected, RunResult
from hostkit.workflows import Prompt, node, text_to_image
from PIL import Image


def log(server: ComfyServer, session: str) -> list[dict[str, Any]]:
    path = server.base_dir / "output/dpo/sessions" / session / "votes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def refusal(server: ComfyServer, prompt: Prompt, at: str) -> str:
    result = server.queue(prompt)
    failed = result.message("execution_error")
    assert failed is not None and failed["node_id"] == at
    return result.error


def scores(result: RunResult) -> str:
    assert result.status == "success", result.error
    return str(result.outputs["scores"]["text"][0])


def images_of(server: ComfyServer, result: RunResult, node_id: str) -> list[np.ndarray]:
    records = result.outputs[node_id]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.image(one)))) for one in records]


def exported(server: ComfyServer, session: str, side: str) -> np.ndarray:
    return np.asarray(Image.open(server.base_dir / "output" / session / side / "0001.png"))


def test_a_batch_becomes_scores_images_best_first_and_a_pair(comfy_server: ComfyServer) -> None:
    result = comfy_server.queue(judging("redness", registered("test redness")))
    shown, ranked = (images_of(comfy_server, result, name) for name in ("judged", "ranked"))
    redness = [float(image[..., 0].mean()) for image in ranked]
    assert redness == sorted(redness, reverse=True) and len(set(redness)) == 4
    assert all(np.array_equal(a, b) for a, b in zip(shown, ranked, strict=True))
    assert np.array_equal(exported(comfy_server, "redness", "chosen"), ranked[0])
    assert np.array_equal(exported(comfy_server, "redness", "rejected"), ranked[3])

    first, *_, pair = scores(result).splitlines()
    draw = torch.rand(4, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    order = draw[..., 0].mean(dim=(1, 2)).argsort(descending=True).tolist()
    assert first.startswith(f"image {order[0] + 1}: {redness[0]:.4g} = test redness ")
    assert pair == f"Pair: image {order[0] + 1} over image {order[3] + 1}."
    (text,) = result.outputs["judged"]["text"]
    assert scores(result) in text and "1 pair" in text

    (vote,) = (one for one in log(comfy_server, "redness") if one["kind"] == "ranking")
    assert vote["by"] == "judge"
    assert sorted(vote["judges"][0]["scores"].values(), reverse=True) == redness


def test_what_was_judged_is_not_asked_again(comfy_server: ComfyServer) -> None:
    prompt = judging("again", registered("test counted"), seed=1, prompt="asked once")
    first = comfy_server.queue(prompt)
    assert comfy_server.queue(prompt).status == "success"
    prompt["judged"]["inputs"]["pairs_per_group"] = 2
    last = comfy_server.queue(prompt)
    assert "judged" in last.executed and scores(last).count("Pair:") == 2
    assert scores(last).splitlines()[:4] == scores(first).splitlines()[:4]
    asked = (comfy_server.base_dir / "output" / "judged.txt").read_text().splitlines()
    assert asked.count("asked once") == 1
    assert comfy_server.queue(prompt).executed == []


def test_judges_in_a_row_are_added_up_by_weight(comfy_server: ComfyServer) -> None:
    prompt = judging("mixture", judge("contrast", weight=-2.0, also=["red", 0]), seed=2)
    prompt["red"] = registered("test redness", weight=0.5)
    line = scores(comfy_server.queue(prompt)).splitlines()[0]
    total, parts = line.split(": ")[1].split(" = ")
    red, contrast = (float(one.split()[-1]) for one in parts.split(" + "))
    assert parts.startswith("0.5 x test redness ") and " + -2 x contrast " in parts
    assert float(total) == pytest.approx(0.5 * red - 2 * contrast, rel=2e-3)


def test_where_two_judges_disagree_agree_makes_no_pair(comfy_server: ComfyServer) -> None:
    against = {"also": ["other", 0], "weight": -1.0}
    prompt = judging("disagree", registered("test redness", agree=True, **against), seed=3)
    prompt["other"] = registered("test redness", weight=2.0)
    result = comfy_server.queue(prompt)
    assert "there are no two images of which all judges prefer the same one" in scores(result)
    assert "pairs" not in result.outputs and len(images_of(comfy_server, result, "ranked")) == 4
    prompt["judge"]["inputs"]["weight"] = 1.0
    assert "Pair: " in scores(comfy_server.queue(prompt))


def test_a_judge_that_compares_ranks_too(comfy_server: ComfyServer) -> None:
    result = comfy_server.queue(judging("darker", registered("test darker"), seed=4))
    means = [float(image.mean()) for image in images_of(comfy_server, result, "ranked")]
    assert means == sorted(means) and "pairs" in result.outputs


def test_all_tied_is_said_and_blocks_pairs_only_while_the_session_has_none(
    comfy_server: ComfyServer,
) -> None:
    tied = judging("tied", registered("test all alike"), seed=5)
    result = comfy_server.queue(tied)
    assert "Nothing is told apart" in scores(result) and "Pair:" not in scores(result)
    assert "pairs" not in result.outputs and result.message("execution_error") is None
    assert comfy_server.queue(judging("tied", registered("test redness"), 6)).status == "success"
    tied["judged"]["inputs"]["pairs_per_group"] = 2
    assert "pairs" in comfy_server.queue(tied).outputs


def test_min_gap_leaves_out_what_is_too_close(comfy_server: ComfyServer) -> None:
    prompt = judging("gap", registered("test redness"), seed=7, min_gap=1000.0)
    result = comfy_server.queue(prompt)
    assert "which is less than min_gap 1000" in scores(result) and "pairs" not in result.outputs
    prompt["judged"]["inputs"]["min_gap"] = 0.1
    assert "Pair: " in scores(comfy_server.queue(prompt))


def test_this_batch_gives_its_own_pairs_alone(comfy_server: ComfyServer) -> None:
    for seed in (8, 9):
        prompt = judging("batches", registered("test redness"), seed, use="this_batch")
        prompt["pairs"]["inputs"]["folder"] = f"batch {seed}"
        assert comfy_server.queue(prompt).status == "success"
    prompt["judged"]["inputs"]["use"] = "session"
    prompt["pairs"]["inputs"]["folder"] = "both batches"
    comfy_server.queue(prompt)
    output = comfy_server.base_dir / "output"
    folders = ("batch 8", "batch 9", "both batches")
    assert [len(list((output / one / "chosen").glob("*.png"))) for one in folders] == [1, 1, 2]


def test_a_persons_word_stands(comfy_server: ComfyServer) -> None:
    images = {"images": noise(10), "rank": rank(["images", 0], "person", prompt="a cat")}
    shown = shown_set(comfy_server.queue(images))
    pick(comfy_server, shown, best=2, worst=1)
    result = comfy_server.queue(judging("person", registered("test redness"), seed=10))
    assert "A person has ranked these images" in scores(result)
    assert "Pair: image 3 over image 2." in scores(result)
    assert all(one.get("by") != "judge" for one in log(comfy_server, "person"))


def test_the_prompt_is_read_from_the_graph(
    comfy_server: ComfyServer, sd15_checkpoint: Any
) -> None:
    made = text_to_image(sd15_checkpoint.name, "a red fox", steps=1, batch=2, size=32)
    prompt = judging("traced", registered("test redness"), images=["decode", 0], prompt="")
    assert comfy_server.queue(made | prompt).status == "success"
    (stored,) = (one for one in log(comfy_server, "traced") if one["kind"] == "set")
    assert stored["prompt"] == "a red fox"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test raises", "failed with IndexError"),
        ("test nan", "the score nan. It must give a list of 4 numbers"),
    ],
)
def test_images_are_kept_where_a_judge_fails(
    comfy_server: ComfyServer, name: str, said: str
) -> None:
    message = refusal(comfy_server, judging(name, registered(name), seed=11), "judged")
    assert f"The judge {name} " in message and said in message
    assert f"The images are stored in the session {name}" in message
    (kept,) = log(comfy_server, name)
    folder = comfy_server.base_dir / "output/dpo/sessions" / name / "images"
    assert kept["kind"] == "set" and len(list(folder.glob("*.png"))) == 4
    mended = comfy_server.queue(judging(name, registered("test redness"), seed=11))
    assert "pairs" in mended.outputs


def test_judging_stops_when_stop_is_pressed(comfy_server: ComfyServer) -> None:
    result = comfy_server.queue(judging("stopped", registered("test stops"), seed=12))
    assert result.status == "interrupted"
    assert [one["kind"] for one in log(comfy_server, "stopped")] == ["set"]


def only(by: dict[str, Any]) -> Prompt:
    return judging("refused", by, seed=13)


def test_what_a_judge_lacks_is_told_at_once(comfy_server: ComfyServer) -> None:
    message = refusal(comfy_server, only(judge("aesthetic", agree=True, weight=0.0)), "judge")
    assert message.startswith("This judge cannot be used:\n- aesthetic needs weights: put its file")
    wanted = ("aesthetic needs clip_vision: connect", "agree is on, but", "weight is 0, so")
    assert all(f"\n- {one}" in message for one in wanted)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (judge("clip_similarity"), "clip_similarity needs clip: connect a text model"),
        (judge("reward_model"), "reward_model needs weights: put its file or folder"),
        (judge("vision_language"), "vision_language needs clip: connect"),
        (judge("registered"), "registered needs registered: choose"),
        (judge("target_colour", colour="red"), "'red' is no colour"),
    ],
)
def test_a_judge_without_what_it_is_made_of_is_refused(
    comfy_server: ComfyServer, by: dict[str, Any], said: str
) -> None:
    assert said in refusal(comfy_server, only(by), "judge")


def test_the_text_encoder_of_a_checkpoint_writes_nothing(
    comfy_server: ComfyServer, sd15_checkpoint: Any
) -> None:
    prompt = only(judge("vision_language", clip=["checkpoint", 1]))
    prompt["checkpoint"] = node("CheckpointLoaderSimple", ckpt_name=sd15_checkpoint.name)
    assert "clip cannot write text. Load a language model" in refusal(comfy_server, prompt, "judge")


def test_weights_are_chosen_among_those_on_disk(comfy_server: ComfyServer) -> None:
    folder = comfy_server.base_dir / "models" / "judges"
    folder.mkdir(exist_ok=True)
    torch.save({"weight": torch.ones(1, 768), "bias": torch.ones(1)}, folder / "head.pth")
    torch.save({"a.weight": torch.ones(3, 3)}, folder / "other.pt")
    info = comfy_server.object_info("DPOJudge")["input"]["optional"]
    assert info["weights"][1]["options"] == ["none", "head.pth", "other.pt"]
    said = refusal(comfy_server, only(judge("reward_model", weights="head.pth")), "judge")
    assert "is an aesthetic head" in said
    said = refusal(comfy_server, only(judge("reward_model", weights="other.pt")), "judge")
    assert "holds no judge that is known here" in said
    for name in ("../checkpoints/x.safetensors", str(folder / "head.pth")):
        with pytest.raises(PromptRejected, match="not in list"):
            comfy_server.queue(only(judge("reward_model", weights=name)))


def test_judges_of_other_packs_are_listed_and_what_is_none_is_left_out(
    comfy_server: ComfyServer,
) -> None:
    _, found = comfy_server.object_info("DPOJudge")["input"]["optional"]["registered"]
    assert {"none", "test redness", "test darker"} < set(found["options"])
    assert "no judge" not in found["options"]
