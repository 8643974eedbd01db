"""The ranking widget on the page, used by mouse and keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from webkit.node import Node
from webkit.pictures import write_batch

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from webkit.front_end import FrontEnd

_TAG = """([id, path]) => {
    let graph = app.rootGraph, node = null;
    for (const part of path) { node = graph.getNodeById(part); graph = node.subgraph }
    const widget = node.widgets.find(w => w.name === 'ranking');
    const panel = widget.element.querySelector('.dpo-board')
        ?? document.querySelector('dialog .dpo-board');
    for (const one of document.querySelectorAll(`[data-test='${id}']`)) delete one.dataset.test;
    panel.dataset.test = id }"""


class Ranking:
    """The widget of one DPORankImages node; `path` are the node ids that lead to it."""

    def __init__(self, front_end: FrontEnd, *path: Any) -> None:
        self.front_end, self.page, self.path = front_end, front_end.page, list(path)

    @property
    def node(self) -> Node:
        """The node, where it is not inside a subgraph."""
        (number,) = self.path
        return Node(self.page, self.front_end.canvas_mode, number)

    @property
    def panel(self) -> Locator:
        """All of the widget, in the node or full screen."""
        tag = ":".join(str(part) for part in self.path)
        self.page.evaluate(_TAG, [tag, self.path])
        return self.page.locator(f"[data-test='{tag}']")

    @property
    def tiles(self) -> Locator:
        return self.panel.locator(".dpo-tile")

    def picture(self, number: int) -> Locator:
        """The button with the picture at a place of the grid, from 1."""
        return self.tiles.nth(number - 1).locator(".dpo-picture")

    def button(self, label: str) -> Locator:
        return self.panel.get_by_role("button", name=label, exact=True)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def hint(self) -> str:
        return self.panel.locator(".dpo-hint").inner_text()

    def saved(self) -> str:
        """What stands where it says whether choices are saved."""
        return self.panel.locator(".dpo-saved").inner_text()

    def wait_for_saved(self) -> None:
        self._saved_line(re.compile("^Saved$")).wait_for()

    def wait_for_not_saved(self, choices: str) -> None:
        self._saved_line(re.compile(f"^{choices} not saved: .")).wait_for()

    def _saved_line(self, text: re.Pattern[str]) -> Locator:
        return self.panel.locator(".dpo-saved").filter(has_text=text)

    def wait_for_pictures(self) -> None:
        """Wait until all pictures of the grid are drawn or known to be gone."""
        self.page.wait_for_function(
            """panel => panel.querySelectorAll('.dpo-tile').length
                && [...panel.querySelectorAll('.dpo-tile')].every(tile =>
                    tile.dataset.broken || tile.querySelector('img').naturalWidth)""",
            arg=self.panel.element_handle(),
        )

    def badges(self) -> list[str]:
        """The pair badge of each picture, empty where there is none."""
        return [one.inner_text() for one in self.tiles.locator(".dpo-badge").all()]

    def value(self) -> dict[str, Any]:
        found: dict[str, Any] = self.node.value("ranking")
        return found

    def shown(self) -> dict[str, str]:
        """Session and id of the set on display."""
        found: dict[str, str] = self.node.evaluate("node => node.properties.dpo_set")
        return found

    def stored(self) -> dict[str, Any]:
        """The set on display as the server has it."""
        shown = self.shown()
        count = self.node.value("pairs_per_group")
        path = f"/dpo/sessions/{quote(shown['session'])}/sets/{shown['set_id']}"
        reply = self.front_end.server.get(f"{path}?pairs_per_group={count}")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json()
        return found

    def ids(self) -> list[str]:
        """Image ids in the order they are shown."""
        return [str(one.get_attribute("data-image")) for one in self.tiles.all()]


def add_ranking(
    front_end: FrontEnd,
    session: str,
    count: int,
    size: tuple[int, int] = (96, 96),
    first: int = 0,
    **settings: Any,
) -> Ranking:
    """A node that ranks `count` landscapes, next to the one that loads them."""
    name = f"{session}-{first}.png"
    write_batch(front_end.server.base_dir / "input" / name, count, size, first)
    below = 900 * len(front_end.nodes("DPORankImages"))
    load = front_end.add("LoadImage", x=-400, y=below)
    rank = front_end.add("DPORankImages", y=below)
    values = {"session": session, "prompt": "hills at dusk", **settings}
    load.evaluate(
        """(node, [file, target]) => {
            node.widgets.find(w => w.name === 'image').value = file;
            node.connect(0, app.rootGraph.getNodeById(target), 0) }""",
        [name, rank.id],
    )
    rank.evaluate(
        """(node, values) => {
            for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find(w => w.name === name);
                widget.value = value; widget.callback?.(value) } }""",
        values,
    )
    return Ranking(front_end, rank.id)
