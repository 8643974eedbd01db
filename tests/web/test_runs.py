"""The Runs panel in ComfyUI's page: what it lists, shows, loads into the graph and deletes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect
from webkit.front_end import FrontEnd
from webkit.ranking import connect, fill_in
from webkit.runs import RunsTab, write_pictures, write_run

from dpo_core.evaluation.validation import ValidationSettings
from dpo_core.run import TrainSettings
from dpo_core.runs.run_record import RunRecord
from dpo_core.training.noise import NoiseSettings
from dpo_core.training.objectives import Objective
from dpo_core.training.optimizer import OptimizerSettings

HOSTILE = "<img src=x onerror='hurt=1'> 🌄 שלום"
_SEND = "detail => app.api.dispatchCustomEvent('dpo.metrics', detail)"


@pytest.fixture
def output(front_end: FrontEnd) -> Iterator[Path]:
    """The output folder, without runs."""
    folder = front_end.server.base_dir / "output"
    shutil.rmtree(folder / "dpo" / "runs", ignore_errors=True)
    yield folder
    shutil.rmtree(folder / "dpo" / "runs", ignore_errors=True)


@pytest.fixture
def tab(front_end: FrontEnd, output: Path) -> Iterator[RunsTab]:
    tab = RunsTab(front_end)
    yield tab
    tab.close()


def test_runs_are_listed_found_and_shown_in_full(
    front_end: FrontEnd, tab: RunsTab, output: Path
) -> None:
    tab.open()
    expect(tab.element.get_by_text("No training yet.")).to_be_visible()
    first = write_run(output, "warm_skies", pictures=True)
    failed = RunRecord(
        model=f"{HOSTILE}.safetensors", pairs=3, target=90, started=1.0, ended=2.0, end="failed",
        reason=f"Out of room. {HOSTILE}",
    )  # fmt: skip
    second = write_run(output, "crisp", record=failed, steps=20, continues=[first.id, 40])
    os.utime(first.path / "settings.json", (time.time() + 5,) * 2)
    damaged = output / "dpo" / "runs" / ("ab" * 10)
    damaged.mkdir()
    tab.button("Read the list again").click()
    expect(tab.row("warm_skies")).to_be_visible()
    assert tab.titles()[0] == "warm_skies_00001" and len(tab.titles()) == 3
    row = tab.row("warm_skies").inner_text().replace("\xa0", " ")
    assert "Finished" in row and "40 steps, 24 pairs, sigmoid" in row
    assert "validation 83 % (63 to 98 %)" in row
    assert "60 of 90 steps, 3 pairs" in tab.row("crisp").inner_text()
    expect(tab.row("warm_skies").locator("img")).to_be_visible()
    expect(tab.row("crisp").locator("polyline")).to_be_visible()
    expect(tab.row("Settings cannot be read")).to_contain_text("Damaged")
    expect(tab.element.get_by_text("3 runs, ")).to_be_visible()
    for theme in ("dark", "light"):
        front_end.theme(theme)
        front_end.screenshot(f"runs_list_{theme}")

    search = tab.element.get_by_role("searchbox")
    search.fill("CRISP sigm")
    expect(tab.row("warm_skies")).to_have_count(0)
    assert len(tab.titles()) == 1
    search.fill("nothing of that name")
    expect(tab.element.get_by_text("No run matches")).to_be_visible()
    search.fill("")
    tab.element.get_by_label("Show runs of one status").select_option("failed")
    assert tab.titles() == ["crisp_00001"]

    tab.row("crisp").click()
    detail = tab.detail
    expect(detail.get_by_text(f"Out of room. {HOSTILE}", exact=True)).to_be_visible()
    front_end.screenshot("runs_failed_light")
    assert "60 of 90 steps · 3 pairs" in detail.locator(".dpo-run-facts").inner_text()
    expect(detail.get_by_text("loras/panel/crisp_00001_.safetensors")).to_be_visible()
    expect(detail.get_by_text(str(second.path), exact=True)).to_be_visible()
    detail.get_by_text("Settings", exact=True).click()
    lines = detail.locator("dt", has_text="learning rate")
    expect(lines).to_be_visible()
    detail.get_by_text("Model card", exact=True).click()
    expect(detail.locator("pre")).to_contain_text("# crisp")
    plot = detail.get_by_role("slider", name="Training curves")
    expect(plot).to_have_attribute("aria-valuenow", "60")  # with those of the run before it
    expect(plot).to_have_attribute("aria-valuemin", "1")
    front_end.screenshot("runs_detail_light")

    detail.get_by_role("button", name="Goes on from step 40 of warm_skies").click()
    expect(detail.locator("h3")).to_have_text("warm_skies_00001")
    expect(detail.locator("figure")).to_have_count(3)
    expect(detail.get_by_role("img", name="Step 20: a <b>lake</b>")).to_be_visible()
    compare = detail.get_by_label("Lay another run over these curves")
    compare.select_option(second.id)
    expect(detail.locator(".dpo-plot-summary")).to_contain_text("crisp_00001")
    assert tab.ink() < 100
    front_end.theme("dark")
    assert tab.ink() > 180  # curves follow the theme
    detail.locator("h3").scroll_into_view_if_needed()
    front_end.screenshot("runs_detail_dark")
    assert front_end.page.evaluate("() => window.hurt") is None
    assert front_end.errors == []


def _wanted() -> TrainSettings:
    return TrainSettings(
        objective=Objective(loss="ipo", beta=90.0, beta_per_epoch=(120.0, 60.5)),
        noise=NoiseSettings(sigmas="stratified", cached_draws=8),
        validation=ValidationSettings(every=25, save_best=True),
        optimizer=OptimizerSettings(learning_rate=2e-4, schedule="cosine", total_steps=500),
        batch_size=3, grad_accumulation_steps=2, seed=77, shared_noise=False,
    )  # fmt: skip


def test_settings_are_loaded_into_the_trainer_and_its_nodes_as_one_change(
    front_end: FrontEnd, tab: RunsTab, output: Path
) -> None:
    write_run(output, "careful", _wanted(), steps=12)
    tab.open()
    tab.row("careful").click()
    expect(tab.detail.get_by_text("careful_00001_.safetensors")).to_be_visible()
    load = tab.button("Load settings into a trainer")
    load.click()
    assert "There is no Trainer (DPO) here" in tab.said()

    trainer = front_end.add("DPOTrainer", x=700)
    objective = front_end.add("DPOObjective", x=200)
    validation = front_end.add("DPOValidation", x=200, y=700)
    connect(objective, 0, trainer, "objective")
    connect(validation, 0, trainer, "validation")
    fill_in(objective, preset="strong")
    fill_in(trainer, execution_mode="full_concurrent")
    front_end.page.wait_for_timeout(1200)  # until the page has kept this state for Undo
    nodes = {"trainer": trainer, "objective": objective, "validation": validation}

    def values() -> dict[str, dict[str, Any]]:
        return {
            name: {widget: node.value(widget) for widget in node.widgets()}
            for name, node in nodes.items()
        }

    before = values()
    load.click()
    after = values()
    assert after["trainer"] == before["trainer"] | {
        "rank": 8, "alpha": 4.0, "learning_rate": 2e-4, "batch_size": 3,
        "grad_accumulation_steps": 2, "seed": 77, "shared_noise": False,
        "execution_mode": "policy_concurrent", "gradient_checkpointing": False,
    }  # fmt: skip
    assert after["objective"] == before["objective"] | {
        "preset": "custom", "loss": "ipo", "beta": 90.0, "beta_per_epoch": "120, 60.5",
    }  # fmt: skip
    assert after["validation"] == before["validation"] | {"every": 25, "save_best": True}
    said = tab.said()
    assert "15 settings changed in Trainer (DPO) and the nodes connected to it" in said
    assert "Connect Noise (DPO), which the run had, with sigmas stratified, cached_draws 8." in said
    assert "Connect Optimizer (DPO), which the run had, with schedule cosine" in said
    front_end.fit()
    front_end.screenshot("runs_settings_loaded")
    load.click()
    assert "Nothing was changed" in tab.said()

    front_end.page.wait_for_timeout(1200)
    front_end.command("Comfy.Undo")
    front_end.page.wait_for_timeout(800)
    assert values() == before

    other = front_end.add("DPOTrainer", x=700, y=900)
    load.click()
    assert "several Trainer (DPO) nodes: select one" in tab.said()
    other.evaluate("node => { app.canvas.deselectAll(); app.canvas.selectNode(node) }")
    load.click()
    assert (other.value("rank"), trainer.value("rank")) == (8, 16)
    assert front_end.errors == []


def test_a_run_in_training_is_followed_as_it_goes(
    front_end: FrontEnd, tab: RunsTab, output: Path
) -> None:
    run = write_run(output, "live", steps=12)
    tab.open()
    page = front_end.page
    tab.row("live").click()
    plot = tab.detail.get_by_role("slider", name="Training curves")
    expect(plot).to_have_attribute("aria-valuenow", "12")

    def send(first: int, last: int) -> None:
        rows = [{"step": step, "loss/dpo": 0.4} for step in range(first, last + 1)]
        page.evaluate(_SEND, {
            "node": "1", "prompt_id": "p", "run": run.id, "first": first, "rows": rows,
            "step": last, "target": 30, "done": False,
            "warnings": [{"step": 14, "text": "Look <b>here</b>.", "serious": False}],
        })  # fmt: skip

    # The server knows of no training: what it says of the run comes with the next look at it.
    page.route("**/api/dpo/runs", lambda route: route.abort())
    send(13, 15)
    expect(tab.detail.locator(".dpo-run-status")).to_have_text("Running")
    expect(plot).to_have_attribute("aria-valuenow", "15")
    expect(tab.detail.locator(".dpo-plot-summary")).to_contain_text("Look <b>here</b>.")
    assert "15 of 30 steps" in tab.detail.locator(".dpo-run-facts").inner_text()
    expect(tab.button("Delete this run")).to_be_disabled()
    for step in range(16, 20):
        run.append_metrics(step, {"loss/dpo": 0.4})
    send(19, 19)  # an event was lost: the rest is read from the server
    expect(plot).to_have_attribute("aria-valuenow", "19")
    front_end.screenshot("runs_live")
    tab.button("Back to all runs").click()
    expect(tab.row("live").locator(".dpo-run-bar")).to_be_visible()
    front_end.screenshot("runs_live_list")
    page.unroute_all()
    page.evaluate("() => app.api.dispatchCustomEvent('execution_success', { prompt_id: 'p' })")
    expect(tab.row("live")).to_contain_text("Finished")
    expect(tab.row("live").locator("img")).to_have_count(0)
    write_pictures(run, (19,))  # of a row that is on the page
    tab.button("Read the list again").click()
    expect(tab.row("live").locator("img")).to_be_visible()
    # Aborted requests are told in the console.
    front_end.errors.clear()


def test_deleting_asks_first_and_is_done_by_keyboard(
    front_end: FrontEnd, tab: RunsTab, output: Path
) -> None:
    first = write_run(output, "older")
    second = write_run(output, HOSTILE[:8].strip("<>") + "newer", steps=5, continues=[first.id, 40])
    note = front_end.add("DPONoise")
    note.evaluate("node => app.canvas.selectNode(node)")
    tab.open()
    page = front_end.page
    rows = tab.element.locator(".dpo-run")
    expect(rows).to_have_count(2)
    rows.first.focus()
    page.keyboard.press("End")
    expect(rows.last).to_be_focused()
    page.keyboard.press("Delete")  # not for the node that is selected
    page.keyboard.press("Home")
    expect(rows.first).to_be_focused()
    tab.row("older").focus()
    load, delete = tab.button("Load settings into a trainer"), tab.button("Delete this run")
    held: list[Route] = []
    page.route(f"**/api/dpo/runs/{first.id}", lambda route: held.append(route))
    page.keyboard.press("Enter")
    expect(tab.detail.locator("h3")).to_be_focused()
    expect(load).to_be_disabled()  # until the run has been read: they would do nothing
    expect(delete).to_be_disabled()
    for route in held:
        route.continue_()
    page.unroute_all(behavior="wait")
    expect(load).to_be_enabled()
    expect(delete).to_be_enabled()
    delete.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete a run")
    expect(dialog).to_contain_text("Its LoRA files are kept.")
    expect(dialog).to_contain_text("1 run goes on from it")
    expect(dialog.get_by_role("listitem")).to_contain_text("newer_00001")
    front_end.screenshot("runs_delete_dark")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert first.path.exists()

    # What has changed since is told before anything is deleted.
    third = write_run(output, "newest", steps=2, continues=[first.id, 40])
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("Other runs go on from this one.")
    expect(dialog).to_contain_text("2 runs go on from it")
    dialog.get_by_role("button", name="Delete the run").click()
    expect(dialog).to_have_count(0)
    expect(tab.row("older")).to_have_count(0)
    expect(tab.row("newest")).to_be_visible()
    assert not first.path.exists() and second.path.exists() and third.path.exists()
    assert (output / "loras" / "panel" / "older_00001_.safetensors").exists()
    expect(rows.locator(":scope:focus")).to_have_count(1)
    assert [node.type for node in front_end.nodes()] == ["DPONoise"]
    front_end.errors.clear()  # the refusal
