"""The widget of a Blind Compare node on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from webkit.ranking import Ranking

if TYPE_CHECKING:
    from playwright.sync_api import Locator

_TAG = """([id, number]) => {
    const { element } = app.rootGraph.getNodeById(number).widgets.find(w => w.name === 'ranking');
    for (const one of document.querySelectorAll(`[data-test='${id}']`)) delete one.dataset.test;
    element.dataset.test = id }"""


class Comparison(Ranking):
    """As the ranking of a node, with what is below and after it."""

    @property
    def whole(self) -> Locator:
        """The pictures, the line below them, and the result."""
        (number,) = self.path
        tag = f"comparison:{number}"
        self.page.evaluate(_TAG, [tag, number])
        return self.page.locator(f"[data-test='{tag}']")

    @property
    def result(self) -> Locator:
        return self.whole.locator(".dpo-result")

    @property
    def reveal(self) -> Locator:
        """The button that is shown, of the two places where it is."""
        return self.whole.get_by_role("button", name="Reveal").locator("visible=true")

    def wait_for_progress(self, text: str) -> None:
        self.whole.locator(".dpo-compared span").get_by_text(text, exact=True).first.wait_for()

    def wait_for_couple(self, besides: str = "") -> str:
        """Waits for two pictures of another couple than that of this set; the set."""
        self.page.wait_for_function(
            """([id, besides]) => {
                const node = app.rootGraph.getNodeById(id), shown = node.properties.dpo_set;
                const { element } = node.widgets.find(w => w.name === 'ranking');
                const images = [...element.querySelectorAll('.dpo-frame img')];
                return shown && shown.set_id !== besides && images.length === 2
                    && element.querySelector('.dpo-view')?.dataset.phase === 'match'
                    && images.every(image => image.naturalWidth) }""",
            arg=[self.node.id, besides],
        )
        return str(self.shown()["set_id"])

    def told(self) -> dict[str, Any]:
        """The comparison as the server tells it."""
        known = self.node.evaluate("node => node.properties.dpo_comparison")
        path = f"/dpo/sessions/{known['session']}/comparisons/{known['comparison']}"
        found: dict[str, Any] = self.front_end.server.get(path).json()
        return found
