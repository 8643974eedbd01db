"""The command lines of demo, laboratory and contest."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ..evaluation.interval import Share
from .contest import ARMS, entries, run_contest
from .contest_table import contest_table
from .demo import DemoSettings, run_demo
from .laboratory import run_laboratory, table_of, trials
from .methods import METHODS
from .network import load_base
from .online import RoundSettings
from .pick.command import add_pick_arguments, run_pick
from .taste import DEFAULT_TASTE, TASTES, taste


def add_arguments(commands: Any) -> None:
    """Adds ``demo``, ``laboratory`` and ``online`` to the subcommands."""
    parser = commands.add_parser(
        "demo", help="train a LoRA on a taste and compare", description=_TASTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = DemoSettings()
    parser.add_argument("--taste", help=f"default: {DEFAULT_TASTE}")
    parser.add_argument("--out", type=Path, default=Path("dpo_demo"), help="folder for the results")
    parser.add_argument("--pairs", type=int, help=f"pairs to learn from; default: {defaults.pairs}")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="training steps")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    add_pick_arguments(parser)
    parser.set_defaults(run=_demo)
    laboratory = commands.add_parser(
        "laboratory", help="judge methods side by side", description=_METHODS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    laboratory.add_argument("--taste", default=DEFAULT_TASTE)
    laboratory.add_argument("--out", type=Path, default=Path("dpo_laboratory"))
    laboratory.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    laboratory.add_argument("--pairs", nargs="+", type=int, default=[16, 64])
    laboratory.add_argument("--flipped", nargs="+", type=float, default=[0.0, 0.1, 0.2])
    laboratory.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    laboratory.add_argument("--steps", type=int, default=40)
    laboratory.add_argument("--judged", type=int, default=24)
    laboratory.add_argument(
        "--learning-rates", nargs="+", type=float, default=[0.0], metavar="RATE",
        help="tried one after the other; default: each method's own",
    )
    laboratory.set_defaults(run=_laboratory)
    _add_contest_arguments(commands)


def _add_contest_arguments(commands: Any) -> None:
    online, size = commands.add_parser(
        "online", help="compare online, offline and supervised training", description=_ARMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ), RoundSettings()
    online.add_argument("--taste", default=DEFAULT_TASTE, help="the judge")
    online.add_argument("--out", type=Path, default=Path("dpo_online"))
    online.add_argument("--arms", nargs="+", default=list(ARMS)[:3], metavar="ARM")
    online.add_argument("--rounds", type=int, default=size.rounds)
    online.add_argument(
        "--prompts", nargs="+", type=int, default=[4, 16], metavar="COUNT",
        help="prompts of a round; several are tried one after the other",
    )
    online.add_argument(
        "--images", type=int, default=size.images_per_prompt, help="pictures of a prompt"
    )
    online.add_argument(
        "--steps", type=int, default=size.steps_per_round, help="training steps of a round"
    )
    online.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    online.add_argument("--judged", type=int, default=32, help="held-out pictures of each seed")
    online.add_argument(
        "--learning-rates", nargs="+", type=float, default=[0.0], metavar="RATE",
        help="tried one after the other; default: each arm's own",
    )
    online.set_defaults(run=_contest)


_TASTES = "Tastes:\n" + "\n".join(f"  {t.name:14} prefers {t.wish}" for t in TASTES.values())

_METHODS = "Methods:\n" + "\n".join(f"  {name}" for name in METHODS)

_ARMS = "Arms:\n" + "\n".join(f"  {name}" for name in ARMS)


def _demo(options: argparse.Namespace) -> None:
    if options.pick:
        run_pick(options)
        return
    liked = taste(DEFAULT_TASTE if options.taste is None else options.taste)
    pairs = DemoSettings.pairs if options.pairs is None else options.pairs
    numbers = {"pairs": pairs, "steps": options.steps}
    wrong = [name for name, number in numbers.items() if number < 1]
    if wrong:
        raise ValueError(f"--{' and --'.join(wrong)} must be 1 or more.")
    settings = DemoSettings(pairs=pairs, steps=options.steps, seed=options.seed)
    sys.stdout.write(f"Learning a taste that prefers {liked.wish}.\n")
    outcome = run_demo(liked, options.out, settings, _Bar())
    share = Share(**outcome.result["win_rate"])
    sys.stdout.write(
        f"\nWin rate against the base model: {share} of {share.trials} held-out pictures\n"
        f"Reward: {outcome.result['reward']:+.2f} standard deviations\n"
        f"Drift: {outcome.result['drift']:.2f} (the base model's own pictures: 1)\n\n"
        f"Pictures: {outcome.folder / 'before_and_after.png'}\n"
        f"Report:   {outcome.folder / 'report.html'}\n"
        f"LoRA:     {outcome.folder / 'lora.safetensors'}\n"
    )


def _laboratory(options: argparse.Namespace) -> None:
    wanted = trials(
        options.methods, options.pairs, options.flipped, options.seeds, options.steps,
        options.judged, options.learning_rates,
    )
    rows = run_laboratory(load_base(), taste(options.taste), wanted, options.out, _Bar())
    sys.stdout.write(f"\n{table_of(rows)}\nPlot: {options.out / 'plot.png'}\n")


def _contest(options: argparse.Namespace) -> None:
    sizes = [
        RoundSettings(options.rounds, prompts, options.images, options.steps)
        for prompts in options.prompts
    ]
    wanted = entries(
        options.arms, sizes, options.seeds, options.judged, options.learning_rates
    )
    rows = run_contest(load_base(), taste(options.taste), wanted, options.out, _Bar())
    sys.stdout.write(f"\n{contest_table(rows)}\nPlot: {options.out / 'plot.png'}\n")


class _Bar:
    """One line per stage: redrawn on a terminal, written once it is done elsewhere."""

    WIDTH = 32

    def __init__(self) -> None:
        self._stage, self._start = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage, self._start = stage, time.monotonic()
        live = sys.stdout.isatty()
        if not live and done < total:
            return
        filled = self.WIDTH * done // total
        bar = "#" * filled + "." * (self.WIDTH - filled)
        seconds = time.monotonic() - self._start
        line = f"{stage:17} [{bar}] {done}/{total}  {seconds:4.0f} s"
        sys.stdout.write(("\r" if live else "") + line + ("\n" if done >= total else ""))
        sys.stdout.flush()
