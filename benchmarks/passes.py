"""A training step beside the passes through the model that it cannot do without."""

from __future__ import annotations

from collections.abc import Callable

from .measure import in_turn, megabytes, peak_bytes
from .model import Opened, PlainModel, opened, pack, random_pairs
from .table import Table

KINDS = {"sd15": 24, "flux": 64}
"""Small models, and the height and width of the latents they are given."""
LIMIT = "passes of full_concurrent, plain autograd"


def tables(rounds: int = 10) -> list[Table]:
    columns = (
        "model", "mode", "step", "time over bare passes", "peak", "peak over an ordinary step's",
    )
    table = Table("passes", columns)
    for kind, size in KINDS.items():
        for checkpointing in (False, True):
            _measure(table, kind, size, checkpointing, rounds)
    return [table]


def _measure(table: Table, kind: str, size: int, checkpointing: bool, rounds: int) -> None:
    label = f"{kind}, checkpointed" if checkpointing else kind
    with opened(kind, checkpointing=checkpointing) as run:
        ordinary = run.ordinary(size)
        ordinary()  # AdamW makes its memory at its first step
        base = peak_bytes(ordinary)
        bare = _bare(run, size)
        steps = _steps(run, kind, size)
        if not checkpointing:
            bare |= {LIMIT: PlainModel(run).passes(run, 2, size)}
        times = in_turn(bare | steps, rounds)
        for name, step in steps.items():
            size_of = peak_bytes(step)
            table.add(
                label, name, f"{times[name]:.3f} s", times.ratio(name, f"passes of {name}"),
                megabytes(size_of), f"{size_of / base:.3f}",
            )
        if not checkpointing:
            for what, name in (("the step", "full_concurrent"),
                               ("its bare passes", "passes of full_concurrent")):
                table.note(
                    f"{label}: {what} of full_concurrent over the same passes by plain autograd "
                    f"on resident weights: {times.ratio(name, LIMIT)}."
                )


def _bare(run: Opened, size: int) -> dict[str, Callable[[], None]]:
    """One pair's passes, and nothing else, by the mode that does them."""
    one, two = run.forward(1, size), run.forward(2, size)
    learn_one, learn_two = run.both(1, size), run.both(2, size)

    def in_order(*passes: Callable[[], None]) -> Callable[[], None]:
        def all_of_them() -> None:
            for each in passes:
                each()

        return all_of_them

    return {
        "passes of sequential": in_order(one, one, one, learn_one, learn_one),
        "passes of policy_concurrent": in_order(one, one, learn_one, learn_one),
        "passes of full_concurrent": in_order(two, learn_two),
        "passes of full_concurrent, cached": learn_two,
    }


def _steps(run: Opened, kind: str, size: int) -> dict[str, Callable[[], object]]:
    pairs = random_pairs(kind, 2, size)
    noise = pack("dpo_core.training.noise").NoiseSettings(cached_draws=1)
    modes = ("sequential", "policy_concurrent", "full_concurrent")
    steps = {mode: run.step(pairs, execution_mode=mode) for mode in modes}
    # Once both pairs have been seen, which is before anything is counted, all is in the cache.
    cached = run.step(pairs, execution_mode="full_concurrent", noise=noise)
    return steps | {"full_concurrent, cached": cached}
