"""The library that reads and writes Parquet files, which need not be installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..pairs.problem import PairError, PairProblem

OLDEST = (15, 0)
"""Before 14.0.1 a file could make pyarrow run code that it carried."""

_INSTALL = (
    'Install it with ComfyUI\'s own Python: python -m pip install "pyarrow>=15" (portable '
    "ComfyUI: python_embeded\\python.exe in place of python). Then start ComfyUI again."
)


@dataclass(frozen=True)
class Arrow:
    """The two modules of pyarrow that are used."""

    core: Any
    parquet: Any


def load_arrow() -> Arrow:
    """Import pyarrow. Raises PairError, saying how to install it, if it is missing or too old."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        what = "Parquet files need the Python package pyarrow, which is missing"
        raise _unusable(what) from error
    version = tuple(int(part) for part in re.findall(r"\d+", pyarrow.__version__)[:2])
    if version < OLDEST:
        what = f"The Python package pyarrow is {pyarrow.__version__}, which is too old to be safe"
        raise _unusable(what)
    return Arrow(pyarrow, pyarrow.parquet)


def _unusable(what: str) -> PairError:
    heading = "Parquet files cannot be read or written here"
    return PairError([PairProblem(what, "pyarrow", _INSTALL)], heading)
