"""What a click in the ranking widget costs the page, until its answer is drawn.

    COMFYUI_PATH=... python benchmarks/clicks.py [--images 64] [--rounds 8]

Real clicks of a mouse in Chromium, in ComfyUI's own page, with both of its renderers, traced by
the browser itself. For each kind of click, the medians of

- handled: what the widget's own code takes,
- work: all that the page's main thread does from the click to the end of the frame that shows its
  answer, ComfyUI's drawing included, in ms of processor time, so that a busy machine counts less,
- frames: how many frames of the page that takes. 1 is the very next one,
- limit: work of a click, on the same page, on a button that only changes its colour,
- drawn: from the click until the frame is on the screen, in ms by the clock. Without a graphics
  card the browser draws every pixel in software; a screen of 60 Hz adds up to 17 ms of waiting.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostkit import checkout

PRESS = 80
"""Milliseconds that a person holds the button of a mouse down."""
CATEGORIES = ["devtools.timeline", "toplevel", "cc", "viz", "benchmark"]
BUTTON = """() => {
    const made = document.createElement('button');
    made.id = 'bare';
    made.style = 'position:fixed;right:8px;top:50%;width:90px;height:90px;z-index:9999';
    made.onclick = () => { made.style.background = (made.on = !made.on) ? 'red' : 'green' };
    document.body.append(made) }"""


class Cost(NamedTuple):
    """Of one click, in ms; see above."""

    handled: float
    work: float
    frames: int
    drawn: float


class Click(NamedTuple):
    """One kind of click: where the mouse goes, and what undoes it."""

    name: str
    mode: str
    target: Callable[[Any], Any]
    before: Callable[[Any], None] = lambda ranking: None


class NoAnswer(Exception):
    """A trace in which the frame with the answer is missing: the trace ended before it."""


def cost_of(events: list[dict[str, Any]]) -> Cost:
    """Reads a trace of Chromium with one click in it. Raises NoAnswer."""
    click = next(e for e in events if _is_dispatch(e, "click"))
    thread = click["pid"], click["tid"]
    main = [e for e in events if (e["pid"], e["tid"]) == thread and e.get("ph") == "X"]
    task = next(
        e for e in main if e["name"] == "WidgetBaseInputHandler::OnHandleInputEvent"
        and e["ts"] <= click["ts"] <= e["ts"] + e["dur"]
    )
    frames = [
        e for e in sorted(main, key=lambda e: e["ts"])
        if e["name"] == "ProxyMain::BeginMainFrame" and e["ts"] >= click["ts"]
    ]
    painted = next((i for i, e in enumerate(frames) if _has_paint(main, e)), None)
    if painted is None:
        raise NoAnswer
    answer = frames[painted]
    handed_over = next(
        e["ts"] for e in events if e["name"] == "ProxyImpl::Commit" and e["ts"] >= answer["ts"]
    )
    drawn = next(
        e for e in sorted(events, key=lambda e: e["ts"])
        if e["name"] == "Display::DrawAndSwap" and e["ts"] >= handed_over
    )
    return Cost(
        handled=click["tdur"] / 1000,
        work=(task["tdur"] + sum(e["tdur"] for e in frames[: painted + 1])) / 1000,
        frames=painted + 1,
        drawn=(drawn["ts"] + drawn["dur"] - task["ts"]) / 1000,
    )


def _is_dispatch(event: dict[str, Any], kind: str) -> bool:
    return (
        event["name"] == "EventDispatch"
        and event.get("args", {}).get("data", {}).get("type") == kind
    )


def _has_paint(main: list[dict[str, Any]], frame: dict[str, Any]) -> bool:
    start, end = frame["ts"], frame["ts"] + frame["dur"]
    return any(e["name"] == "Paint" and start <= e["ts"] <= end for e in main)


@contextmanager
def traced(page: Any, session: Any) -> Iterator[list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    ended: list[Any] = []

    def take(message: dict[str, Any]) -> None:
        events.extend(message["value"])

    def end(message: dict[str, Any]) -> None:
        ended.append(message)

    session.on("Tracing.dataCollected", take)
    session.on("Tracing.tracingComplete", end)
    session.send(
        "Tracing.start",
        {"transferMode": "ReportEvents", "traceConfig": {"includedCategories": CATEGORIES}},
    )
    yield events
    page.wait_for_timeout(600)
    session.send("Tracing.end")
    while not ended:
        page.wait_for_timeout(20)
    session.remove_listener("Tracing.dataCollected", take)
    session.remove_listener("Tracing.tracingComplete", end)


def click(page: Any, session: Any, target: Any) -> Cost:
    """Moves the mouse there, waits until the page is at rest, and clicks."""
    box = target.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 4, y)
    page.mouse.move(x, y)
    page.wait_for_timeout(400)
    with traced(page, session) as events:
        page.mouse.click(x, y, delay=PRESS)
    return cost_of(events)


def _undo_all(ranking: Any) -> None:
    undo = ranking.panel.get_by_role("button", name="Undo", exact=True)
    while undo.is_enabled():
        undo.evaluate("button => button.click()")
        ranking.page.wait_for_timeout(150)
    ranking.wait_for_nothing_to_save()


def _first_pick(ranking: Any) -> None:
    ranking.picture(3).click()
    ranking.page.wait_for_timeout(200)


def _pair(ranking: Any) -> None:
    _first_pick(ranking)
    ranking.picture(7).click()
    ranking.wait_for_saved()


CLICKS = (
    Click("best", "best_worst", lambda ranking: ranking.picture(3)),
    Click("worst, which makes a pair", "best_worst", lambda r: r.picture(7), _first_pick),
    Click("undo of a pair", "best_worst", lambda ranking: ranking.button("Undo"), _pair),
    Click("one more pair", "best_worst", lambda r: r.panel.locator(".dpo-tools button"), _pair),
    Click("next in an order", "rank", lambda ranking: ranking.picture(5)),
    Click("left of two", "side_by_side", lambda r: r.panel.locator(".dpo-frame").first),
    Click("good", "thumbs", lambda r: r.tiles.nth(8).locator(".dpo-thumb-good")),
)


def measure(found: Path, images: int, rounds: int) -> None:
    from hostkit.server import ComfyServer
    from webkit import browser
    from webkit.front_end import FrontEnd, front_end_arguments
    from webkit.ranking import add_ranking

    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(found, Path(folder), "dpo", front_end_arguments()) as server,
        browser.chromium() as chrome,
        browser.tabs(chrome) as tabs,
    ):
        print(f"{'':36}{'handled':>9}{'work':>8}{'limit':>8}{'frames':>8}{'drawn':>8}")
        for canvas in ("classic", "nodes2"):
            page = tabs.new_page()
            session = tabs.new_cdp_session(page)
            front_end = FrontEnd(page, server, canvas)
            front_end.open()
            front_end.clear()
            ranking = add_ranking(front_end, "clicks", images, (1024, 1024))
            front_end.run()
            ranking.node.show()
            page.wait_for_timeout(3000)
            limit = _limit(page, session, rounds)
            _show(f"{canvas}: a bare button", [limit], limit)
            for one in CLICKS:
                ranking.node.set("mode", one.mode)
                page.wait_for_timeout(800)
                costs = _costs(page, session, one.target, rounds, partial(_prepare, one), ranking)
                _show(f"{canvas}: {one.name}", costs, limit)
            page.close()


def _limit(page: Any, session: Any, rounds: int) -> Cost:
    page.evaluate(BUTTON)
    costs = _costs(
        page, session, lambda page: page.locator("#bare"), rounds, lambda page: None, page
    )
    page.locator("#bare").evaluate("button => button.remove()")
    return _median(costs)


def _prepare(one: Click, ranking: Any) -> None:
    _undo_all(ranking)
    one.before(ranking)


def _costs(
    page: Any,
    session: Any,
    target: Callable[[Any], Any],
    rounds: int,
    prepare: Callable[[Any], None],
    place: Any,
) -> list[Cost]:
    """Of so many clicks on the target in a place, after one that warms up."""
    costs: list[Cost] = []
    for _ in range(3 * (rounds + 1)):
        prepare(place)
        try:
            costs.append(click(page, session, target(place)))
        except NoAnswer:
            print("(a trace ended too early: clicked once more)", file=sys.stderr)
        if len(costs) == rounds + 1:
            break
    return costs[1:]


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def _show(name: str, costs: list[Cost], limit: Cost) -> None:
    handled, work, frames, drawn = _median(costs)
    most = max(cost.frames for cost in costs)
    print(
        f"{name:36}{handled:9.1f}{work:8.1f}{limit.work:8.1f}{frames:8.0f}{drawn:8.1f}"
        f"   (frames at most {most})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    found = checkout.find_checkout()
    if found is None:
        raise SystemExit(checkout.missing_reason())
    checkout.enter_checkout(found)
    measure(found, given.images, given.rounds)


if __name__ == "__main__":
    main()
