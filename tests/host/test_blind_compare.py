"""Blind comparison in a real ComfyUI: what is told before the reveal, and what the report says."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from hostkit.judging import registered
from hostkit.ranking import get_set, image_ids, noise, post_vote, shown_set
from hostkit.server import ComfyServer
from hostkit.workflows import Prompt, node, text_to_image
from PIL import Image
from safetensors.torch import save_file


def comparing(session: str, a: int = 1, b: int = 2, batch: int = 3, **inputs: Any) -> Prompt:
    """Two batches of noise to be compared; ids: a, b, blind."""
    settings: dict[str, Any] = {
        "images_a": ["a", 0], "images_b": ["b", 0], "prompts": "hills", "session": session,
    }  # fmt: skip
    return {
        "a": noise(a, batch),
        "b": noise(b, batch),
        "blind": node("DPOBlindCompare", **(settings | inputs)),
    }


def address(shown: dict[str, Any]) -> str:
    return f"/dpo/sessions/{quote(shown['session'])}/comparisons/{shown['comparison']}"


def choose_left(server: ComfyServer, session: str, set_id: str) -> None:
    left, right = image_ids(get_set(server, session, set_id))
    vote = {"kind": "comparison", "set": set_id, "left": left, "right": right, "result": "left"}
    post_vote(server, session, vote)


def test_picks_are_hidden_until_the_reveal_and_then_reported(comfy_server: ComfyServer) -> None:
    prompt = comparing("hidden", name_a="base", name_b="mine")
    result = comfy_server.queue(prompt)
    shown = shown_set(result, "blind")
    assert shown["mode"] == "side_by_side"
    assert "until you press Reveal" in result.outputs["blind"]["text"][0]
    told = comfy_server.get(address(shown)).json()
    sets = [one["set_id"] for one in told["couples"]]
    assert len(sets) == 3 and sets[0] == shown["set_id"] and told["result"] is None
    assert comfy_server.post(f"{address(shown)}/reveal", {}).status == 409

    for set_id in sets[:2]:
        choose_left(comfy_server, "hidden", set_id)
    again = comfy_server.queue(prompt)
    assert again.executed == ["blind"]  # the pictures come from the cache
    assert shown_set(again, "blind")["set_id"] == sets[2]
    assert "2 couples judged and not revealed" in again.outputs["blind"]["text"][0]
    assert comfy_server.get(address(shown)).json()["result"] is None

    revealed = comfy_server.post(f"{address(shown)}/reveal", {}).json()["result"]
    assert revealed["a"] + revealed["b"] == 2
    for one in revealed["prompts"][0]["pictures"]:
        assert comfy_server.get(one["a"]).status == comfy_server.get(one["b"]).status == 200
    report = comfy_server.queue(prompt).outputs["blind"]["text"][0]
    won = re.search(r"mine preferred (\d) times?, base (\d)", report)
    assert won and [int(one) for one in won.groups()] == [revealed["b"], revealed["a"]]
    assert comfy_server.queue(prompt).executed == []


def test_files_of_both_sides_tell_the_same_and_other_seeds_add_up(
    comfy_server: ComfyServer,
) -> None:
    shown = shown_set(comfy_server.queue(comparing("more", batch=2)), "blind")
    other = shown_set(comfy_server.queue(comparing("more", a=3, b=4, batch=2)), "blind")
    assert other["comparison"] == shown["comparison"] and other["set_id"] != shown["set_id"]
    assert len(comfy_server.get(address(shown)).json()["couples"]) == 4
    folder = comfy_server.base_dir / "output" / "dpo" / "sessions" / "more" / "images"
    for couple in comfy_server.get(address(shown)).json()["couples"]:
        ids = image_ids(get_set(comfy_server, "more", couple["set_id"]))
        one, two = (Image.open(folder / f"{image}.png").info for image in ids)
        assert one == two and "prompt" in one and "dpo_generation" not in one


def test_the_same_pictures_are_not_asked(comfy_server: ComfyServer) -> None:
    result = comfy_server.queue(comparing("same", a=5, b=5))
    assert shown_set(result, "blind")["set_id"] == ""
    assert "both sides drew the same pictures" in result.outputs["blind"]["text"][0]
    assert comfy_server.get(address(shown_set(result, "blind"))).json()["identical"] == 3


def test_everything_wrong_is_told_at_once(comfy_server: ComfyServer) -> None:
    prompt = comparing("wrong", prompts="one\ntwo", name_a="x", name_b="x")
    prompt["b"] = noise(2, batch=5, width=32)
    result = comfy_server.queue(prompt)
    assert result.status == "error"
    for part in ("`images_a` has 3", "2 prompts for 5", "Couple 1 has two sizes", "called 'x'"):
        assert part in result.error, part
    folder = comfy_server.base_dir / "output" / "dpo" / "sessions" / "wrong"
    assert not folder.exists()


def test_a_judge_alone_is_revealed_at_once_and_waits_for_a_person_who_takes_part(
    comfy_server: ComfyServer,
) -> None:
    prompt = comparing("judged", a=6, b=7, judge=["judge", 0])
    prompt["judge"] = registered("test redness")
    result = comfy_server.queue(prompt)
    told = comfy_server.get(address(shown_set(result, "blind"))).json()
    assert told["result"]["share"]["trials"] == 3 and told["hidden"] == 0
    # Whose every picture is, is told: nobody who chooses from now on counts as blind.
    assert sum(len(one["pictures"]) for one in told["result"]["prompts"]) == 3
    assert re.search(r"Judged by: .*redness.* 3\.", result.outputs["blind"]["text"][0])
    choose_left(comfy_server, "judged", told["couples"][0]["set_id"])
    report = comfy_server.queue(prompt).outputs["blind"]["text"][0]
    assert re.search(r"Judged by: .*redness.* 3\.", report) and "after the reveal" in report

    by_hand = comparing("judged by both", a=6, b=7)
    shown = shown_set(comfy_server.queue(by_hand), "blind")
    choose_left(comfy_server, "judged by both", shown["set_id"])
    by_hand |= {"judge": prompt["judge"]}
    by_hand["blind"]["inputs"]["judge"] = ["judge", 0]
    report = comfy_server.queue(by_hand).outputs["blind"]["text"][0]
    assert "3 couples judged and not revealed" in report and "preferred" not in report
    assert comfy_server.get(address(shown)).json()["result"] is None
    revealed = comfy_server.post(f"{address(shown)}/reveal", {}).json()["result"]
    assert re.fullmatch(r"you 1, .*redness.* 2", revealed["judged_by"])

    prompt["judge"] = registered("test raises")
    prompt["b"] = noise(8, batch=3)
    failed = comfy_server.queue(prompt)
    assert "what was judged before is kept" in failed.error and "test raises" in failed.error


def test_another_lora_begins_anew_and_one_that_is_not_known_is_said(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    folder = comfy_server.base_dir / "models" / "loras"
    for number, name in enumerate(("one", "two")):
        save_file({"layer.lora_up.weight": torch.full((2, 2), float(number))},
                  folder / f"blind_{name}.safetensors")  # fmt: skip
    prompt = comparing("loras", batch=1) | {"lora": node("DPOLoadLoRA", lora_name="")}
    found = []
    for name in ("one", "two", "one"):
        prompt["lora"]["inputs"]["lora_name"] = f"blind_{name}.safetensors"
        prompt["blind"]["inputs"]["lora_b"] = ["lora", 0]
        found.append(shown_set(comfy_server.queue(prompt), "blind")["comparison"])
    assert found[0] == found[2] != found[1]

    drawn = text_to_image(sd15_checkpoint.name)
    drawn |= comparing("unknown", batch=1)
    # Any node but a loader: what it made is not in the graph.
    drawn["a"] = noise(1, batch=1, height=64, width=64)
    drawn["lora"] = node("TestEmptyLora")
    drawn["applied"] = node("LoraModelLoader", model=["checkpoint", 0], lora=["lora", 0],
                            strength_model=1.0, bypass=False)  # fmt: skip
    drawn["sampler"]["inputs"]["model"] = ["applied", 0]
    drawn["blind"]["inputs"]["images_b"] = ["decode", 0]
    for name in ("save", "b"):
        del drawn[name]
    told = comfy_server.queue(drawn).outputs["blind"]["text"][0]
    assert "whether the LoRA of TestEmptyLora on `images_b` changes" in told
    drawn["blind"]["inputs"]["lora_b"] = ["lora", 0]
    assert "cannot be told whether" not in comfy_server.queue(drawn).outputs["blind"]["text"][0]


@pytest.mark.parametrize("path", ["nobody", "..%2f..", "hidden"])
def test_what_is_not_there_is_said(comfy_server: ComfyServer, path: str) -> None:
    reply = comfy_server.get(f"/dpo/sessions/{path}/comparisons/{uuid.uuid4().hex[:16]}")
    assert reply.status in (400, 404) and reply.json()["error"]
