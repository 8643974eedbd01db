"""The chart of a Train Steps node on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from webkit.node import Node
from webkit.ranking import connect, fill_in

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from webkit.front_end import FrontEnd

_TAG = """([id, path]) => {
    let graph = app.rootGraph, node = null;
    for (const part of path) { node = graph.getNodeById(part); graph = node.subgraph }
    const chart = node.widgets.find(w => w.name === 'chart').element;
    for (const one of document.querySelectorAll(`[data-test='${id}']`)) delete one.dataset.test;
    chart.dataset.test = id }"""


class Chart:
    """The widget of one DPOTrainSteps node; `path` are the node ids that lead to it."""

    def __init__(self, front_end: FrontEnd, *path: Any) -> None:
        self.front_end, self.page, self.path = front_end, front_end.page, list(path)

    @property
    def node(self) -> Node:
        """The node, where it is not inside a subgraph."""
        (number,) = self.path
        return Node(self.page, self.front_end.canvas_mode, number)

    @property
    def panel(self) -> Locator:
        """All of the widget."""
        tag = "chart:" + ":".join(str(part) for part in self.path)
        self.page.evaluate(_TAG, [tag, self.path])
        return self.page.locator(f"[data-test='{tag}']")

    @property
    def status(self) -> Locator:
        """The line that says where training stands."""
        return self.panel.locator(".dpo-chart-status")

    @property
    def field(self) -> Locator:
        """The curves; what they show at a step is its aria-valuetext."""
        return self.panel.locator(".dpo-plot-field")

    @property
    def summary(self) -> Locator:
        """The curves in words, a few seconds after they change."""
        return self.panel.locator(".dpo-plot > .dpo-plot-summary")

    def reading(self) -> str:
        """The step that is read, and the values there."""
        return str(self.field.get_attribute("aria-valuetext"))

    def last_step(self) -> int:
        """Up to which step the curves go."""
        return int(str(self.field.get_attribute("aria-valuemax")))

    def inked(self) -> int:
        """How many pixels of the canvas are drawn on."""
        found: int = self.panel.locator("canvas").evaluate(
            """canvas => { const { data } = canvas.getContext('2d')
                .getImageData(0, 0, canvas.width, canvas.height);
                let inked = 0;
                for (let i = 3; i < data.length; i += 4) if (data[i]) inked += 1;
                return inked }"""
        )
        return found

    def button(self, label: str) -> Locator:
        return self.panel.get_by_role("button", name=label, exact=True)

    def box(self, label: str) -> Locator:
        return self.panel.get_by_role("checkbox", name=label, exact=True)


def add_training(
    front_end: FrontEnd, checkpoint: str, folder: str, steps: int, x: float = 0, **trainer: Any
) -> Chart:
    """The nodes that train on a pair folder; the chart of the last of them."""
    loader, pairs = front_end.add("CheckpointLoaderSimple"), front_end.add("DPOLoadPairFolder")
    encode, made = front_end.add("DPOEncodePairs"), front_end.add("DPOTrainer")
    node = front_end.add("DPOTrainSteps", x=500, y=0)
    for i, one in enumerate((loader, pairs, encode, made)):
        one.evaluate("(node, y) => { node.pos = [-200, y] }", 300 * i)
    fill_in(loader, ckpt_name=checkpoint)
    fill_in(pairs, folder=folder)
    fill_in(made, grad_accumulation_steps=1, gradient_checkpointing=False, rank=2, **trainer)
    fill_in(node, steps=steps, min_pairs=1)
    connect(pairs, 0, encode, "pairs")
    connect(loader, 2, encode, "vae")
    connect(loader, 1, encode, "clip")
    connect(loader, 0, made, "model")
    connect(encode, 0, made, "dataset")
    connect(made, 0, node, "trainer")
    return Chart(front_end, node.id)
