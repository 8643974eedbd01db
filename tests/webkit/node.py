"""One node on the page, with both ways of drawing it behind the same verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import ElementHandle, Locator, Page

_WIDGET_HEIGHT = 24
_WIDGET = "(node, name) => node.widgets.find(w => w.name === name)"
_PAINTED_PICTURES = """async (node) => {
    const images = [...(node.imgs ?? [])]; await Promise.all(images.map(i => i.decode()));
    return images.map(i => [i.naturalWidth, i.naturalHeight]) }"""
_SHOWN_PICTURE = """async image => {
    await image.decode(); return [image.naturalWidth, image.naturalHeight] }"""


class Node:
    """A node of the graph; `id` is its number there."""

    def __init__(self, page: Page, canvas_mode: str, node_id: int) -> None:
        self.page, self.id = page, node_id
        self._is_element = canvas_mode == "nodes2"

    def evaluate(self, function: str, argument: Any = None) -> Any:
        """Call a JavaScript function of (node, argument)."""
        return self.page.evaluate(
            f"([id, argument]) => ({function})(app.rootGraph.getNodeById(id), argument)",
            [self.id, argument],
        )

    @property
    def type(self) -> str:
        return str(self.evaluate("node => node.type"))

    @property
    def title(self) -> str:
        return str(self.evaluate("node => node.title"))

    def box(self) -> tuple[float, float, float, float]:
        """Left, top (of the title), width and height as drawn, in graph units."""
        left, top, width, height = self.evaluate("node => [...node.boundingRect]")
        if self._is_element:
            width, height = self.element().evaluate("e => [e.offsetWidth, e.offsetHeight]")
        return left, top, width, height

    def show(self) -> None:
        """Bring the node to the middle of the view in its full size."""
        self.evaluate(
            """node => { const c = app.canvas; c.ds.scale = 1; c.centerOnNode(node);
                c.setDirty(true, true) }"""
        )
        self.page.wait_for_timeout(250)

    def element(self) -> Locator:
        """The node's element. Nodes 2.0 only: the classic canvas has none."""
        assert self._is_element
        return self.page.locator(f"[data-node-id='{self.id}']")

    def dom_widget(self, name: str) -> ElementHandle:
        """The element of a widget made with `addDOMWidget`, in either way of drawing."""
        handle = self.page.evaluate_handle(
            f"([id, name]) => ({_WIDGET})(app.rootGraph.getNodeById(id), name).element",
            [self.id, name],
        ).as_element()
        assert handle is not None, f"{name} has no element"
        return handle

    def widgets(self) -> list[str]:
        """Names of the widgets that the schema gives, as shown, in order."""
        found: list[str] = self.evaluate(
            """node => (node.widgets ?? [])
                .filter(w => node.constructor.nodeData.inputs[w.name]).map(w => w.name)"""
        )
        return found

    def value(self, widget: str) -> Any:
        """What the widget holds."""
        return self.evaluate(f"{_WIDGET}.value", widget)

    def set(self, widget: str, value: str | int | float) -> None:
        """Give a number, text or combo widget a value with mouse and keyboard."""
        self.show()
        kind = self.evaluate(f"{_WIDGET}.type", widget)
        if kind == "combo":
            self._choose(widget, str(value))
        else:
            self._type(widget, str(value))
        assert self.value(widget) == value, f"{widget} is {self.value(widget)!r}"

    def _choose(self, widget: str, option: str) -> None:
        if self._is_element:
            self.row(widget).get_by_role("combobox").click()
            self.page.get_by_role("option", name=option, exact=True).click()
        else:
            self.page.mouse.click(*self._middle(widget))
            menu = self.page.locator(".litecontextmenu .litemenu-entry")
            menu.get_by_text(option, exact=True).click()
        self.page.wait_for_timeout(100)

    def _type(self, widget: str, text: str) -> None:
        if self._is_element:
            field = self.row(widget).locator("input")
        else:
            self.page.mouse.dblclick(*self._middle(widget))
            field = self.page.locator(".graphdialog input")
        field.fill(text)
        field.press("Enter")
        self.page.wait_for_timeout(100)

    def row(self, widget: str) -> Locator:
        """The line of a widget. Nodes 2.0 only."""
        label = self.page.get_by_text(widget, exact=True)
        rows = self.element().get_by_test_id("node-widget")
        return rows.filter(has=label).or_(rows.filter(has=self.page.get_by_label(widget))).first

    def _middle(self, widget: str) -> tuple[float, float]:
        """Where a painted widget is on the screen, right of its name."""
        x, y = self.evaluate(
            """(node, [name, height]) => {
                const widget = node.widgets.find(w => w.name === name), canvas = app.canvas;
                const at = [node.pos[0] + 0.6 * node.size[0],
                            node.pos[1] + widget.last_y + height / 2];
                const [x, y] = canvas.ds.convertOffsetToCanvas(at);
                const box = canvas.canvas.getBoundingClientRect();
                return [x + box.left, y + box.top] }""",
            [widget, _WIDGET_HEIGHT],
        )
        return x, y

    def tooltip(self, widget: str) -> str:
        """What hovering over a widget shows; the node must be in view."""
        if not self._is_element and self.evaluate(f"{_WIDGET}.element !== undefined", widget):
            return str(self.dom_widget(widget).evaluate("e => e.closest('.dom-widget').title"))
        shown = self.page.locator(".p-tooltip" if self._is_element else ".node-tooltip")
        self.page.mouse.move(2, 700)  # below the buttons of the sidebar
        shown.wait_for(state="hidden")
        if self._is_element:
            row = self.row(widget)
            label = row.get_by_test_id("widget-layout-field-label")
            label.or_(row.locator("textarea")).first.hover()
        else:
            x, y = self._middle(widget)
            self.page.mouse.move(x - 3, y)
            self.page.mouse.move(x, y)
        shown.wait_for()
        return shown.inner_text()

    def text(self) -> str:
        """The text that the running node has put on itself, empty if it does not show."""
        text = self.evaluate(
            "node => node.widgets?.find(w => w.name === '$$node-text-preview')?.value"
        )
        if not text:
            return ""
        first = self.page.get_by_text(str(text).splitlines()[0]).first
        return str(text) if first.is_visible() else ""

    def pictures(self) -> list[tuple[int, int]]:
        """Width and height of the pictures the node shows."""
        if not self._is_element:
            return [(w, h) for w, h in self.evaluate(_PAINTED_PICTURES)]
        sizes = [
            image.evaluate(_SHOWN_PICTURE)
            for image in self.element().locator("img").all()
        ]
        return [(w, h) for w, h in sizes]
