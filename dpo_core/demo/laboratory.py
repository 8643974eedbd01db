"""Methods judged side by side on the embedded model: over seeds, numbers of pairs, wrong picks."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from ..run import train
from ..saving.atomic import write_atomically
from ..training.adapter import AdapterSettings
from ..training.objectives import Objective
from .demo import train_settings
from .denoiser import DemoDenoiser, attached, build_adapter
from .judgement import held_out_accuracy, judge
from .network import FlowNetwork
from .picks import Question, drawn, picked_pairs, questions
from .plot import plot_methods
from .taste import Taste

METHODS: dict[str, Objective] = {
    # beta 0 leaves only the supervised term: the same passes, hence equal compute.
    "supervised": Objective(beta=0.0, supervised_mix=1.0),
    "dpo beta 300": Objective(beta=300.0),
    "dpo beta 1000": Objective(beta=1000.0),
    "dpo beta 5000": Objective(beta=5000.0),
    "dpo beta 1000, smoothing 0.1": Objective(beta=1000.0, label_smoothing=0.1),
}
"""Every method by name."""

MEASURES = ("win_rate", "reward", "drift", "held_out_accuracy")


@dataclass(frozen=True)
class Trial:
    """One training to be judged.

    Attributes:
        method: a key of :data:`METHODS`.
        pairs: picks to learn from.
        flipped: share of them that are wrong.
        seed: of everything that is drawn.
        steps: optimiser steps.
        judged: held-out pictures and pairs it is judged by.
    """

    method: str
    pairs: int
    flipped: float
    seed: int
    steps: int
    judged: int


def trials(
    methods: Sequence[str],
    pairs: Sequence[int],
    flipped: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    judged: int,
) -> list[Trial]:
    """Every combination, those that share pictures next to each other.

    Raises:
        ValueError: unknown methods.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        known = "\n".join(f"  {name}" for name in METHODS)
        raise ValueError(f"There is no method {', '.join(unknown)}. Choose from:\n{known}")
    return [
        Trial(method, count, share, seed, steps, judged)
        for seed, count, share, method in product(seeds, pairs, flipped, methods)
    ]


def run_laboratory(
    network: FlowNetwork,
    taste: Taste,
    wanted: Sequence[Trial],
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """Runs what is not in ``folder/trials.jsonl`` yet; writes ``table.md`` and ``plot.png``.

    Args:
        network: the base model.
        taste: who picks and judges.
        wanted: what to run.
        folder: results; a laboratory that was interrupted goes on there.
        progress: told how many trials are done.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "trials.jsonl"
    known = {_key(row): row for row in _rows(log)}
    judge_of = _Judge(network, taste)
    found = []
    for i, trial in enumerate(wanted):
        key = _key(asdict(trial) | {"taste": taste.name})
        if key not in known:
            known[key] = asdict(trial) | {"taste": taste.name} | judge_of.judge(trial)
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
                file.flush()
                os.fsync(file.fileno())
        found.append(known[key])
        progress("laboratory", i + 1, len(wanted))
    table = table_of(found)
    write_atomically(folder / "table.md", lambda part: _write(part, table))
    plot = plot_methods(found)
    write_atomically(folder / "plot.png", lambda part: plot.save(part, format="PNG"))
    return found


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: mean over seeds, with the standard deviation where there are several."""
    lines = [
        "| pairs | wrong picks | method | win rate | reward | drift | held-out accuracy | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["pairs"], row["flipped"], row["method"]), []).append(row)
    for (pairs, flipped, method), members in groups.items():
        cells = [_mean(members, name) for name in MEASURES]
        lines.append(
            f"| {pairs} | {100 * flipped:.0f} % | {method} | {' | '.join(cells)} | {len(members)} |"
        )
    return "\n".join(lines) + "\n"


class _Judge:
    """Trains and judges; pictures of the base model are drawn once for all methods."""

    def __init__(self, network: FlowNetwork, taste: Taste) -> None:
        self._network, self._taste = network, taste
        self._pictures: dict[tuple[int, int, bool], tuple[list[Question], Tensor]] = {}

    def judge(self, trial: Trial) -> dict[str, float]:
        network, taste = self._network, self._taste
        asked, pictures = self._asked(trial.pairs, trial.seed, held_out=False)
        pairs = picked_pairs(asked, pictures, taste, trial.flipped, trial.seed)
        adapter = build_adapter(network, AdapterSettings(8, 8.0), trial.seed)
        settings = train_settings(trial.seed, METHODS[trial.method])
        start = time.perf_counter()
        with attached(network, adapter):
            for _ in train(DemoDenoiser(network), adapter, pairs, settings, trial.steps):
                pass
        seconds = time.perf_counter() - start
        held_out, drawings = self._asked(trial.judged, trial.seed, held_out=True)
        accuracy = held_out_accuracy(network, adapter, picked_pairs(held_out, drawings, taste))
        prompts, seeds = [q.prompt for q in held_out], [q.seeds[0] for q in held_out]
        # The first picture of each question is the base's answer to the same prompt and seed.
        judged = judge(network, adapter, taste, prompts, seeds, before=drawings[::2])
        return {
            "win_rate": judged.win_rate.value,
            "reward": judged.reward,
            "drift": judged.drift,
            "held_out_accuracy": accuracy.value,
            "seconds": seconds,
        }

    def _asked(self, count: int, seed: int, held_out: bool) -> tuple[list[Question], Tensor]:
        key = (count, seed, held_out)
        if key not in self._pictures:
            asked = questions(count, seed, held_out)
            self._pictures[key] = (asked, drawn(self._network, asked))
        return self._pictures[key]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _key(row: dict[str, Any]) -> str:
    names = ("taste", "method", "pairs", "flipped", "seed", "steps", "judged")
    return json.dumps([row[name] for name in names])


def _rows(log: Path) -> Iterator[dict[str, Any]]:
    if not log.exists():
        return
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            _key(row)
        except (ValueError, KeyError, TypeError):
            continue  # a line torn by an interruption: that trial runs again
        yield row


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
