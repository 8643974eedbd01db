"""What training says while it runs: in a corner of ComfyUI's page."""

from __future__ import annotations

from playwright.sync_api import expect
from webkit.front_end import FrontEnd

_WARN = "detail => app.api.dispatchCustomEvent('dpo.warning', detail)"


def test_a_warning_is_shown_once_as_text_and_a_serious_one_stays(front_end: FrontEnd) -> None:
    page = front_end.page
    page.evaluate(_WARN, {"node": "1", "text": "Look at <b>the pairs</b>.", "serious": False})
    page.evaluate(_WARN, {"node": "1", "text": "Stop here.", "serious": True})
    toasts = page.locator(".p-toast-message")
    mild = toasts.filter(has_text="Look at <b>the pairs</b>.")  # text, never HTML
    expect(mild).to_have_count(1)
    expect(mild).to_have_class("p-toast-message p-toast-message-warn")
    expect(mild).to_contain_text("Training (DPO)")
    serious = toasts.filter(has_text="Stop here.")
    expect(serious).to_have_class("p-toast-message p-toast-message-error")
    front_end.screenshot("training_warning")
    serious.locator("button").click()
    expect(serious).to_have_count(0)
    mild.locator("button").click()
    expect(mild).to_have_count(0)
    assert front_end.errors == []
