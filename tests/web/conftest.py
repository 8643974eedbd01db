"""Fixtures for tests in ComfyUI's page; where it cannot be driven every module is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hostkit import checkout
from webkit import browser
from webkit.front_end import CANVAS_MODES, FrontEnd, front_end_arguments

if TYPE_CHECKING:
    from hostkit.server import ComfyServer
    from playwright.sync_api import Browser, BrowserContext

PACK = "comfyui-dpo-web"
CHECKPOINT = "tiny.safetensors"
REASON = browser.missing_reason()


@pytest.fixture(scope="session")
def web_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack as `PACK` and a tiny SD 1.5 called `CHECKPOINT`.

    It is not the server of `tests/host`: the page leaves settings and workflows behind.
    """
    found = checkout.find_checkout()
    assert found is not None
    checkout.enter_checkout(found)
    from hostkit.server import ComfyServer
    from hostkit.tiny_models import write_sd15_checkpoint

    folder = tmp_path_factory.mktemp("comfyui")
    server = ComfyServer(found, folder, PACK, front_end_arguments())
    folder = server.base_dir / "models" / "checkpoints"
    write_sd15_checkpoint(folder).rename(folder / CHECKPOINT)
    with server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The one running Chromium: playwright cannot be started again beside itself."""
    with browser.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def tabs(chromium: Browser) -> Iterator[BrowserContext]:
    """Opens tabs with ComfyUI's page."""
    with browser.tabs(chromium) as context:
        yield context


@pytest.fixture(scope="session", params=CANVAS_MODES)
def canvas_mode(request: pytest.FixtureRequest) -> str:
    """Each way of drawing nodes in turn, for all tests."""
    return str(request.param)


@pytest.fixture(scope="session")
def opened(
    web_server: ComfyServer, tabs: BrowserContext, canvas_mode: str
) -> Iterator[FrontEnd]:
    """ComfyUI's page in a tab, which the tests of one way of drawing share."""
    page = tabs.new_page()
    shown = FrontEnd(page, web_server, canvas_mode)
    shown.open()
    yield shown
    page.close()


@pytest.fixture
def front_end(opened: FrontEnd, request: pytest.FixtureRequest) -> Iterator[FrontEnd]:
    """ComfyUI's page without nodes, ready for use."""
    opened.begin()
    failed = request.session.testsfailed
    yield opened
    opened.page.unroute_all()
    if request.session.testsfailed > failed:
        # Nobody knows what a test that failed has left behind.
        opened.open()


class _SkippedModule(pytest.Module):
    def collect(self) -> Iterator[pytest.Item]:
        assert REASON is not None
        pytest.skip(REASON, allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: object, parent: pytest.Collector
) -> pytest.Module | None:
    if REASON is None:
        return None
    return _SkippedModule.from_parent(parent, path=module_path)
