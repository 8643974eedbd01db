"""The curation panel in ComfyUI's page: a folder of generations becomes choices in a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostkit.pair_folder import write_pair
from playwright.sync_api import expect
from webkit.curation import CurationTab, write_generations
from webkit.front_end import FrontEnd
from webkit.pictures import landscape

from dpo_core.ranking.image_store import NewImage
from dpo_core.ranking.session import Session

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
    expect(tab.body.get_by_role("group", name="View")).to_be_visible()
    expect(tab.body.locator(".dpo-curation-bar")).to_have_attribute("aria-hidden", "true")
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
    expect(tab.body.get_by_text("1 group left to rank: Next opens it.")).to_be_visible()

    # With no group open, the one that is chosen is what opens, not the next.
    tab.button("Groups").click()
    tab.body.get_by_label("Show groups that are").select_option("done")
    tab.body.get_by_role("list", name="Groups").get_by_role("button", name=second).click()
    expect(tab.prompt).to_have_text(second)
    expect(tab.body.get_by_text("This group counts as ranked.")).to_be_visible()
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


def _session(front_end: FrontEnd, name: str) -> Session:
    """Three sets with a best and a worst image each; the last one's worst is gone."""
    session = Session(front_end.server.base_dir / "output" / "dpo" / "sessions" / name)
    for number, prompt in enumerate(("hills at dusk", HOSTILE, "")):
        images = [
            NewImage(np.asarray(landscape(10 * number + i, 96, 64)), {}) for i in range(3)
        ]
        one = session.add_set(images, prompt)
        best, *_, worst = [image.id for image in one.images]
        vote = {"id": f"v{number}", "kind": "best_worst", "set": one.id}
        session.vote(vote | {"best": best, "worst": worst})
    (session.folder / "images" / f"{worst}.png").unlink()
    return session


@pytest.mark.parametrize("canvas_mode", ["classic"], indirect=True)
def test_pairs_of_a_session_are_reviewed_changed_and_taken_back(
    front_end: FrontEnd, tab: CurationTab
) -> None:
    session = _session(front_end, "reviewed")
    tab.open()
    tab.body.get_by_label("Session", exact=True).fill("reviewed")
    tab.button("Review the pairs of the session").click()
    pairs = tab.body.get_by_role("list", name="Pairs").locator("> li")
    expect(pairs).to_have_count(3)
    worth = tab.body.get_by_role("list", name="Worth a look")
    expect(worth).to_contain_text("Only 2 pairs")
    expect(worth).to_contain_text("an image is gone")
    tab.button("Full screen").click()
    tab.body.get_by_text("Distributions", exact=True).click()
    front_end.screenshot("review_dark")
    front_end.theme("light")
    front_end.screenshot("review_light")
    front_end.theme("dark")

    worth.get_by_role("button").first.click()
    expect(pairs).to_have_count(1)
    expect(pairs.first).to_contain_text("An image is gone")
    tab.button("Show all pairs").click()
    expect(pairs).to_have_count(3)

    hills = pairs.filter(has_text="hills at dusk")
    before = [one.get_attribute("src") or "" for one in hills.locator("img").all()]
    hills.get_by_role("button", name="Turn round: the other image is better").click()
    expect(tab.body.get_by_text("Pair turned round.")).to_be_visible()
    expect(hills.locator("img").first).to_have_attribute("src", before[1])
    tab.button("Undo the last change").click()
    expect(hills.locator("img").first).to_have_attribute("src", before[0])
    hills.get_by_role("button", name="Change the prompt").click()
    field = pairs.get_by_label("Prompt", exact=True)
    expect(field).to_be_focused()
    field.fill("dunes at night")
    pairs.get_by_role("button", name="Save the prompt").click()
    expect(pairs.filter(has_text="dunes at night")).to_have_count(1)
    pairs.filter(has_text="dunes").get_by_role("button", name="Change the prompt").click()
    field.fill("dunes, half wri")
    pairs.filter(has_text="a lake").get_by_role("button", name="Remove this pair").click()
    expect(pairs).to_have_count(2)
    expect(field).to_have_value("dunes, half wri")
    pairs.get_by_role("button", name="Leave the prompt as it is").click()
    tab.body.get_by_text("Changes", exact=True).click()
    front_end.screenshot("review_changed")
    stored = [json.loads(line) for line in (session.folder / "votes.jsonl").open()]
    kinds = [one["kind"] for one in stored if one["kind"] not in ("set", "best_worst")]
    assert kinds == ["swap", "undo", "prompt", "remove"]

    pairs.first.get_by_role("button", name="Compare in full").click()
    dialog = front_end.page.get_by_role("dialog", name="A pair, side by side")
    expect(dialog.get_by_role("button", name="Rejected image")).to_be_visible()
    front_end.screenshot("review_compare")
    front_end.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert front_end.page.evaluate("() => window.hurt") is None
    assert front_end.errors == []


@pytest.mark.parametrize("canvas_mode", ["nodes2"], indirect=True)
def test_a_pair_folder_is_reviewed_and_what_has_no_partner_is_joined(
    front_end: FrontEnd, tab: CurationTab
) -> None:
    folder = front_end.server.base_dir / "input" / "to_review"
    for side in ("chosen", "rejected"):
        (folder / side / "train").mkdir(parents=True)
    for number in range(3):
        write_pair(folder, f"train/{number}", number, caption=f"scene {number}")
    (folder / "rejected" / "train" / "2.png").rename(folder / "rejected" / "train" / "two.png")
    tab.open()
    tab.look("to_review", "unused")
    tab.button("Folder pairs").click()
    pairs = tab.body.get_by_role("list", name="Pairs").locator("> li")
    expect(pairs).to_have_count(2)
    tab.body.get_by_text("Without a partner, or gone", exact=True).click()
    tab.body.get_by_label("chosen: train/2").check()
    tab.body.get_by_label("rejected: train/two").check()
    front_end.screenshot("review_orphans")
    tab.button("Make the two a pair").click()
    expect(pairs).to_have_count(3)
    assert (folder / "rejected" / "train" / "2.png").exists()
    pairs.filter(has_text="scene 0").get_by_role("button", name="Remove this pair").click()
    expect(pairs).to_have_count(2)
    assert not (folder / "chosen" / "train" / "0.png").exists()
    tab.button("Undo the last change").click()
    expect(pairs).to_have_count(3)
    assert (folder / "chosen" / "train" / "0.png").exists()
    assert front_end.errors == []
