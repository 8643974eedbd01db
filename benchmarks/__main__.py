"""Measures everything there is to measure, and writes it to docs/benchmarks.md.

    COMFYUI_PATH=... python -m benchmarks [--parts passes growth ...] [--dry]

With the Python that runs ComfyUI, from the project's folder; about 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostkit import checkout

from .table import DOCS, write

PARTS = (
    "passes", "host_trainer", "dpo_script", "growth", "start_up", "attention", "compiled",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--dry", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    found = checkout.find_checkout()
    if found is None:
        sys.exit(checkout.missing_reason())
    checkout.enter_checkout(found)
    logging.disable(logging.WARNING)
    for name in options.parts:
        began = time.perf_counter()
        part = importlib.import_module(f".{name}", __package__)
        for table in part.tables():
            if not options.dry:
                write(table)
        plot = getattr(part, "plot", None)
        if plot is not None and not options.dry:
            plot(DOCS / "benchmarks.png")
        print(f"{name} took {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
