"""What training says while it runs: in a corner of ComfyUI's page."""

from __future__ import annotations

import re

import pytest
from hostkit.pair_folder import write_pairs
from playwright.sync_api import expect
from webkit.front_end import CANVAS_MODES, FrontEnd
from webkit.training import add_training

_WARN = "detail => app.api.dispatchCustomEvent('dpo.warning', detail)"


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)  # the corner knows no nodes
def test_warnings_are_shown_as_text_each_once(front_end: FrontEnd) -> None:
    page = front_end.page
    mild = page.get_by_text("Look at <b>the pairs</b>.", exact=True)  # text, never HTML
    serious = page.get_by_text("Stop here.", exact=True)
    expect(mild).to_have_count(0)
    page.evaluate(_WARN, {"node": "1", "text": "Look at <b>the pairs</b>.", "serious": False})
    page.evaluate(_WARN, {"node": "1", "text": "Stop here.", "serious": True})
    for shown in (mild, serious):
        expect(shown).to_have_count(1)
        expect(shown).to_be_visible()
    front_end.screenshot("training_warning")
    page.evaluate("() => app.extensionManager.toast.removeAll()")
    for shown in (mild, serious):
        expect(shown).to_have_count(0)
    assert front_end.errors == []


def test_stop_says_on_the_node_and_in_the_corner_where_everything_is(
    front_end: FrontEnd, canvas_mode: str
) -> None:
    write_pairs(front_end.server.base_dir / "input" / "stopped", 4)
    seed = 9 + CANVAS_MODES.index(canvas_mode)
    chart = add_training(front_end, "tiny.safetensors", "stopped", 4000, seed=seed)
    chart.node.show()
    prompt_id = front_end.queue()
    trains = re.compile(r"Step \d+ of 4000, .+ left")
    expect(chart.status).to_have_text(trains, timeout=60_000)
    front_end.server.interrupt()
    front_end.server.wait(prompt_id)
    said = front_end.page.get_by_text(re.compile(
        r"What was learned in \d+ steps? is kept: LoRA .+\.safetensors; run again to go on"
    ))
    # What the node says stays when the prompt has ended; the corner's goes after a while.
    expect(said.locator("visible=true")).to_have_count(2)
    assert "run again to go on from there" in chart.node.text()
    front_end.screenshot("training_stopped")
    front_end.page.evaluate("() => app.extensionManager.toast.removeAll()")
    assert front_end.errors == []
