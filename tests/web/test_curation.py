"""The curation panel in ComfyUI's page: a folder of generations becomes choices in a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from webkit.curation import CurationTab, write_generations
from webkit.front_end import FrontEnd

HOSTILE = "a lake <img src=x onerror='hurt=1'>"


@pytest.fixture
def folder(front_end: FrontEnd) -> Iterator[Path]:
    """Three groups, one of images without a prompt, and one image alone."""
    found = front_end.server.base_dir / "output" / "holiday"
    write_generations(found, "hills at dusk", 4)
    first = write_generations(found / "more", HOSTILE, 3, first=10)[0]
    write_generations(found / "more", None, 2, first=20, size=(64, 64))
    write_generations(found, "a wide street", 1, first=30, size=(128, 64))
    shutil.copy(first, found / "more" / "copy.png")
    yield found
    shutil.rmtree(found)
    shutil.rmtree(found.parent / "dpo" / "curation", ignore_errors=True)


@pytest.fixture
def tab(front_end: FrontEnd, folder: Path) -> Iterator[CurationTab]:
    tab = CurationTab(front_end)
    yield tab
    tab.close()


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)  # the sidebar knows no nodes
def test_a_folder_is_ranked_group_by_group_and_gone_on_with_after_f5(
    front_end: FrontEnd, tab: CurationTab, folder: Path
) -> None:
    session = front_end.server.base_dir / "output" / "dpo" / "sessions" / "curated"
    front_end.add("DPONoise")
    tab.open()
    front_end.screenshot("curation_start")
    tab.look("holiday", "curated")
    expect(tab.progress()).to_have_text("0 of 3 groups ranked")
    expect(tab.pictures.first).to_be_visible()
    expect(tab.body.get_by_text("11 images", exact=True)).to_be_visible()
    front_end.screenshot("curation_rank_dark")
    front_end.theme("light")
    front_end.screenshot("curation_rank_light")
    front_end.theme("dark")

    # Best, then worst, and the next comes by itself; named groups come before those without.
    seen = {tab.prompt.inner_text()}
    tab.pictures.nth(0).click()
    tab.pictures.nth(2).click()
    expect(tab.progress()).to_have_text("1 of 3 groups ranked")
    expect(tab.prompt).not_to_have_text(seen.pop())
    expect(tab.pictures.first).to_be_visible()
    second = tab.prompt.inner_text()
    tab.button("Skip this group").click()
    expect(tab.body.get_by_text("The last group was skipped.")).to_be_visible()
    field = tab.body.get_by_label("Prompt of these images")
    expect(field).to_be_visible()
    front_end.screenshot("curation_no_prompt")
    tab.button("Take that back").click()
    expect(tab.prompt).to_have_text(second)
    votes = [json.loads(line) for line in (session / "votes.jsonl").read_text().splitlines()]
    (vote,) = [one for one in votes if one.get("kind") == "best_worst"]
    assert vote["best"] != vote["worst"]

    # What is open is gone on with: one match of several was played, then the page is loaded anew.
    tab.body.get_by_label("How to rank").select_option("side_by_side")
    tab.board.get_by_role("button", name="The left image is better").click()
    expect(tab.board.locator(".dpo-saved")).to_have_text("Saved")
    front_end.reload()
    tab.open()
    tab.button(f"Go on with {folder}").click()
    expect(tab.progress()).to_have_text("1 of 3 groups ranked")
    expect(tab.prompt).to_have_text(second)
    tab.button("Enough of this group").click()
    expect(tab.progress()).to_have_text("2 of 3 groups ranked")
    field.fill("dunes")
    tab.button("Use this prompt for the group").click()
    expect(tab.prompt).to_have_text("dunes")
    tab.button("Next group").click()
    expect(tab.body.get_by_text("still being")).to_have_count(0)
    assert front_end.page.evaluate("() => window.hurt") is None
    assert front_end.errors == []


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)
def test_full_screen_by_keys_alone_and_the_list_of_groups(
    front_end: FrontEnd, tab: CurationTab, folder: Path
) -> None:
    note = front_end.add("DPONoise")
    note.evaluate("node => app.canvas.selectNode(node)")
    tab.open()
    tab.look("holiday", "by_keys")
    expect(tab.pictures.first).to_be_visible()
    page = front_end.page
    tab.button("Full screen").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Rank a folder, full screen")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("3")
    expect(tab.progress()).to_have_text("1 of 3 groups ranked")
    front_end.screenshot("curation_full")
    expect(tab.board.locator(".dpo-saved")).to_be_empty()  # the next group
    page.keyboard.press("x")
    expect(tab.body.get_by_text("The last group was skipped.")).to_be_visible()
    front_end.screenshot("curation_full_no_prompt")
    tab.button("Groups").click()
    groups = tab.body.get_by_role("list", name="Groups").get_by_role("button")
    expect(groups).to_have_count(1)
    expect(groups.first).to_contain_text("No prompt known")
    tab.body.get_by_label("Show groups that are").select_option("done")
    expect(tab.body.get_by_text("1 group", exact=True)).to_be_visible()
    front_end.screenshot("curation_groups")
    groups.first.click()
    expect(tab.board).to_be_focused()  # the ranked group, to be changed
    expect(tab.board.locator(".dpo-saved")).to_have_text("Saved")
    page.keyboard.press("Control+z")
    expect(tab.progress()).to_have_text("0 of 3 groups ranked")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(tab.pictures.first).to_be_visible()
    assert [node.type for node in front_end.nodes()] == ["DPONoise"]
    assert front_end.errors == []
