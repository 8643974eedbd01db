"""Blind comparison in ComfyUI's page: couples judged, the reveal, and the example workflow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hostkit.server import ComfyServer
from safetensors import safe_open
from safetensors.torch import save_file
from webkit.comparison import Comparison
from webkit.front_end import FrontEnd
from webkit.ranking import connect, fill_in, load_batch

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

CHECKPOINT = "tiny.safetensors"
LORA = "taste.safetensors"


def write_lora(server: ComfyServer) -> None:
    """A LoRA of random weights on the attention of the tiny checkpoint."""
    prefix, tensors = "model.", {}
    models = server.base_dir / "models"
    with safe_open(models / "checkpoints" / CHECKPOINT, "pt") as file:
        names = [n for n in file.keys() if "diffusion_model" in n and ".attn1.to_" in n]
        for name in (one for one in names if one.endswith(".weight")):
            layer = name.removeprefix(prefix).removesuffix(".weight")
            rows, columns = file.get_slice(name).get_shape()
            tensors[f"{layer}.lora_up.weight"] = torch.randn(rows, 4)
            tensors[f"{layer}.lora_down.weight"] = torch.randn(4, columns)
    save_file(tensors, models / "loras" / LORA)


def compared(front_end: FrontEnd, session: str, count: int, **settings: Any) -> Comparison:
    """A node that compares two batches of landscapes, next to those that load them."""
    blind = front_end.add("DPOBlindCompare")
    for number, side in enumerate("ab"):
        load = front_end.add("LoadImage", x=-400, y=500 * number)
        load_batch(front_end, load, f"{session}-{side}", count, first=50 * number)
        connect(load, 0, blind, f"images_{side}")
    fill_in(blind, session=session, prompts="hills at dusk", **settings)
    return Comparison(front_end, blind.id)


def run(front_end: FrontEnd, comparison: Comparison) -> str:
    """Runs the workflow; the report."""
    found = front_end.run()
    assert (found.status, found.error) == ("success", "")
    comparison.node.show()
    return "\n".join(found.outputs[str(comparison.node.id)]["text"])


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)
def test_couples_follow_each_other_and_the_reveal_tells_of_those_judged_alone(
    front_end: FrontEnd,
) -> None:
    comparison = compared(front_end, "by-hand", 3, name_a="before", name_b="after")
    told: list[str] = []
    listen(front_end.page, told)
    assert "until you press Reveal" in run(front_end, comparison)
    first = comparison.wait_for_couple()
    front_end.screenshot("blind_pictures")
    assert comparison.whole.get_by_role("button", name="Reveal").first.is_disabled()
    comparison.button("The left image is better").click()
    second = comparison.wait_for_couple(besides=first)
    comparison.wait_for_progress("1 of 3 couples judged")

    # What was chosen survives F5, and the next couple comes.
    comparison.button("A tie: equally good").click()
    comparison.wait_for_progress("2 of 3 couples judged")
    front_end.reload()
    comparison.node.show()
    third = comparison.wait_for_couple(besides=second)
    assert third not in (first, second)
    assert "after" not in "".join(told) and '"made_with"' not in "".join(told)

    comparison.reveal.click()
    result = comparison.result
    result.get_by_text("Preferred:").wait_for()
    tell = comparison.told()
    assert (tell["hidden"], tell["result"]["ties"]) == (0, 1)
    assert third not in str(tell["result"]["prompts"])
    assert result.locator(".dpo-couple img").count() == 4
    front_end.screenshot("blind_revealed_part")
    result.get_by_role("button", name="Back to the pictures").click()
    assert comparison.wait_for_couple() == third
    comparison.wait_for_progress("2 of 3 couples judged")
    comparison.button("The right image is better").click()
    result.get_by_text("1 more judged since").wait_for()
    assert front_end.errors == []


def listen(page: Page, told: list[str]) -> None:
    """Keeps what the server answers to the widget."""

    def keep(request: Request) -> None:
        response = request.response()
        if "/dpo/" in request.url and response is not None:
            told.append(response.text())

    page.on("requestfinished", keep)


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)
def test_the_example_draws_compares_and_reveals(front_end: FrontEnd) -> None:
    write_lora(front_end.server)
    front_end.open_template(front_end.server.pack_dir.name, "blind_compare")
    fill_in(front_end.node("CheckpointLoaderSimple"), ckpt_name=CHECKPOINT)
    fill_in(front_end.node("LoraLoaderModelOnly"), lora_name=LORA)
    fill_in(front_end.node("EmptyLatentImage"), width=64, height=64, batch_size=2)
    for sampler in front_end.nodes("KSampler"):
        fill_in(sampler, steps=2)
    comparison = Comparison(front_end, front_end.node("DPOBlindCompare").id)
    run(front_end, comparison)
    sets = {comparison.wait_for_couple()}
    comparison.panel.focus()
    comparison.press("ArrowLeft")
    sets.add(comparison.wait_for_couple(besides=next(iter(sets))))
    comparison.press("f", "ArrowRight")
    # The last one leaves the full screen, to what it comes to.
    comparison.result.get_by_text("All 2 are judged").wait_for()
    assert front_end.page.locator("dialog[open]").count() == 0
    front_end.screenshot("blind_judged")

    comparison.reveal.click()
    comparison.result.get_by_text("Preferred:").wait_for()
    front_end.screenshot("blind_revealed")

    # Other seeds bring more, and what was revealed is reported.
    report = run(front_end, comparison)
    assert comparison.wait_for_couple() not in sets
    comparison.wait_for_progress("2 of 4 couples judged")
    assert re.search(r"LoRA preferred \d times?, base \d times?", report)
    assert f"LoRA: drawn with {CHECKPOINT} + {LORA}." in report
    assert "seed" not in report  # both have the same
    assert front_end.node("What it comes to").value("preview_text") in report
    front_end.page.wait_for_timeout(500)
    front_end.command("Comfy.Undo")
    front_end.page.wait_for_timeout(800)
    assert comparison.whole.is_visible()
    assert front_end.errors == []
