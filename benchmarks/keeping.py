"""What keeping and showing a training costs beside its steps: a ratio of one run.

    COMFYUI_PATH=... python benchmarks/keeping.py [--seconds 1] [--steps 110] [--rank 64]

A small model is trained as Train Steps trains it; every step is drawn out by sleeping until it has
taken as long as asked for. Counted is all the time between one step's end and the next one's
beginning: metrics, TensorBoard where it is installed, diagnostics, the live chart with a page that
reads every message, the progress bar, and checkpoints with the disk's own time to take them.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from hostkit import checkout


class Page:
    """In the host's server's place: encodes every message in another thread, as the host does."""

    client_id = "page"

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.bytes = 0
        threading.Thread(target=self._read, daemon=True).start()

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self._messages.put((event, data))

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        self._messages.put(("text", text))

    def _read(self) -> None:
        while True:
            self.bytes += len(json.dumps(self._messages.get()))


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def timed(self, owner: Any, method: str, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, method)

        def measured(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return real(*args, **options)
            finally:
                self.seconds.setdefault(name, []).append(time.perf_counter() - began)

        setattr(owner, method, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="sd3", help="sd15, sd3, flux")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a step")
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--rank", type=int, default=64)
    options = parser.parse_args()
    found = checkout.find_checkout()
    if found is None:
        sys.exit(checkout.missing_reason())
    checkout.enter_checkout(found)
    import server
    from hostkit import faults
    from hostkit.tiny_models import tiny_patcher
    from hostkit.training import pack_module, random_pairs, train_settings

    training, clock = pack_module("nodes.host.training"), Clock()
    server.PromptServer.instance = Page()  # type: ignore[assignment]
    between: list[float] = []
    steps: list[float] = []
    real = training.train

    def drawn_out(*args: Any, **settings: Any) -> Iterator[Any]:
        reports, began = real(*args, **settings), time.perf_counter()
        for report in reports:
            time.sleep(max(0.0, options.seconds - (time.perf_counter() - began)))
            ended = time.perf_counter()
            steps.append(ended - began)
            yield report
            began = time.perf_counter()
            between.append(began - ended)

    training.train = drawn_out
    for owner, method, name in (
        (pack_module("dpo_core.saving.metrics_log").MetricsLog, "append", "metrics.jsonl"),
        (training.EventLog, "add", "TensorBoard"),
        (pack_module("dpo_core.evaluation.diagnostics").Watch, "take", "diagnostics"),
        (training.LiveMetrics, "__call__", "live chart"),
        (pack_module("nodes.host.progress").Progress, "step", "progress bar"),
        (training.Autosave, "offer", "checkpoints"),
    ):
        clock.timed(owner, method, name)

    adapter = pack_module("dpo_core.training.adapter").AdapterSettings(options.rank, options.rank)
    encoded = pack_module("dpo_core.training.dataset").EncodedPairs
    progress = pack_module("nodes.host.progress").Progress(options.steps, "1")
    with tempfile.TemporaryDirectory() as folder, faults.output(Path(folder)):
        with torch.inference_mode(False):
            trainer = pack_module("nodes.host.trainer").build_trainer(
                tiny_patcher(options.kind), random_pairs(options.kind, 4), train_settings(),
                adapter, True, pack_module("nodes.host.lineage").Origin(), encoded(()),
            )
        with torch.inference_mode():
            done = training.train_steps(trainer, options.steps, progress)
        size = next(done.trainer.run.path.glob("step_*.safetensors")).stat().st_size

    whole = sum(steps)
    print(f"{len(steps)} steps of {statistics.median(steps):.3f} s, checkpoints of "
          f"{size / 2**20:.1f} MB")
    for name, seconds in clock.seconds.items():
        print(f"{name:14} {1e3 * sum(seconds) / len(steps):8.3f} ms a step, "
              f"{sum(seconds) / whole:8.4%}, at most {1e3 * max(seconds):.1f} ms")
    print(f"all there is   {1e3 * sum(between) / len(steps):8.3f} ms a step, "
          f"{sum(between) / whole:8.4%}")


if __name__ == "__main__":
    main()
