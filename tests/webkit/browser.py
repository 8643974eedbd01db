"""The browser of the tests: a Chromium with a profile of its own that reaches this machine only."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hostkit import checkout

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

CHROMIUM = Path("/usr/bin/chromium")
WINDOW = (1920, 1080)
PATIENCE = 180
"""Seconds until a step on the page has failed: a busy machine draws without a graphics card."""

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Of all addresses, also numeric ones, only this leads anywhere. Routes that abort would cost
    # every page a quarter more, for each request would be asked about.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def missing_reason() -> str | None:
    """Why no page can be driven here, for the skip line; None if one can."""
    if checkout.find_checkout() is None:
        return checkout.missing_reason()
    if not CHROMIUM.is_file():
        return f"no browser found: install Chromium as {CHROMIUM}"
    if importlib.util.find_spec("playwright") is None:
        return "no playwright found: pip install playwright in ComfyUI's Python"
    return None


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium; its profile is a temporary folder that ends with it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tabs(browser: Browser) -> Iterator[BrowserContext]:
    """Opens tabs that share cookies and storage."""
    from playwright.sync_api import expect

    width, height = WINDOW
    context = browser.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    context.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    try:
        yield context
    finally:
        context.close()
