"""What training says while it runs: in a corner of ComfyUI's page."""

from __future__ import annotations

from playwright.sync_api import expect
from webkit.front_end import FrontEnd

_WARN = "detail => app.api.dispatchCustomEvent('dpo.warning', detail)"


def test_warnings_are_shown_as_text_each_once(front_end: FrontEnd) -> None:
    page = front_end.page
    mild = page.get_by_text("Look at <b>the pairs</b>.", exact=True)  # text, never HTML
    serious = page.get_by_text("Stop here.", exact=True)
    expect(mild).to_have_count(0)
    page.evaluate(_WARN, {"node": "1", "text": "Look at <b>the pairs</b>.", "serious": False})
    page.evaluate(_WARN, {"node": "1", "text": "Stop here.", "serious": True})
    for shown in (mild, serious):
        expect(shown).to_have_count(1)
        expect(shown).to_be_visible()
    front_end.screenshot("training_warning")
    page.evaluate("() => app.extensionManager.toast.removeAll()")
    for shown in (mild, serious):
        expect(shown).to_have_count(0)
    assert front_end.errors == []
