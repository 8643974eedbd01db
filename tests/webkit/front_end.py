"""One tab with ComfyUI's page, used as a person uses it, with either way of drawing nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webkit.browser import PATIENCE
from webkit.node import Node

if TYPE_CHECKING:
    from hostkit.server import ComfyServer
    from playwright.sync_api import ConsoleMessage, Page

CANVAS_MODES = ("classic", "nodes2")
"""Nodes painted on the canvas, and nodes as elements of the page ("Nodes 2.0")."""

SCREENSHOTS = "DPO_SCREENSHOTS"
"""The environment variable that names a folder for pictures of what the tests saw."""

FRONT_END = "DPO_FRONT_END"
"""The environment variable that names another front end than the one ComfyUI pins.

The folder `static` of an unpacked comfyui_frontend_package.
"""

# The page asks for files that a person may have, and its first workflow for models elsewhere.
_USUAL = ("404 (Not Found)", "Content Security Policy")

_FORGET = """async () => {
    localStorage.clear(); sessionStorage.clear();
    for (const { name } of await indexedDB.databases()) indexedDB.deleteDatabase(name) }"""
_LISTEN = """async () => {
    if (window.dpoEnded) return;
    window.dpoEnded = {};
    const { api } = await import('/scripts/api.js');
    for (const name of ['success', 'error', 'interrupted'])
        api.addEventListener(`execution_${name}`, ({ detail }) => {
            window.dpoEnded[detail.prompt_id] = true }) }"""
_READY = """() => window.app?.rootGraph && window.app.canvas && window.app.extensionManager
    && !document.querySelector('.p-progressspinner')"""


def front_end_arguments() -> list[str]:
    """What tells ComfyUI which front end to serve."""
    folder = os.environ.get(FRONT_END)
    return ["--front-end-root", folder] if folder else []


@dataclass(frozen=True)
class Run:
    """What became of a prompt queued from the page."""

    prompt_id: str
    status: str
    """success or error."""
    error: str
    """The exception's message, empty if there was none."""
    outputs: Mapping[str, Any]
    """Node id -> its `ui` value."""
    texts: Mapping[int, list[str]]
    """Node id -> the lines that stood on the node while it ran, of the nodes watched."""


