"""``python -m dpo_core demo --pick``: from the command line to the page, and back."""

from __future__ import annotations

import argparse
import os
import sys
import time
import webbrowser

from .groups import MAX_PICTURES
from .local_server import ADDRESS, LocalServer
from .page_files import PageFiles
from .routes import Routes
from .studio import PickSettings, Studio

MAX_GROUPS = 1000


def add_pick_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--pick`` and what belongs to it."""
    defaults = PickSettings()
    group = parser.add_argument_group(
        "your own taste",
        "Opens a page on this machine where you rank pictures and train on your picks.\n"
        "Everything is saved at once: the same command goes on where you were.",
    )
    group.add_argument(
        "--pick", action="store_true", help="pick yourself, instead of a taste that is a formula"
    )
    group.add_argument(
        "--groups", type=int, default=defaults.groups, metavar="N",
        help=f"groups of pictures to rank (default: {defaults.groups})",
    )
    group.add_argument(
        "--pictures", type=int, default=defaults.pictures, metavar="N",
        help=f"pictures in a group, 2 to {MAX_PICTURES} (default: {defaults.pictures})",
    )
    group.add_argument(
        "--port", type=int, default=0, metavar="N", help="of the page (default: a free one)"
    )
    group.add_argument(
        "--no-browser", action="store_true", help="only print the page's address"
    )


def run_pick(options: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        ValueError: options out of range, or no page can be served here.
        OSError: ``--out`` cannot be written.
    """
    if problems := _problems(options):
        raise ValueError("\n".join(problems))
    settings = PickSettings(
        groups=options.groups, pictures=options.pictures, steps=options.steps, seed=options.seed
    )
    files = PageFiles()
    studio = Studio(options.out, settings)
    server = LocalServer(Routes(studio, files), options.port)
    try:
        server.start()
        studio.start()
        _say(f"The page is at {server.url}\nEverything is saved below {options.out}\n")
        if not options.no_browser and not _open_browser(server.url):
            _say(
                f"No browser can be opened from here. To see the page from another machine, run\n"
                f"  ssh -L {server.port}:{ADDRESS}:{server.port} <name of this machine>\n"
                "there, and open the address above in its browser.\n"
            )
        _say("Ctrl-C ends it.\n")
        while True:
            time.sleep(3600)
    finally:
        studio.close()
        server.stop()


def _problems(options: argparse.Namespace) -> list[str]:
    found = [
        f"--{name} does not go with --pick: {why}."
        for name, why in (
            ("taste", "the taste is yours"),
            ("pairs", "the pairs are your picks, of as many --groups as you like"),
        )
        if getattr(options, name) is not None
    ]
    limits = {
        "steps": (1, 100_000), "groups": (1, MAX_GROUPS), "pictures": (2, MAX_PICTURES),
        "port": (0, 65_535), "seed": (0, 1_000_000),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(options, name) <= high:
            found.append(f"--{name} must be {low} to {high}.")
    return found


def _open_browser(url: str) -> bool:
    """False where there is no screen, or no browser: one for text would take the terminal."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform not in ("win32", "darwin") and not any(map(os.environ.get, screens)):
        return False
    try:
        return webbrowser.open(url)
    except (OSError, webbrowser.Error):
        return False


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
