"""Online, offline and supervised training on as many judged pictures, compared over seeds."""

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
from typing import NamedTuple

from torch import Tensor

from ..judging.panel import Member, Panel
from ..training.adapter import Adapter
from ..training.dataset import EncodedImage, EncodedPair, EncodedPairs
from ..training.reference_cache import ReferenceCache
from .contest_plot import plot_contest
from .contest_table import contest_table
from .demo import base_digest
from .denoiser import build_adapter
from .judgement import base_error, judge
from .laboratory import ADAPTER
from .methods import METHODS, Method
from .network import FlowNetwork
from .online import Ask, RoundSettings, answers, judged, online_rounds, trained
from .picks import draw_pictures, questions, scores
from .taste import Taste
from .taste_judge import TasteJudge
from .trial_file import Row, found_or_run, write_summary


@dataclass(frozen=True)
class Arm:
    """A way to make use of a judge.

    Attributes:
        method: how it learns; the rate is the best of a small search, on seeds that are not judged.
        online: the LoRA draws the pictures of each round, not the base model.
        refresh_reference: as of :class:`~.online.RoundSettings`.
    """

    method: Method
    online: bool = False
    refresh_reference: bool = False


_DPO = replace(METHODS["dpo beta 1000"], learning_rate=5e-4)

ARMS: dict[str, Arm] = {
    "online": Arm(_DPO, online=True),
    "offline": Arm(_DPO),
    "supervised": Arm(METHODS["supervised"]),
    "online, reference refreshed": Arm(_DPO, online=True, refresh_reference=True),
}
"""Every arm by name; the first three are the contest."""


@dataclass(frozen=True)
class Entry:
    """One training of the contest.

    Attributes:
        arm: a key of :data:`ARMS`.
        rounds: pictures and steps; those that do not train online get the same in one go.
        seed: of everything that is drawn.
        held_out: pictures it is judged by, of prompts and seeds no training has seen.
        learning_rate: 0 is the arm's own.
    """

    arm: str
    rounds: RoundSettings
    seed: int
    held_out: int
    learning_rate: float = 0.0

    @property
    def method(self) -> Method:
        """The arm's, with this entry's learning rate."""
        own = ARMS[self.arm].method
        return replace(own, learning_rate=self.learning_rate or own.learning_rate)


def entries(
    arms: Sequence[str],
    sizes: Sequence[RoundSettings],
    seeds: Sequence[int],
    held_out: int,
    learning_rates: Sequence[float] = (0.0,),
) -> list[Entry]:
    """Every combination, those that share pictures next to each other.

    Raises:
        ValueError: unknown arms, or sizes out of range.
    """
    problems = [problem for rounds in sizes for problem in rounds.problems()]
    if held_out < 2:
        problems.append(f"judged is {held_out}: use 2 or more; rewards are told in their spread.")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        known = "\n".join(f"  {name}" for name in ARMS)
        problems.append(f"There is no arm {', '.join(unknown)}. Choose from:\n{known}")
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    return [
        Entry(arm, replace(rounds, refresh_reference=ARMS[arm].refresh_reference), seed, held_out,
              rate)
        for seed, rounds, rate, arm in product(seeds, sizes, learning_rates, arms)
    ]