class FrontEnd:
    """ComfyUI's page in one tab.

    Args:
        page: an empty tab.
        server: the running ComfyUI.
        canvas_mode: one of `CANVAS_MODES`.
    """

    def __init__(self, page: Page, server: ComfyServer, canvas_mode: str) -> None:
        self.page, self.server, self.canvas_mode = page, server, canvas_mode
        self.errors: list[str] = []
        """Errors in the console and uncaught exceptions since the page was ready."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(text in message.text for text in _USUAL):
            self.errors.append(message.text)

    def open(self, theme: str = "dark") -> None:
        """Load the page with `theme` (dark or light), past what it shows on the first visit.

        Nothing that an earlier tab has stored is left.
        """
        settings = {
            "Comfy.VueNodes.Enabled": self.canvas_mode == "nodes2",
            "Comfy.ColorPalette": theme,
            "Comfy.TutorialCompleted": True,
            "Comfy.Minimap.Visible": False,
            "LiteGraph.Node.TooltipDelay": 50,
        }
        assert self.server.post("/settings", settings).status == 200
        self.page.goto(f"{self.server.url}/system_stats")
        self.page.evaluate(_FORGET)
        self.visit()

    def visit(self) -> None:
        """Load the page as it is set."""
        self.page.goto(self.server.url)
        self._wait_until_ready()

    def begin(self) -> None:
        """Remove what the test before has left: nodes, pointer, errors."""
        self.page.mouse.move(2, 500)
        self.page.evaluate("() => app.clean()")
        self.clear()
        self.errors.clear()

    def theme(self, name: str) -> None:
        """Change to the theme dark or light."""
        self.page.evaluate(
            "name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", name
        )
        self.page.wait_for_timeout(300)

    def reload(self) -> None:
        """What F5 does."""
        # The page keeps the workflow a moment after each change.
        self.page.wait_for_timeout(1500)
        self.page.reload()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        self.page.wait_for_function(_READY)
        self.page.wait_for_function("() => window.app.rootGraph.nodes.length > 0")
        self.page.wait_for_timeout(300)
        self.page.keyboard.press("Escape")
        self.errors.clear()

    def open_template(self, pack: str, name: str) -> None:
        """Open an example workflow from the page's browser of templates."""
        self.command("Comfy.BrowseTemplates")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).first.click()
        dialog.get_by_role("img", name=name).first.click()
        dialog.wait_for(state="detached")
        self.page.wait_for_timeout(500)

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Show a workflow as a file dropped on the page is shown."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_timeout(500)

    def clear(self) -> None:
        """Remove all nodes, and what the page knows of them: the next ones get the same numbers."""
        self.page.evaluate(
            "() => { app.rootGraph.clear(); app.rootGraph.id = crypto.randomUUID() }"
        )

    def add(self, node_type: str, x: float = 0, y: float = 0) -> Node:
        """Add a node at a place of the graph, in graph units."""
        number = self.page.evaluate(
            """([type, x, y]) => {
                const node = LiteGraph.createNode(type); node.pos = [x, y];
                app.rootGraph.add(node); return node.id }""",
            [node_type, x, y],
        )
        self.page.wait_for_timeout(100)
        return Node(self.page, self.canvas_mode, number)

    def nodes(self, node_type: str | None = None) -> list[Node]:
        """The nodes of the graph, or those of one type, in the order of their ids."""
        numbers = self.page.evaluate(
            "type => app.rootGraph.nodes.filter(n => !type || n.type === type).map(n => n.id)",
            node_type,
        )
        return [Node(self.page, self.canvas_mode, number) for number in sorted(numbers)]

    def node(self, name: str) -> Node:
        """The one node of that type or title; KeyError unless there is exactly one."""
        found = [node for node in self.nodes() if name in (node.type, node.title)]
        if len(found) != 1:
            raise KeyError(f"{len(found)} nodes are called {name}")
        return found[0]

    def missing_node_types(self) -> list[str]:
        """Types of this graph that ComfyUI does not know."""
        found: list[str] = self.page.evaluate(
            """() => app.rootGraph.nodes.map(n => n.type)
                .filter(type => !(type in LiteGraph.registered_node_types))"""
        )
        return found

    def workflow(self) -> dict[str, Any]:
        """The graph as the page would save it."""
        graph: dict[str, Any] = self.page.evaluate(
            "async () => JSON.parse(JSON.stringify((await app.graphToPrompt()).workflow))"
        )
        return graph

    def queue(self) -> str:
        """Press Run; returns the id of the prompt."""
        self.page.evaluate(_LISTEN)
        button = self.page.get_by_test_id("queue-button")
        with self.page.expect_response(lambda r: r.url.endswith("/api/prompt")) as response:
            button.click()
        reply = response.value.json()
        assert response.value.ok, reply
        return str(reply["prompt_id"])

    def run(self, watch: tuple[Node, ...] = (), timeout: float = PATIENCE) -> Run:
        """Press Run and wait for the end, reading the lines on the watched nodes meanwhile.

        Raises TimeoutError with the end of ComfyUI's log.
        """
        prompt_id = self.queue()
        texts: dict[int, list[str]] = {node.id: [] for node in watch}
        for _ in self._ticks(timeout):
            for node in watch:
                line = node.text()
                if line and line not in texts[node.id]:
                    texts[node.id].append(line)
            entry = self.server.get(f"/history/{prompt_id}").json().get(prompt_id)
            if entry is not None and self.page.evaluate("id => dpoEnded[id]", prompt_id):
                self.page.wait_for_timeout(200)
                status = entry["status"]
                errors = [d for name, d in status["messages"] if name == "execution_error"]
                message = errors[0]["exception_message"] if errors else ""
                return Run(prompt_id, status["status_str"], message, entry["outputs"], texts)
        raise TimeoutError(f"{prompt_id} did not end:\n{self.server.log()[-4000:]}")

    def _ticks(self, timeout: float, every: float = 0.1) -> Iterator[None]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # Not time.sleep: the page's events are read only while playwright waits.
            self.page.wait_for_timeout(1000 * every)
            yield

    def command(self, name: str) -> None:
        """One of the page's commands, as from its menus."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def fit(self) -> None:
        """Bring the whole graph into view."""
        self.command("Comfy.Canvas.FitView")
        self.page.wait_for_timeout(800)

    def screenshot(self, name: str) -> None:
        """Save what the tab shows as <name>_<canvas mode>.png if `SCREENSHOTS` names a folder."""
        if folder := os.environ.get(SCREENSHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}_{self.canvas_mode}.png")
