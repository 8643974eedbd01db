"""The ranking widget on the page, used by mouse and keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from webkit.node import Node
from webkit.pictures import landscape, write_batch

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

    def wait_for_nothing_to_save(self) -> None:
        """As `wait_for_saved`, also where no choice is left."""
        self.panel.locator(".dpo-save[data-state=saved]").wait_for(state="attached")

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

    def wait_for_another_set(self, set_id: str) -> None:
        """Wait until another set than this one is on display, drawn."""
        self.page.wait_for_function(
            "([id, old]) => app.rootGraph.getNodeById(id).properties.dpo_set.set_id !== old",
            arg=[self.node.id, set_id],
        )
        self.tiles.first.wait_for()
        self.wait_for_pictures()

    def unsaved_votes(self) -> int:
        """How many choices are kept by the browser, not being on the disk yet."""
        return int(self.page.evaluate(
            "() => Object.keys(localStorage).filter(k => k.startsWith('dpo.unsaved.')).length"
        ))

    def focus_is_seen(self) -> bool:
        """Whether the picture in focus has a frame above it."""
        shadow = self.page.evaluate(
            "() => getComputedStyle(document.activeElement, '::after').boxShadow"
        )
        return "inset" in shadow

    def badges(self) -> list[str]:
        """The pair badge of each picture, empty where there is none."""
        return [str(one) for one in self.tiles.locator(".dpo-badge").all_text_contents()]

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
        found = self.tiles.evaluate_all("all => all.map(e => e.dataset.image)")
        return [str(one) for one in found]


def add_ranking(
    front_end: FrontEnd,
    session: str,
    count: int,
    size: tuple[int, int] = (96, 96),
    first: int = 0,
    **settings: Any,
) -> Ranking:
    """A node that ranks `count` landscapes, next to the one that loads them."""
    load = front_end.add("LoadImage", x=-400, y=_below(front_end))
    load_batch(front_end, load, session, count, size, first)
    return _ranking_of(front_end, load, session, settings)


def load_batch(
    front_end: FrontEnd,
    load: Node,
    name: str,
    count: int,
    size: tuple[int, int] = (96, 96),
    first: int = 0,
) -> None:
    """Let a LoadImage node give `count` landscapes, others for another `first`."""
    file = f"{name}-{first}.png"
    write_batch(front_end.server.base_dir / "input" / file, count, size, first)
    fill_in(load, image=file)


def add_mixed_ranking(
    front_end: FrontEnd, session: str, sizes: list[tuple[int, int]], **settings: Any
) -> Ranking:
    """A node that ranks a list of landscapes, one of each size."""
    folder = front_end.server.base_dir / "input" / session
    folder.mkdir()
    for i, size in enumerate(sizes):
        landscape(i, *size).save(folder / f"{i}.png")
    load = front_end.add("LoadImageDataSetFromFolder", x=-400, y=_below(front_end))
    fill_in(load, folder=session)
    return _ranking_of(front_end, load, session, settings)


def _below(front_end: FrontEnd) -> float:
    return 900 * len(front_end.nodes("DPORankImages"))


def _ranking_of(
    front_end: FrontEnd, load: Node, session: str, settings: dict[str, Any]
) -> Ranking:
    rank = front_end.add("DPORankImages", y=_below(front_end))
    connect(load, 0, rank, "images")
    fill_in(rank, **{"session": session, "prompt": "hills at dusk", **settings})
    return Ranking(front_end, rank.id)


def add_training(front_end: FrontEnd, ranking: Ranking, checkpoint: str) -> Node:
    """The nodes that train one step on the pairs of a ranking; returns the trainer."""
    loader = front_end.add("CheckpointLoaderSimple", x=600)
    fill_in(loader, ckpt_name=checkpoint)
    encode = front_end.add("DPOEncodePairs", x=1000)
    trainer = front_end.add("DPOTrainer", x=1400)
    fill_in(trainer, grad_accumulation_steps=1)
    steps = front_end.add("DPOTrainSteps", x=1800)
    fill_in(steps, steps=1, min_pairs=1)
    connect(ranking.node, 0, encode, "pairs")
    connect(loader, 2, encode, "vae")
    connect(loader, 1, encode, "clip")
    connect(loader, 0, trainer, "model")
    connect(encode, 0, trainer, "dataset")
    connect(trainer, 0, steps, "trainer")
    return trainer


def connect(source: Node, output: int, target: Node, name: str) -> None:
    """Link an output to the input of that name."""
    source.evaluate(
        """(node, [output, id, name]) => {
            const target = app.rootGraph.getNodeById(id);
            node.connect(output, target, target.findInputSlot(name)) }""",
        [output, target.id, name],
    )


def fill_in(node: Node, **values: Any) -> None:
    """Give widgets their values at once."""
    node.evaluate(
        """(node, values) => {
            for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find(w => w.name === name);
                widget.value = value; widget.callback?.(value) } }""",
        values,
    )
