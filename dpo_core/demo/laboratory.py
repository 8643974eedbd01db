"""Methods judged side by side on the embedded model: over seeds, numbers of pairs, wrong picks."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluation.interval import wilson
from ..run import train
from ..training.adapter import AdapterSettings
from ..training.dataset import EncodedPairs
from ..training.reference_cache import ReferenceCache
from .demo import base_digest
from .denoiser import DemoDenoiser, attached, build_adapter
from .judgement import base_error, held_out_accuracy, judge, leads
from .methods import METHODS, Method, lessons, paired_questions
from .network import FlowNetwork
from .picks import Question, drawn, picked_pairs, questions
from .plot import plot_methods
from .taste import Taste
from .trial_file import found_or_run, write_summary

ADAPTER = AdapterSettings(8, 8.0)


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
        learning_rate: 0 is the method's own.
    """

    method: str
    pairs: int
    flipped: float
    seed: int
    steps: int
    judged: int
    learning_rate: float = 0.0

    @property
    def how(self) -> Method:
        """The method with this trial's learning rate."""
        own = METHODS[self.method]
        return replace(own, learning_rate=self.learning_rate or own.learning_rate)


def trials(
    methods: Sequence[str],
    pairs: Sequence[int],
    flipped: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    judged: int,
    learning_rates: Sequence[float] = (0.0,),
) -> list[Trial]:
    """Every combination, those that share pictures next to each other.

    Raises:
        ValueError: unknown methods, or a number of pairs that rankings cannot be made of.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        known = "\n".join(f"  {name}" for name in METHODS)
        raise ValueError(f"There is no method {', '.join(unknown)}. Choose from:\n{known}")
    if odd := [count for count in pairs if count < 2 or count % 2]:
        raise ValueError(
            f"--pairs {odd[0]}: use an even number from 2 upwards; every two pairs are also ranked."
        )
    return [
        Trial(method, count, share, seed, steps, judged, rate)
        for seed, count, share, rate, method in product(
            seeds, pairs, flipped, learning_rates, methods
        )
    ]


def run_laboratory(
    network: FlowNetwork,
    taste: Taste,
    wanted: Sequence[Trial],
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """Runs what has no file in ``folder/trials`` yet; writes ``table.md`` and ``plot.png``.

    Args:
        network: the base model.
        taste: who picks and judges.
        wanted: what to run.
        folder: results; a laboratory that was interrupted goes on there. Several may work on one.
        progress: told how many trials are done.

    Raises:
        OSError: the folder cannot be written.
    """
    base = base_digest(network)
    bench = _Bench(network, taste)
    found = []
    for i, trial in enumerate(wanted):
        path = folder / "trials" / f"{_name(trial, taste, base)}.json"
        found.append(found_or_run(path, partial(_result, bench, trial, taste)))
        progress("laboratory", i + 1, len(wanted))
    write_summary(folder, table_of(found), plot_methods(found))
    return found


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown tables: shares with their 95 % interval over all seeds, means ± deviation."""
    groups: dict[tuple[int, float], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        rate = f", rate {row['learning_rate']:g}" if row["learning_rate"] else ""
        group = groups.setdefault((row["pairs"], row["flipped"]), {})
        group.setdefault(row["method"] + rate, []).append(row)
    lines = []
    for (pairs, flipped), methods in groups.items():
        lines += [
            f"### {pairs} pairs, {100 * flipped:.0f} % of the picks wrong",
            "",
            "| method | win rate | reward | drift | held-out accuracy | seeds |",
            "|---|---|---|---|---|---|",
        ]
        for name, members in methods.items():
            cells = [
                _share(members, "win_rate"), _mean(members, "reward"), _mean(members, "drift"),
                _share(members, "held_out_accuracy"),
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {len(members)} |")
        lines.append("")
    return "\n".join(lines)


class _HeldOut:
    """What trials of one seed are judged by, and what the base model makes of it."""

    def __init__(self, network: FlowNetwork, taste: Taste, count: int, seed: int) -> None:
        asked = questions(count, seed, held_out=True)
        pictures = drawn(network, asked)
        self.prompts = [question.prompt for question in asked]
        self.seeds = [question.seeds[0] for question in asked]
        # The first picture of each question is the base's answer to the same prompt and seed.
        self.before = pictures[::2]
        self.before_error = base_error(network, self.before, self.prompts)
        self.pairs: EncodedPairs = picked_pairs(asked, pictures, taste)
        self.leads = leads(network, self.pairs)


class _Bench:
    """Trains and judges. What methods share is drawn, and asked of the base model, once a seed."""

    def __init__(self, network: FlowNetwork, taste: Taste) -> None:
        self._network, self._taste = network, taste
        self._drawn: dict[int, tuple[list[Question], Tensor]] = {}
        self._held_out: dict[tuple[int, int], _HeldOut] = {}
        self._caches: dict[int, ReferenceCache] = {}

    def judge(self, trial: Trial) -> dict[str, float]:
        network, seed, method = self._network, trial.seed, trial.how
        asked, pictures = self._pictures(trial.pairs, seed)
        dataset = lessons(method, asked, pictures, self._taste, trial.flipped, seed)
        held_out = self._judged_by(trial.judged, seed)
        cache = self._caches.setdefault(seed, ReferenceCache(tolerance=1e-3))
        start = time.process_time()
        adapter = build_adapter(network, ADAPTER, seed)
        with attached(network, adapter):
            for _ in train(
                DemoDenoiser(network), adapter, dataset, method.settings(seed), trial.steps,
                cache=cache,
            ):
                pass
        judged = judge(
            network, adapter, self._taste, held_out.prompts, held_out.seeds, held_out.before,
            held_out.before_error,
        )
        accuracy = held_out_accuracy(network, adapter, held_out.pairs, held_out.leads)
        return {
            "win_rate": judged.win_rate.value,
            "reward": judged.reward,
            "drift": judged.drift,
            "held_out_accuracy": accuracy.value,
            "cpu_seconds": time.process_time() - start,
        }

    def _pictures(self, count: int, seed: int) -> tuple[list[Question], Tensor]:
        """Questions and their pictures; fewer are the first of more."""
        known = self._drawn.get(seed)
        if known is None or len(known[0]) < count:
            more = paired_questions(count, seed)
            known = self._drawn[seed] = more, drawn(self._network, more)
        asked, pictures = known
        return asked[:count], pictures[: 2 * count]

    def _judged_by(self, count: int, seed: int) -> _HeldOut:
        key = count, seed
        if key not in self._held_out:
            self._held_out[key] = _HeldOut(self._network, self._taste, count, seed)
        return self._held_out[key]


def _result(bench: _Bench, trial: Trial, taste: Taste) -> dict[str, Any]:
    return asdict(trial) | {"taste": taste.name} | bench.judge(trial)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _share(rows: Sequence[dict[str, Any]], name: str) -> str:
    wins = sum(row[name] * row["judged"] for row in rows)
    return str(wilson(wins, sum(row["judged"] for row in rows)))


def _name(trial: Trial, taste: Taste, base: str) -> str:
    """Digest of everything that decides the result."""
    content = [asdict(trial), asdict(trial.how.settings(trial.seed)), taste.name, base]
    return blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
