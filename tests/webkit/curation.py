"""The curation panel on the page, and folders of generations for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL.PngImagePlugin import PngInfo

from webkit.front_end import FrontEnd
from webkit.pictures import landscape

if TYPE_CHECKING:
    from playwright.sync_api import Locator


def write_generations(
    folder: Path,
    prompt: str | None,
    count: int,
    first: int = 0,
    size: tuple[int, int] = (96, 64),
) -> list[Path]:
    """PNGs as AUTOMATIC1111 saves them, with landscapes of the seeds from `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(first, first + count):
        told = PngInfo()
        if prompt is not None:
            settings = f"Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: {seed}, Size: 96x64"
            told.add_itxt("parameters", f"{prompt}\nNegative prompt: blurry\n{settings}")
        found.append(folder / f"{seed:05d}.png")
        landscape(seed, *size).save(found[-1], pnginfo=told)
    return found


class CurationTab:
    """The panel, as a person uses it."""

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end, self.page = front_end, front_end.page
        # In the sidebar, or full screen.
        self.body: Locator = self.page.locator(".dpo-curation-body")
        # One front end names it by a class, the next by a test id.
        self._switch = self.page.locator(
            ".dpo-curation-tab-button, [data-testid=dpo-curation-tab-button]"
        )

    def open(self) -> None:
        """Show the tab, with the choice of a folder."""
        self._switch.click()
        self.body.wait_for()
        # Of what was open before; there may be nothing to leave.
        self.body.locator(".dpo-curation-head > .dpo-button").first.evaluate("one => one.click()")
        self.body.get_by_label("Folder", exact=True).wait_for()

    def close(self) -> None:
        if self.page.locator(".dpo-curation-dialog").count():
            self.page.keyboard.press("Escape")
        if self.body.count():
            self._switch.click()
            self.body.wait_for(state="detached")

    def look(self, folder: str, session: str) -> None:
        """Look through a folder for a session."""
        self.body.get_by_label("Folder", exact=True).fill(folder)
        self.body.get_by_label("Session", exact=True).fill(session)
        self.button("Look through the folder").click()

    def button(self, label: str) -> Locator:
        return self.body.get_by_role("button", name=label, exact=True)

    @property
    def board(self) -> Locator:
        return self.body.locator(".dpo-board")

    @property
    def pictures(self) -> Locator:
        return self.board.locator(".dpo-tile .dpo-picture")

    @property
    def prompt(self) -> Locator:
        return self.board.locator(".dpo-prompt-fold")

    def progress(self) -> Locator:
        return self.body.locator(".dpo-curation-state [role=status]")
