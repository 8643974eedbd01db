"""The chart of Train Steps in ComfyUI's page: live, reloaded, saved, laid over, copied."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hostkit.pair_folder import write_pairs
from hostkit.server import ComfyServer
from playwright.sync_api import expect
from webkit.front_end import CANVAS_MODES, FrontEnd
from webkit.ranking import connect, fill_in
from webkit.training import Chart, add_training

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

CHECKPOINT = "tiny.safetensors"
LONG = 4000
LIVE = re.compile(rf"^Step \d+ of {LONG}, .+ left$")


@pytest.fixture(scope="module", autouse=True)
def pairs(web_server: ComfyServer) -> None:
    write_pairs(web_server.base_dir / "input" / "chart", 6)


@pytest.fixture
def seed(canvas_mode: str) -> int:
    """Other trainings for each way of drawing."""
    return 100 * (1 + CANVAS_MODES.index(canvas_mode))


def _validated(front_end: FrontEnd, chart: Chart) -> None:
    """Validates before the first step and at every other."""
    validation = front_end.add("DPOValidation", x=-700)
    fill_in(validation, percent=30, every=2)
    (trainer,) = front_end.nodes("DPOTrainer")
    connect(validation, 0, trainer, "validation")


def _stop(front_end: FrontEnd, prompt_id: str) -> None:
    front_end.server.interrupt()
    front_end.server.wait(prompt_id)


def test_a_training_is_drawn_as_it_runs_survives_f5_and_its_end_is_told(
    front_end: FrontEnd, seed: int
) -> None:
    chart = add_training(front_end, CHECKPOINT, "chart", LONG, seed=seed)
    _validated(front_end, chart)
    chart.node.show()
    expect(chart.status).to_have_text("Not trained yet")
    front_end.screenshot("chart_empty")
    prompt_id = front_end.queue()
    expect(chart.status).to_have_text(LIVE)
    expect(chart.field).to_be_visible()
    before = chart.status.inner_text()
    expect(chart.status).not_to_have_text(before)
    assert chart.inked() > 1000
    front_end.screenshot("chart_live")

    front_end.reload()
    chart.node.show()
    expect(chart.status).to_have_text(LIVE)
    chart.field.focus()
    chart.field.press("Home")  # what came before the reload is there, validation at step 0 too
    assert "accuracy, validation" in chart.reading() and chart.reading().startswith("Step 0:")
    chart.field.press("ArrowRight")
    assert chart.reading().startswith("Step 1:") and "loss, training 0.693" in chart.reading()
    front_end.screenshot("chart_reloaded")

    _stop(front_end, prompt_id)
    expect(chart.status).to_have_text(re.compile(rf"Stopped at step \d+ of {LONG}"))
    stopped = chart.status.inner_text()
    front_end.screenshot("chart_stopped")
    front_end.reload()
    chart.node.show()
    expect(chart.status).to_have_text(stopped)
    expect(chart.panel.get_by_text(re.compile("^What was learned in .+ is kept"))).to_be_visible()
    assert chart.inked() > 1000
    assert front_end.errors == []


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)  # the same panel in both
def test_the_last_picture_is_in_the_workflow_and_needs_no_run(
    front_end: FrontEnd, seed: int
) -> None:
    chart = add_training(front_end, CHECKPOINT, "chart", 6, seed=seed + 1)
    run = front_end.run(watch=(chart.node,))
    assert (run.status, run.error) == ("success", "")
    chart.node.show()
    expect(chart.status).to_have_text("6 steps done")
    # What the node says has a place of its own; newer pages take it away, and the chart keeps it.
    said = front_end.page.get_by_text(re.compile("^6 steps. Over the last 6: loss"))
    expect(said.locator("visible=true")).to_have_count(1)
    front_end.screenshot("chart_done")
    front_end.theme("light")
    front_end.screenshot("chart_done_light")
    front_end.theme("dark")
    (shown,) = run.outputs[str(chart.node.id)]["dpo_chart"]
    reading = chart.reading()
    assert reading.startswith("Step 6: loss, training 0.")
    workflow = front_end.workflow()
    prompt = front_end.page.evaluate(
        "async () => JSON.stringify((await app.graphToPrompt()).output)"
    )
    assert "series" not in prompt and "dpo_chart" not in prompt
    (saved,) = [one for one in workflow["nodes"] if one["type"] == "DPOTrainSteps"]
    assert saved["widgets_values"] == [6, 1]

    # The same again is found: nothing trains, and the chart stays.
    again = front_end.run()
    assert again.outputs[str(chart.node.id)]["dpo_chart"] == [shown]
    expect(chart.status).to_have_text("6 steps done")

    shutil.rmtree(front_end.server.base_dir / "output" / "dpo" / "runs" / shown["run"])
    front_end.open()  # as on another machine: nothing is known but the file
    front_end.load(workflow)
    expect(chart.status).to_have_text("6 steps done")
    chart.node.show()
    assert chart.reading() == reading
    assert chart.inked() > 1000
    front_end.screenshot("chart_elsewhere")
    assert front_end.errors == []


def test_steps_after_steps_have_a_chart_each_and_copies_keep_theirs(
    front_end: FrontEnd, seed: int
) -> None:
    first = add_training(front_end, CHECKPOINT, "chart", 4, seed=seed + 2)
    node = front_end.add("DPOTrainSteps", x=1000)
    fill_in(node, steps=3, min_pairs=1)
    connect(first.node, 0, node, "trainer")
    second = Chart(front_end, node.id)
    assert front_end.run().error == ""
    front_end.fit()
    expect(first.status).to_have_text("4 steps done")
    expect(second.status).to_have_text("7 steps done")
    assert (first.last_step(), second.last_step()) == (4, 7)
    front_end.screenshot("chart_two_nodes")

    # Only the second trains on; the first comes from the cache.
    fill_in(node, steps=5)
    assert front_end.run().error == ""
    expect(second.status).to_have_text("9 steps done")
    expect(first.status).to_have_text("4 steps done")

    front_end.page.evaluate(
        """id => { const node = app.rootGraph.getNodeById(id);
            app.canvas.copyToClipboard([node]);
            app.canvas.pasteFromClipboard({ position: [1500, 0] }) }""",
        node.id,
    )
    copy = front_end.nodes("DPOTrainSteps")[-1]
    assert copy.id not in (first.node.id, node.id)
    expect(Chart(front_end, copy.id).status).to_have_text("9 steps done")

    front_end.page.wait_for_timeout(300)
    fill_in(node, steps=77)
    for command in ("Comfy.Undo", "Comfy.Redo", "Comfy.Undo"):
        front_end.command(command)
        front_end.page.wait_for_timeout(500)
        expect(second.status).to_have_text("9 steps done")
        assert second.last_step() == 9 and second.inked() > 1000
    assert front_end.errors == []


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)  # asking knows no nodes
def test_a_tab_opened_in_the_middle_follows_what_another_one_began(
    front_end: FrontEnd, seed: int, tabs: BrowserContext
) -> None:
    chart = add_training(front_end, CHECKPOINT, "chart", LONG, seed=seed + 5)
    workflow = front_end.workflow()
    prompt_id = front_end.queue()
    expect(chart.status).to_have_text(LIVE)
    page = tabs.new_page()
    try:
        other = FrontEnd(page, front_end.server, front_end.canvas_mode)
        other.visit()
        other.load(workflow)
        same = Chart(other, chart.node.id)
        same.node.show()
        expect(same.status).to_have_text(LIVE)
        before = same.last_step()
        # Nobody tells this tab of steps: it asks.
        expect(same.field).not_to_have_attribute("aria-valuenow", str(before))
        _stop(front_end, prompt_id)
        expect(same.status).to_have_text(re.compile(rf"^Ended at step \d+ of {LONG}$"))
        assert other.errors == []
    finally:
        page.close()
        # Tabs of one browser keep their unsaved workflows in one place.
        front_end.open()


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)  # the same panel in both
def test_a_person_chooses_curves_smoothing_and_another_run_and_it_stays(
    front_end: FrontEnd, seed: int
) -> None:
    other = add_training(front_end, CHECKPOINT, "chart", 8, seed=seed + 3)
    run = front_end.run()
    before = run.outputs[str(other.node.id)]["dpo_chart"][0]["run"]
    front_end.clear()
    chart = add_training(front_end, CHECKPOINT, "chart", 5, seed=seed + 4)
    assert front_end.run().error == ""
    chart.node.show()
    assert chart.last_step() == 5
    chart.button("Curves").click()
    for name in ("Reward margin", "Rewards"):
        chart.box(name).uncheck()
    chart.box("Rho").check()
    smoothing = chart.panel.get_by_role("slider", name="Smoothing")
    smoothing.focus()
    smoothing.press("Home")
    expect(chart.panel.get_by_text("off", exact=True)).to_be_visible()
    compare = chart.panel.get_by_role("combobox", name="Compare with another run")
    compare.focus()
    expect(compare.locator(f"option[value='{before}']")).to_have_count(1)
    compare.select_option(before)
    expect(chart.field).to_have_attribute("aria-valuemax", "8")
    front_end.screenshot("chart_settings")
    assert "rho, training" in chart.reading() and "rewards" not in chart.reading()
    title = _property(chart, "dpo_chart_view")["over"][0]["title"]
    assert title.startswith("tiny.safetensors, 8 steps, ")
    expect(chart.summary).to_contain_text(f"loss, training, {title}")

    box = chart.field.bounding_box()
    assert box is not None
    front_end.page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    expect(chart.field).not_to_have_attribute("aria-valuenow", "5")
    front_end.screenshot("chart_hover")
    front_end.page.mouse.move(2, 500)

    front_end.reload()
    chart.node.show()
    expect(chart.field).to_have_attribute("aria-valuemax", "8")
    view = _property(chart, "dpo_chart_view")
    assert (view["panels"], view["span"]) == (["loss", "accuracy", "rho"], 1)
    chart.button("Curves").click()
    chart.button(f"Do not compare with {title} any more").click()
    expect(chart.field).to_have_attribute("aria-valuemax", "5")
    assert front_end.errors == []


def _property(chart: Chart, name: str) -> Any:
    return chart.node.evaluate("(node, name) => node.properties[name]", name)


_TELL = "detail => app.api.dispatchCustomEvent('dpo.metrics', detail)"


def _event(chart: Chart, node: str, first: int, steps: range, **more: Any) -> dict[str, Any]:
    rows = [{"step": step, "loss/dpo": 0.6, "dpo/accuracy": 0.75} for step in steps]
    return {
        "node": node, "prompt_id": "p", "run": "0" * 20, "first": first, "rows": rows,
        "workflow": chart.page.evaluate("() => app.rootGraph.id"), "step": steps[-1],
        "target": 200, "seconds_left": 150, "warnings": [], "done": False, "ended": "", **more,
    }  # fmt: skip


def test_warnings_stand_at_their_step_and_events_of_other_workflows_are_not_shown(
    front_end: FrontEnd,
) -> None:
    chart = Chart(front_end, front_end.add("DPOTrainSteps").id)
    chart.node.show()
    warnings = [
        {"step": 3, "text": "Look at <b>the pairs</b>.", "serious": False},
        {"step": 7, "text": "Stop here.", "serious": True},
    ]
    tell = _event(chart, str(chart.node.id), 0, range(1, 11), warnings=warnings)
    front_end.page.evaluate(_TELL, tell | {"workflow": "another"})
    expect(chart.status).to_have_text("Not trained yet")
    front_end.page.evaluate(_TELL, tell)
    expect(chart.status).to_have_text(re.compile("Step 10 of 200"))
    told = chart.panel.get_by_role("listitem")
    expect(told).to_have_text(["Step 7 Stop here.", "Step 3 Look at <b>the pairs</b>."])
    for one in told.all():
        expect(one).to_be_visible()
    expect(chart.summary).to_contain_text("warning at step 7: Stop here.")
    front_end.screenshot("chart_warnings")
    assert front_end.errors == []


def test_in_a_subgraph_the_chart_finds_its_node(front_end: FrontEnd) -> None:
    node = front_end.add("DPOTrainSteps")
    holder = front_end.page.evaluate(
        """id => { const node = app.rootGraph.getNodeById(id);
            return app.rootGraph.convertToSubgraph(new Set([node])).node.id }""",
        node.id,
    )
    inside = front_end.page.evaluate(
        "id => app.rootGraph.getNodeById(id).subgraph.nodes[0].id", holder
    )
    chart = Chart(front_end, holder, inside)
    front_end.page.evaluate(
        """id => { const node = app.rootGraph.getNodeById(id);
            app.canvas.openSubgraph(node.subgraph, node) }""",
        holder,
    )
    front_end.page.wait_for_timeout(500)
    front_end.page.evaluate(_TELL, _event(chart, f"{holder}:{inside}", 0, range(1, 5)))
    expect(chart.status).to_have_text(re.compile("Step 4 of 200"))
    front_end.screenshot("chart_subgraph")
    front_end.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    assert front_end.errors == []
