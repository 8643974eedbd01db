"""The demo's own page: ranked by mouse and keys, trained on the picks, compared blindly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from webkit import browser
from webkit.front_end import SCREENSHOTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
GROUPS, STEPS = 5, 6


class Demo:
    """The command, as in a terminal."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def start(self) -> str:
        """Runs until `stop`; the page's address."""
        options = ["--groups", str(GROUPS), "--steps", str(STEPS), "--out", str(self.out)]
        self._running = subprocess.Popen(
            [sys.executable, "-m", "dpo_core", "demo", "--pick", "--no-browser", *options],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        assert self._running.stdout is not None
        found = re.search(r"http://\S+", self._running.stdout.readline())
        assert found is not None
        return found[0]

    def stop(self) -> None:
        self._running.kill()  # nothing may depend on a farewell
        self._running.wait()

    def picks(self) -> list[str]:
        """The kinds of votes that are on the disk."""
        lines = (self.out / "sessions" / "picks-0" / "votes.jsonl").read_text().splitlines()
        return [kind for kind in (json.loads(line)["kind"] for line in lines) if kind != "set"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path)
    yield made
    made.stop()


def wait_for_group(page: Page, number: int) -> None:
    group = page.locator(f".group[aria-current=true][aria-label^='Group {number},']")
    group.wait_for()
    page.wait_for_function(
        """() => { const all = [...document.querySelectorAll('#rank .dpo-tile img')];
            return all.length > 1 && all.every(one => one.naturalWidth) }"""
    )


def screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get(SCREENSHOTS):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"demo_{name}.png", full_page=True)


def test_ranked_trained_and_compared_by_mouse_and_keys(demo: Demo, chromium: Browser) -> None:
    url = demo.start()
    with browser.tabs(chromium) as tabs:
        page = tabs.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(url)
        pictures = page.locator("#rank .dpo-picture")
        train = page.locator("#rank").get_by_role("button", name="Train on my picks")

        # Three groups by mouse; after each the next one comes by itself.
        for number in (1, 2, 3):
            wait_for_group(page, number)
            pictures.nth(0).click()
            pictures.nth(2).click()
        wait_for_group(page, 4)
        page.get_by_text("3 pairs so far; 4 are needed to train").wait_for()
        assert train.is_disabled()
        screenshot(page, "rank")

        # One by keys alone, in another way: an order.
        page.get_by_role("button", name="Order").click()
        pictures.first.focus()
        page.keyboard.press("Enter")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
        page.keyboard.press("s")
        wait_for_group(page, 5)
        assert demo.picks() == ["best_worst"] * 3 + ["ranking"]
        page.get_by_text("4 pairs to train on").wait_for()

        # The command is killed and begun anew: what was ranked is there, what was not comes first.
        page.close()
        demo.stop()
        url = demo.start()
    with browser.tabs(chromium) as tabs:
        page = tabs.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        wait_for_group(page, 5)
        assert page.locator(".group[data-ranked]").count() == 4
        page.locator("#rank").get_by_role("button", name="Train on my picks").click()
        page.get_by_role("heading", name=re.compile(f"Training: step . of {STEPS}")).wait_for()
        screenshot(page, "train")

        compare = page.locator("#compare")
        compare.get_by_role("heading", name=f"Trained {STEPS} steps on 4 pairs").wait_for()
        # Before the blind comparison the two are not shown under their names.
        assert not compare.locator(".pair img").first.is_visible()
        compare.get_by_role("button", name="Compare blind").click()
        for count in range(12):
            compare.get_by_text(f"{count} of 12 answered").wait_for()
            compare.locator(".dpo-choices").wait_for()
            page.keyboard.press(("ArrowLeft", "ArrowRight", "t")[count % 3])
        compare.get_by_text("of 12 blind comparisons").wait_for()
        assert re.search(r"interval is \d+ to \d+ %", compare.inner_text())
        images = compare.locator(".pair img")
        assert images.count() == 32 and images.first.is_visible()
        page.wait_for_function(
            "() => [...document.querySelectorAll('.pair img')].every(i => i.naturalWidth === 64)"
        )
        assert images.first.bounding_box()["width"] > 96  # type: ignore[index]
        (lora,) = demo.out.glob("picks-*/lora.safetensors")
        assert page.locator("footer").get_by_text(str(lora)).is_visible()
        screenshot(page, "compare")
    assert errors == []


def test_a_page_whose_command_was_ended_says_so(demo: Demo, chromium: Browser) -> None:
    url = demo.start()
    with browser.tabs(chromium) as tabs:
        page = tabs.new_page()
        page.goto(url)
        wait_for_group(page, 1)
        demo.stop()
        page.get_by_role("alert").get_by_text("run the same command again").wait_for()
