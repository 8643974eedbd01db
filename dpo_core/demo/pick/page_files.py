"""The files of the page: its own, and those of the ranking widget that ComfyUI shows as well."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .local_server import PAGE

DISTRIBUTION = "dpo-trainer"
WIDGET = "ranking"
"""The widget's folder, below `web/` and below the page's address."""

_OWN = Path(__file__).parent / "page"
_CHECKOUT = Path(__file__).parents[3] / "web"
_STYLE = "ranking.css"
_SHARED = ("element.mjs", "theme.css")
"""What the widget shares with the pack's other pages, beside its folder."""
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
}


class PageFiles:
    """Every file the page may ask for, by its path; what is not listed is not served.

    Raises:
        ValueError: the widget is not installed.
    """

    def __init__(self) -> None:
        widget = widget_folder()
        self._files: dict[tuple[str, ...], Path] = {(PAGE,): _OWN / "index.html"}
        for root, prefix in ((_OWN, ()), (widget, (WIDGET,))):
            for file in root.rglob("*"):
                if file.suffix in _TYPES and file.is_file():
                    self._files[prefix + file.relative_to(root).parts] = file
        for name in _SHARED:
            self._files[name,] = widget.parent / name

    def read(self, path: tuple[str, ...]) -> tuple[bytes, str] | None:
        """Content and content type, None if there is no such file."""
        file = self._files.get(path)
        return None if file is None else (file.read_bytes(), _TYPES[file.suffix])


def widget_folder() -> Path:
    """`web/ranking` of the checkout, or of the installed package.

    Raises:
        ValueError: it is nowhere.
    """
    folder = _CHECKOUT / WIDGET
    if (folder / _STYLE).is_file():
        return folder
    try:
        files = distribution(DISTRIBUTION).files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-3:] == ("web", WIDGET, _STYLE) and Path(file.locate()).is_file():
            return Path(file.locate()).resolve().parent
    raise ValueError(
        "The ranking page is not part of this installation. Run the command from a checkout of "
        'the project, after  pip install -e ".[standalone]"'
    )
