"""The ranking widget in ComfyUI's page: every mode, by mouse and keys, and what may go wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hostkit.server import ComfyServer
from webkit import browser
from webkit.front_end import CANVAS_MODES, FrontEnd
from webkit.ranking import (
    Ranking,
    add_mixed_ranking,
    add_ranking,
    add_training,
    fill_in,
    load_batch,
)

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Route

CHECKPOINT = "tiny.safetensors"
MODES = ("best_worst", "rank", "side_by_side", "thumbs")
HOSTILE = (
    "🌄 \u05e9\u05dc\u05d5\u05dd "
    "<script>window.hurt = 1</script><img src=x onerror='hurt = 1'>"
)


@pytest.fixture
def session(request: pytest.FixtureRequest, canvas_mode: str) -> str:
    """A session of its own for each test."""
    return _session_name(request, canvas_mode)


def _session_name(request: pytest.FixtureRequest, canvas_mode: str) -> str:
    name = request.node.originalname.removeprefix("test_")
    return re.sub(r"\W+", "-", f"{name[:40]}-{canvas_mode}")


def _ranked(front_end: FrontEnd, session: str, count: int = 6, **settings: Any) -> Ranking:
    """A node that has run, its images on display."""
    ranking = add_ranking(front_end, session, count, **settings)
    _run_and_show(front_end, ranking)
    return ranking


def _run_and_show(front_end: FrontEnd, ranking: Ranking) -> None:
    run = front_end.run()
    assert (run.status, run.error) == ("success", "")
    ranking.node.show()
    if ranking.node.value("mode") != "side_by_side":
        ranking.wait_for_pictures()


def _made(ranking: Ranking) -> list[tuple[str, str]]:
    return [(pair["chosen"], pair["rejected"]) for pair in ranking.stored()["pairs"]]


def _promised(ranking: Ranking) -> list[tuple[str, str]]:
    """The pairs that stand on the tiles."""
    found: dict[int, dict[str, str]] = {}
    for image, badge in zip(ranking.ids(), ranking.badges(), strict=True):
        if badge:
            number, side = badge.split()
            found.setdefault(int(number), {})[side] = image
    return [(found[number]["better"], found[number]["worse"]) for number in sorted(found)]


def test_best_and_worst_by_mouse_survive_f5_and_become_pairs_that_train(
    front_end: FrontEnd, session: str
) -> None:
    ranking = _ranked(front_end, session, size=(64, 64), pairs_per_group=2)
    assert ranking.value() == {}
    front_end.screenshot("ranking_best_worst")
    ids = ranking.ids()
    ranking.picture(2).click()
    ranking.picture(5).hover()
    # The pair is shown before the second click confirms it.
    assert ranking.badges()[1] == "Best" and ranking.badges()[4] == "1 worse"
    assert ranking.stored()["votes"] == []
    front_end.screenshot("ranking_best_worst_open")
    ranking.picture(5).click()
    ranking.wait_for_saved()
    view = ranking.stored()
    assert _made(ranking) == _promised(ranking) == [(ids[1], ids[4])]
    expected = {"v": 1, **ranking.shown(), "mode": "best_worst", "revision": view["revision"]}
    assert ranking.value() == expected

    front_end.reload()
    ranking.node.show()
    ranking.wait_for_pictures()
    assert ranking.value() == expected
    assert ranking.badges()[1] == "1 better" and "Pair 2 of 2" in ranking.hint()
    ranking.picture(1).click()
    ranking.picture(3).click()
    ranking.wait_for_saved()
    assert len(_made(ranking)) == 2

    trainer = add_training(front_end, ranking, CHECKPOINT)
    run = front_end.run()
    assert (run.status, run.error) == ("success", "")
    assert "2 pairs" in run.outputs[str(ranking.node.id)]["text"][0]
    said = re.search(r"2 pairs, run ([0-9a-f]{20})", run.outputs[str(trainer.id)]["text"][0])
    assert said is not None
    metrics = front_end.server.base_dir / "output" / "dpo" / "runs" / said[1] / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 1
    ranking.node.show()
    ranking.wait_for_pictures()
    front_end.screenshot("ranking_best_worst_done")
    assert front_end.errors == []


def test_an_order_by_keys_alone_full_screen(front_end: FrontEnd, session: str) -> None:
    ranking = _ranked(front_end, session, mode="rank")
    ids = ranking.ids()
    ranking.picture(1).focus()
    ranking.press("f")
    assert front_end.page.locator("dialog[open] .dpo-board").count() == 1
    # Third, first and second image; then the second is tied with the first.
    ranking.press("End", "Home", "ArrowRight", "ArrowRight", "Enter", "Home", "Enter")
    ranking.press("ArrowRight", "Enter", "t")
    front_end.screenshot("ranking_order_full")
    assert ranking.focus_is_seen()
    assert ranking.saved() == "Not saved yet"
    ranking.press("s")
    ranking.wait_for_saved()
    (vote,) = ranking.stored()["votes"]
    assert vote["order"] == [[ids[2]], [ids[0], ids[1]]]
    ranking.press("Shift+ArrowUp", "s")
    ranking.wait_for_saved()
    (vote,) = ranking.stored()["votes"]
    assert vote["order"] == [[ids[2]], [ids[1]], [ids[0]]]
    ranking.press("Escape")
    front_end.page.locator("dialog").wait_for(state="detached")
    assert ranking.panel.is_visible()
    ranking.press("z")
    ranking.wait_for_saved()
    (vote,) = ranking.stored()["votes"]
    assert vote["order"] == [[ids[2]], [ids[0], ids[1]]]
    # None of the keys reached the page.
    assert len(front_end.nodes()) == 2
    assert front_end.errors == []


def test_an_order_by_dragging_makes_the_pairs_on_its_badges(
    front_end: FrontEnd, session: str
) -> None:
    ranking = _ranked(front_end, session, mode="best_worst", pairs_per_group=3)
    ids = ranking.ids()
    ranking.picture(3).click()
    ranking.picture(5).click()
    ranking.wait_for_saved()
    fill_in(ranking.node, mode="rank")
    page, chips = front_end.page, ranking.panel.locator(".dpo-chip")
    for number in (4, 2):
        ranking.picture(number).click()

    def drag(source: Locator, target: Locator, part: float) -> None:
        source.hover()
        page.mouse.down()
        box = target.bounding_box()
        assert box is not None
        for x in (0.5, part):
            page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()

    drag(ranking.picture(6), chips.nth(0), 0.1)
    drag(ranking.picture(1), chips.nth(2), 0.5)
    front_end.screenshot("ranking_order")
    # Before it is saved; with what was picked as best and worst.
    promised = _promised(ranking)
    assert len(promised) == 3 and promised[0] == (ids[2], ids[4])
    ranking.button("Save this order").click()
    ranking.wait_for_saved()
    _, vote = ranking.stored()["votes"]
    assert vote["order"] == [[ids[5]], [ids[3]], [ids[1], ids[0]]]
    assert _made(ranking) == promised


def test_a_tournament_by_keys_under_one_zoom_then_two_images_swap(
    front_end: FrontEnd, session: str
) -> None:
    ranking = _ranked(front_end, session, count=4, size=(128, 64), mode="side_by_side")
    panel, page = ranking.panel, front_end.page
    counter, frames = panel.locator(".dpo-counter"), panel.locator(".dpo-frame")
    assert counter.inner_text() == "Match 1 of 4"
    front_end.screenshot("ranking_match")

    def shapes() -> list[str]:
        found = frames.locator("img").evaluate_all("all => all.map(e => e.style.transform)")
        return [str(one) for one in found]

    whole = shapes()[0]
    assert shapes() == [whole, whole]
    frames.nth(0).focus()
    ranking.press("+", "+", "+", "+", "+", "+")
    zoomed = shapes()[0]
    assert shapes() == [zoomed, zoomed] and zoomed != whole
    box = frames.nth(0).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 40, y, steps=5)
    page.mouse.up()
    dragged = shapes()[0]
    assert shapes() == [dragged, dragged] and dragged != zoomed
    ranking.press("Shift+ArrowLeft")
    assert shapes()[0] not in (dragged, whole) and len(set(shapes())) == 1
    # Neither is a choice.
    assert ranking.stored()["votes"] == []
    ranking.press("0")
    assert shapes() == [whole, whole]

    ranking.press("ArrowLeft", "t", "z")
    assert counter.inner_text() == "Match 2 of 4"
    ranking.press("ArrowRight", "ArrowDown", "b")
    assert counter.inner_text() == "Standings after 4 matches"
    ranking.wait_for_saved()
    results = [vote["result"] for vote in ranking.stored()["votes"]]
    assert results == ["left", "right", "skip", "both_bad"]
    before = ranking.ids()
    ranking.picture(1).click()
    ranking.picture(3).click()
    ranking.wait_for_saved()
    swapped = [before[2], before[1], before[0], before[3]]
    assert ranking.ids() == swapped
    assert _promised(ranking) == _made(ranking) != []
    front_end.screenshot("ranking_standings")
    front_end.reload()
    ranking.node.show()
    ranking.wait_for_pictures()
    assert ranking.ids() == swapped
    ranking.picture(1).focus()
    ranking.press("g")
    assert ranking.panel.locator(".dpo-counter").inner_text() == "Match 5 of 5"
    assert front_end.errors == []


def test_thumbs_by_mouse_and_keys_and_any_step_undone(front_end: FrontEnd, session: str) -> None:
    ranking = _ranked(front_end, session, count=4, mode="thumbs")
    ids = ranking.ids()
    ranking.button("Image 2: good").click()
    ranking.picture(3).focus()
    ranking.press("b")
    # The focus went on to the next image without a label.
    ranking.press("g")
    ranking.wait_for_saved()
    front_end.screenshot("ranking_thumbs")
    labels = {one["id"]: one["label"] for one in ranking.stored()["standings"]}
    assert [labels[one] for one in ids] == ["none", "good", "bad", "good"]
    assert ranking.hint() == "2 good, 1 bad, 1 without a label."
    assert _promised(ranking) == _made(ranking) == [(ids[1], ids[2])]
    ranking.panel.get_by_text("Steps", exact=True).click()
    front_end.screenshot("ranking_steps")
    ranking.button("Undo: Image 2 good").click()
    ranking.wait_for_saved()
    assert _promised(ranking) == _made(ranking) == [(ids[3], ids[2])]
    ranking.panel.get_by_text("Steps", exact=True).click()
    ranking.button("Redo").click()
    ranking.button("Undo").click()
    ranking.wait_for_saved()
    assert len(ranking.stored()["votes"]) == 2


def test_images_of_several_sizes_fill_their_places_and_pair_with_their_like(
    front_end: FrontEnd, session: str
) -> None:
    sizes = [(96, 64), (64, 96), (96, 64), (256, 256), (64, 96)]
    ranking = add_mixed_ranking(front_end, session, sizes)
    _run_and_show(front_end, ranking)
    shown = {image["id"]: (image["width"], image["height"]) for image in ranking.stored()["images"]}
    assert sorted(shown.values()) == sorted(sizes)
    front_end.screenshot("ranking_mixed")
    for one in ranking.tiles.all():
        # Up to the place's width or height, in its own proportions.
        place, fit = one.locator("img").evaluate(
            "e => [[e.clientWidth, e.clientHeight], getComputedStyle(e).objectFit]"
        )
        button = one.locator(".dpo-picture").evaluate("e => [e.clientWidth, e.clientHeight]")
        assert (place, fit) == (button, "contain") and min(place) > 96
    ids = ranking.ids()
    wide = [i for i, one in enumerate(ids, 1) if shown[one] == (96, 64)]
    tall = [i for i, one in enumerate(ids, 1) if shown[one] == (64, 96)]
    ranking.picture(wide[0]).click()
    ranking.picture(tall[0]).hover()
    assert "another size" in ranking.hint()
    ranking.picture(tall[0]).click()
    assert ranking.unsaved_votes() == 0 and ranking.stored()["votes"] == []
    ranking.picture(wide[1]).click()
    ranking.wait_for_saved()
    assert _made(ranking) == [(ids[wide[0] - 1], ids[wide[1] - 1])]
    fill_in(ranking.node, mode="side_by_side")
    frames = ranking.panel.locator(".dpo-frame")
    frames.first.wait_for()
    front_end.screenshot("ranking_mixed_match")
    for frame in frames.all():
        place = frame.evaluate("e => [e.clientWidth, e.clientHeight]")
        drawn = frame.locator("img").evaluate(
            """e => { const scale = e.offsetWidth / e.getBoundingClientRect().width;
                const outer = e.parentElement.offsetWidth
                    / e.parentElement.getBoundingClientRect().width;
                const box = e.getBoundingClientRect();
                return [box.width * outer, box.height * outer] }"""
        )
        gaps = [abs(side - room) for side, room in zip(drawn, place, strict=True)]
        assert min(gaps) < 1.5, (drawn, place)


def test_a_choice_that_cannot_be_saved_says_so_until_it_is_also_after_f5(
    front_end: FrontEnd, session: str
) -> None:
    ranking = _ranked(front_end, session, pairs_per_group=2)
    page = front_end.page

    def lost(route: Route) -> None:
        route.abort()

    page.route("**/dpo/**", lost)
    ranking.picture(1).click()
    ranking.picture(2).click()
    ranking.wait_for_not_saved("1 choice")
    assert ranking.badges()[0] == "1 better"
    front_end.screenshot("ranking_not_saved")
    page.unroute("**/dpo/**", lost)
    assert ranking.stored()["votes"] == []
    ranking.button("Save again").click()
    ranking.wait_for_saved()
    assert len(ranking.stored()["votes"]) == 1

    page.route("**/votes*", lost)
    ranking.picture(4).click()
    ranking.picture(5).click()
    ranking.wait_for_not_saved("1 choice")
    page.unroute("**/votes*", lost)
    # An image that is gone meanwhile is said to be, and is no choice.
    folder = front_end.server.base_dir / "output" / "dpo" / "sessions" / session
    for file in folder.rglob(f"{ranking.ids()[2]}*"):
        file.unlink()
    front_end.reload()
    ranking.wait_for_saved()
    assert len(ranking.stored()["votes"]) == 2
    ranking.node.show()
    ranking.wait_for_pictures()
    ranking.panel.locator(".dpo-gone").nth(2).wait_for()
    front_end.screenshot("ranking_image_gone")
    ranking.button("Go on: one more pair of the images left").click()
    ranking.picture(3).click()
    assert "Click the best image." in ranking.hint()
    ranking.picture(6).click()
    assert "Now click the worst." in ranking.hint()


def test_a_narrow_node_can_be_used_in_every_mode(front_end: FrontEnd, session: str) -> None:
    ranking = add_ranking(front_end, session, 4, mode="side_by_side", prompt=HOSTILE)
    ranking.node.evaluate("node => { node.setSize([300, 760]); app.canvas.setDirty(true, true) }")
    _run_and_show(front_end, ranking)
    front_end.screenshot("ranking_narrow_match")
    _assert_inside(ranking)
    for _ in range(4):
        ranking.button("The left image is better").click()
    for mode in MODES:
        fill_in(ranking.node, mode=mode)
        ranking.wait_for_saved()
        ranking.wait_for_pictures()
        if mode == "rank":
            ranking.picture(2).click()
            ranking.picture(3).click()
        front_end.screenshot(f"ranking_narrow_{mode}")
        _assert_inside(ranking)
    # The prompt is text whatever it holds.
    fold = ranking.panel.locator(".dpo-prompt-fold")
    assert fold.inner_text() == HOSTILE
    assert fold.get_attribute("aria-expanded") == "false"
    fold.click()
    assert fold.get_attribute("aria-expanded") == "true"
    front_end.screenshot("ranking_narrow_prompt")
    assert ranking.panel.locator("script, img[src='x']").count() == 0
    assert front_end.page.evaluate("() => window.hurt") is None


def _assert_inside(ranking: Ranking) -> None:
    """Every button in view lies inside the widget, and has a name."""
    panel = ranking.panel.bounding_box()
    assert panel is not None and panel["width"] < 300
    for one in ranking.panel.get_by_role("button").all():
        box = one.bounding_box()
        assert box is not None
        assert panel["x"] <= box["x"] and box["x"] + box["width"] <= panel["x"] + panel["width"]
        assert one.get_attribute("aria-label") or one.inner_text()


def test_undo_and_redo_of_the_graph_leave_a_widget_that_works(
    front_end: FrontEnd, session: str
) -> None:
    ranking = _ranked(front_end, session)
    ranking.picture(1).click()
    ranking.picture(2).click()
    ranking.wait_for_saved()
    front_end.page.wait_for_timeout(500)
    for command in ("Comfy.Undo", "Comfy.Redo", "Comfy.Undo"):
        front_end.command(command)
        front_end.page.wait_for_timeout(800)
        assert len(front_end.nodes("DPORankImages")) == 1
        ranking.wait_for_pictures()
        # The graph's undo does not take back what is in the session; the widget's own does.
        assert ranking.badges()[0] == "1 better"
    ranking.button("Undo").click()
    ranking.picture(4).click()
    ranking.picture(3).click()
    ranking.wait_for_saved()
    (vote,) = ranking.stored()["votes"]
    assert (vote["best"], vote["worst"]) == (ranking.ids()[3], ranking.ids()[2])


def test_several_nodes_and_a_pasted_copy_rank_each_for_itself(
    front_end: FrontEnd, session: str
) -> None:
    ranking = add_ranking(front_end, session, 6)
    other = add_ranking(front_end, f"{session}-b", 4, first=50)
    _run_and_show(front_end, ranking)
    ranking.picture(1).click()
    ranking.picture(2).click()
    ranking.wait_for_saved()
    value = ranking.value()
    other.node.show()
    other.picture(4).click()
    other.picture(3).click()
    other.wait_for_saved()
    (vote,) = other.stored()["votes"]
    assert vote["best"] == other.ids()[3] and other.value()["session"] == f"{session}-b"
    assert ranking.value() == value

    before = {node.id for node in front_end.nodes()}
    ranking.node.evaluate(
        """node => { app.canvas.selectItems?.([node]);
            app.canvas.copyToClipboard([node]); app.canvas.pasteFromClipboard() }"""
    )
    front_end.page.wait_for_timeout(800)
    (pasted,) = {node.id for node in front_end.nodes()} - before
    copy = Ranking(front_end, pasted)
    copy.node.evaluate("node => { node.pos = [700, 0] }")
    copy.node.show()
    copy.wait_for_pictures()
    assert copy.value() == value
    copy.button("Go on: one more pair of the images left").click()
    copy.picture(3).click()
    copy.picture(4).click()
    copy.wait_for_saved()
    front_end.screenshot("ranking_copy")
    assert len(copy.stored()["votes"]) == 2
    assert copy.value()["revision"] != value["revision"]
    assert ranking.value() == value


def test_a_node_inside_a_subgraph_ranks(front_end: FrontEnd, session: str) -> None:
    inner = add_ranking(front_end, session, 4)
    outer = front_end.page.evaluate(
        """() => { const made = app.rootGraph.convertToSubgraph(new Set(app.rootGraph.nodes));
            return made.node.id }"""
    )
    run = front_end.run()
    assert run.status == "success", run.error
    page = front_end.page
    page.evaluate("id => app.canvas.setGraph(app.rootGraph.getNodeById(id).subgraph)", outer)
    try:
        page.wait_for_timeout(500)
        ranking = Ranking(front_end, outer, inner.node.id)
        ranking.wait_for_pictures()
        page.evaluate(
            """([outer, id]) => { const node = app.rootGraph.getNodeById(outer).subgraph
                .getNodeById(id); app.canvas.ds.scale = 1; app.canvas.centerOnNode(node);
                app.canvas.setDirty(true, true) }""",
            [outer, inner.node.id],
        )
        page.wait_for_timeout(300)
        ranking.picture(1).click()
        ranking.picture(2).click()
        ranking.wait_for_saved()
        front_end.screenshot("ranking_in_a_subgraph")
    finally:
        page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_a_second_tab_with_the_saved_workflow_shows_what_was_chosen_and_ranks_for_itself(
    front_end: FrontEnd, session: str, tabs: BrowserContext
) -> None:
    first = _ranked(front_end, session)
    first.picture(1).click()
    first.picture(2).click()
    first.wait_for_saved()
    workflow = front_end.workflow()
    page = tabs.new_page()
    try:
        other = FrontEnd(page, front_end.server, front_end.canvas_mode)
        other.visit()
        other.clear()
        other.load(workflow)
        same = Ranking(other, first.node.id)
        same.node.show()
        same.wait_for_pictures()
        assert same.value() == first.value() and same.badges()[0] == "1 better"
        other.clear()
        second = _ranked(other, f"{session}-b", first=50)
        assert first.shown()["session"] == session
        second.picture(1).click()
        second.picture(2).click()
        second.wait_for_saved()
        front_end.page.bring_to_front()
        first.button("Undo").click()
        first.picture(3).click()
        first.picture(4).click()
        first.wait_for_saved()
        (vote,) = first.stored()["votes"]
        assert vote["best"] == first.ids()[2]
        assert second.stored()["votes"][0]["best"] == second.ids()[0]
        assert other.errors == []
    finally:
        page.close()
        # Tabs of one browser keep their unsaved workflows in one place.
        front_end.open()


def test_a_run_that_waits_goes_on_when_the_person_is_done(
    front_end: FrontEnd, session: str
) -> None:
    ranking = add_ranking(front_end, session, 4, wait=True)
    prompt_id = front_end.queue()
    bar = ranking.panel.get_by_text("The run is waiting for you.")
    bar.wait_for()
    front_end.reload()
    ranking.node.show()
    ranking.panel.get_by_text("The run is waiting for you.").wait_for()
    ranking.wait_for_pictures()
    ranking.picture(1).click()
    ranking.picture(2).click()
    ranking.wait_for_saved()
    front_end.screenshot("ranking_waiting")
    assert front_end.server.get(f"/history/{prompt_id}").json() == {}
    ranking.button("Done: let the run go on").click()
    for _ in range(100):
        front_end.page.wait_for_timeout(100)
        if entry := front_end.server.get(f"/history/{prompt_id}").json():
            break
    assert entry[prompt_id]["status"]["status_str"] == "success"
    assert not ranking.panel.get_by_text("The run is waiting for you.").is_visible()


def test_every_batch_of_a_queue_of_prompts_is_come_to(front_end: FrontEnd, session: str) -> None:
    ranking = add_ranking(front_end, session, 4)
    load = front_end.node("LoadImage")
    for first in (0, 10, 20):
        load_batch(front_end, load, session, 4, first=first)
        front_end.queue()
    counter = ranking.panel.locator(".dpo-set-count")
    counter.get_by_text("3/3", exact=True).wait_for()
    ranking.node.show()
    ranking.wait_for_pictures()
    bar = ranking.panel.locator(".dpo-unranked")
    seen = [ranking.shown()["set_id"]]
    for left in ("2 batches are", "1 batch is"):
        assert not bar.is_visible()
        ranking.picture(1).click()
        ranking.picture(2).click()
        ranking.wait_for_saved()
        assert f"{left} not ranked yet." in bar.inner_text()
        front_end.screenshot("ranking_unranked")
        if left.startswith("2"):
            ranking.button("Next images that are not ranked yet").click()
        else:
            ranking.press("m")
        ranking.wait_for_another_set(seen[-1])
        seen.append(ranking.shown()["set_id"])
    ranking.picture(3).click()
    ranking.picture(4).click()
    ranking.wait_for_saved()
    assert not bar.is_visible() and len(set(seen)) == 3
    assert ranking.stored()["totals"] == {"sets": 3, "votes": 3, "pairs": 3}
    # Oldest first; all can be leafed through.
    assert counter.inner_text() == "2/3"
    ranking.button("Older images of this session").click()
    counter.get_by_text("1/3", exact=True).wait_for()
    assert ranking.shown()["set_id"] == seen[1]
    assert ranking.button("Older images of this session").is_disabled()
    # What comes while the pointer is on images not ranked yet does not take them away.
    ranking.button("Undo").click()
    ranking.wait_for_nothing_to_save()
    ranking.picture(1).hover()
    load_batch(front_end, load, session, 4, first=30)
    front_end.page.evaluate("() => app.queuePrompt(0)")
    ranking.panel.get_by_text("New images have come.").wait_for()
    front_end.screenshot("ranking_newer")
    assert ranking.shown()["set_id"] == seen[1]
    ranking.button("Show the new images").click()
    counter.get_by_text("4/4", exact=True).wait_for()
    assert front_end.errors == []


_CLICK_TO_PAINT = """(picture) => new Promise(resolve => {
    const start = performance.now();
    picture.click();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start))) })"""


def test_sixty_four_images_are_reached_by_keys_and_answer_at_once(
    front_end: FrontEnd, session: str
) -> None:
    ranking = _ranked(front_end, session, count=64, size=(64, 64))
    assert ranking.tiles.count() == 64
    front_end.screenshot("ranking_64")
    ranking.picture(1).focus()
    ranking.press("End", "Enter", "ArrowLeft", "Enter")
    ranking.wait_for_saved()
    (vote,) = ranking.stored()["votes"]
    ids = ranking.ids()
    assert (vote["best"], vote["worst"]) == (ids[63], ids[62])
    times, nodes = [], []
    for _ in range(3):
        ranking.button("Undo").click()
        ranking.wait_for_nothing_to_save()
        for number in (3, 7):
            times.append(ranking.picture(number).evaluate(_CLICK_TO_PAINT))
        ranking.wait_for_saved()
        nodes.append(ranking.panel.evaluate("e => e.querySelectorAll('*').length"))
    print(f"{front_end.canvas_mode}: click to painted, ms: {[round(one, 1) for one in times]}")
    assert sorted(times)[len(times) // 2] <= 100
    assert len(set(nodes)) == 1


@pytest.fixture
def light(front_end: FrontEnd) -> Iterator[FrontEnd]:
    """The page in its light theme."""
    front_end.theme("light")
    yield front_end
    front_end.theme("dark")


def test_text_is_readable_in_the_light_theme(light: FrontEnd, session: str) -> None:
    ranking = _ranked(light, session)
    for mode in MODES:
        fill_in(ranking.node, mode=mode)
        light.page.wait_for_timeout(300)
        if mode != "side_by_side":
            ranking.picture(2).click()
        light.screenshot(f"ranking_light_{mode}")
        contrasts = ranking.panel.evaluate(_CONTRASTS)
        assert contrasts and min(contrasts.values()) >= 4.5, (mode, contrasts)


_CONTRASTS = """(panel) => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data] };
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => { for (let e = element; e; e = e.parentElement) {
        const colour = rgba(getComputedStyle(e).backgroundColor);
        if (colour[3] > 250) return colour } return [255, 255, 255] };
    const found = {};
    for (const name of ['.dpo-hint', '.dpo-prompt-fold span', '.dpo-pair-count', 'summary']) {
        const element = panel.querySelector(name);
        const one = light(rgba(getComputedStyle(element).color)), two = light(behind(element));
        found[name] = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05) }
    return found }"""


@pytest.fixture
def both(web_server: ComfyServer, tabs: BrowserContext) -> Iterator[list[FrontEnd]]:
    """A page for each way of drawing nodes, each with a storage of its own."""
    settings = web_server.get("/settings").json()
    assert tabs.browser is not None
    opened = []
    with ExitStack() as contexts:
        for mode in CANVAS_MODES:
            own = contexts.enter_context(browser.tabs(tabs.browser))
            opened.append(FrontEnd(own.new_page(), web_server, mode))
            opened[-1].open()
            opened[-1].clear()
        yield opened
    web_server.post("/settings", settings)


def test_what_is_chosen_while_the_server_restarts_is_saved_when_it_is_back(
    both: list[FrontEnd], web_server: ComfyServer, request: pytest.FixtureRequest
) -> None:
    rankings = []
    for page in both:
        page.page.bring_to_front()
        session = _session_name(request, page.canvas_mode)
        rankings.append(_ranked(page, session, pairs_per_group=2))
    port = web_server.port
    web_server.stop()
    try:
        for ranking in rankings:
            ranking.page.bring_to_front()
            ranking.picture(2).click()
            ranking.picture(1).click()
            ranking.wait_for_not_saved("1 choice")
            ranking.front_end.screenshot("ranking_server_down")
    finally:
        web_server.start(port)
    for ranking in rankings:
        ranking.page.bring_to_front()
        ranking.wait_for_saved()
        ranking.picture(3).click()
        ranking.picture(4).click()
        ranking.wait_for_saved()
        ids = ranking.ids()
        assert _made(ranking) == [(ids[1], ids[0]), (ids[2], ids[3])]