def run_contest(
    network: FlowNetwork,
    taste: Taste,
    wanted: Sequence[Entry],
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> list[Row]:
    """Runs what has no file in ``folder/trials`` yet; writes ``table.md`` and ``plot.png``.

    Args:
        network: the base model.
        taste: the judge.
        wanted: what to run.
        folder: results; a contest that was interrupted goes on there. Several may work on one.
        progress: told how many entries are done.

    Raises:
        OSError: the folder cannot be written.
    """
    base = base_digest(network)
    bench = _Bench(network, taste)
    found = []
    for i, entry in enumerate(wanted):
        path = folder / "trials" / f"{_name(entry, taste, base)}.json"
        found.append(found_or_run(path, partial(bench.result, entry)))
        progress("contest", i + 1, len(wanted))
    write_summary(folder, contest_table(found), plot_contest(found))
    return found


class _Drawn(NamedTuple):
    """The base model's pictures of all rounds, and what drawing them took."""

    asked: list[Ask]
    pictures: Tensor
    cpu_seconds: float


class _HeldOut:
    """What entries of one seed are judged by, and what the base model makes of it."""

    def __init__(self, network: FlowNetwork, taste: Taste, count: int, seed: int) -> None:
        asked = questions(count, seed, held_out=True)
        self.prompts = [question.prompt for question in asked]
        self.seeds = [question.seeds[0] for question in asked]
        self.before = draw_pictures(network, self.prompts, self.seeds)
        self.before_scores = scores(taste, self.before)
        self.before_error = base_error(network, self.before, self.prompts)


class _Bench:
    """Trains and judges. What entries share is drawn by the base model once a seed."""

    def __init__(self, network: FlowNetwork, taste: Taste) -> None:
        self._network, self._taste = network, taste
        self._panel = Panel((Member(TasteJudge(taste)),))
        self._drawn: dict[tuple[int, int, int, int], _Drawn] = {}
        self._held_out: dict[tuple[int, int], _HeldOut] = {}

    def result(self, entry: Entry) -> Row:
        """Everything that is kept of an entry."""
        adapter = build_adapter(self._network, ADAPTER, entry.seed)
        learn = self._online if ARMS[entry.arm].online else self._offline
        round_scores, seconds = learn(entry, adapter)
        return {
            "arm": entry.arm,
            "taste": self._taste.name,
            "seed": entry.seed,
            "rounds": asdict(entry.rounds),
            "judged": entry.rounds.judged,
            "steps": entry.rounds.steps,
            "learning_rate": entry.learning_rate,
            "round_scores": round_scores,
            "cpu_seconds": seconds,
        } | self._compared(entry, adapter)

    def _online(self, entry: Entry, adapter: Adapter) -> tuple[list[float], float]:
        """The mean score of each round's pictures, and the seconds of drawing and training."""
        training = entry.method.settings(entry.seed)
        start = time.process_time()
        rounds = online_rounds(self._network, adapter, self._panel, entry.rounds, training)
        means = [statistics.mean(each.scores) for each in rounds]
        return means, time.process_time() - start

    def _offline(self, entry: Entry, adapter: Adapter) -> tuple[list[float], float]:
        """As :meth:`_online`, of the base's pictures: all of them before the first step."""
        before, method = self._drawn_by_base(entry.rounds, entry.seed), entry.method
        start = time.process_time()
        found, pairs = judged(self._panel, before.asked, before.pictures, entry.rounds.min_gap)
        trained(
            self._network, adapter, _lessons(pairs, method), method.settings(entry.seed),
            entry.rounds.steps, cache=ReferenceCache(tolerance=1e-3),
        )
        seconds = time.process_time() - start
        return [statistics.mean(found)], seconds + before.cpu_seconds

    def _drawn_by_base(self, rounds: RoundSettings, seed: int) -> _Drawn:
        key = seed, rounds.rounds, rounds.prompts_per_round, rounds.images_per_prompt
        if key not in self._drawn:
            start = time.process_time()
            asked = [ask for each in rounds.asked(seed) for ask in each]
            pictures = answers(self._network, asked)
            self._drawn[key] = _Drawn(asked, pictures, time.process_time() - start)
        return self._drawn[key]

    def _compared(self, entry: Entry, adapter: Adapter) -> Row:
        """The LoRA against the base, row by row from the same prompt and seed."""
        key = entry.held_out, entry.seed
        if key not in self._held_out:
            self._held_out[key] = _HeldOut(self._network, self._taste, *key)
        held_out = self._held_out[key]
        found = judge(
            self._network, adapter, self._taste, held_out.prompts, held_out.seeds,
            held_out.before, held_out.before_error,
        )
        return {
            "reward": found.reward,
            "drift": found.drift,
            "scores": scores(self._taste, found.after),
            "base_scores": held_out.before_scores,
        }


def _lessons(pairs: Sequence[EncodedPair], method: Method) -> EncodedPairs:
    """What is learned of the same pairs: the preference, or the chosen pictures alone."""
    if method.learns_from == "pairs":
        return EncodedPairs(tuple(pairs))
    return EncodedPairs((), tuple(
        EncodedImage(pair.chosen, pair.conditioning, f"{pair.key} chosen", True, pair.prompt)
        for pair in pairs
    ))


def _name(entry: Entry, taste: Taste, base: str) -> str:
    """Digest of everything that decides the result."""
    content = [asdict(entry), asdict(entry.method.settings(entry.seed)), taste.name, base]
    return blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
