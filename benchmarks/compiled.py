"""What torch.compile makes of a model's blocks while they are trained: it is measured, not used."""

from __future__ import annotations

import time
from typing import Any

import torch

from .measure import in_turn
from .model import opened, pack, random_pairs
from .table import Table

KINDS = {"sd3": 16, "flux": 16}


def tables(rounds: int = 8) -> list[Table]:
    columns = ("model", "blocks", "first step", "step", "over eager")
    table = Table("compiled", columns)
    for kind, size in KINDS.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        try:
            _measure(table, kind, size, rounds)
        except RuntimeError as error:
            print(error)
            table.add(kind, "compiled", "fails", "", "")
    return [table]


def _measure(table: Table, kind: str, size: int, rounds: int) -> None:
    with opened(kind) as run:
        step = run.step(random_pairs(kind, 1, size), execution_mode="full_concurrent")
        blocks = pack("nodes.host.checkpointed_block").repeated_blocks(run.model.diffusion_model)
        eager = [block.forward for block in blocks]
        compiled = [torch.compile(forward, dynamic=False) for forward in eager]

        def with_blocks(forwards: list[Any]) -> None:
            for block, forward in zip(blocks, forwards, strict=True):
                block.forward = forward
            try:
                step()
            finally:
                for block in blocks:
                    del block.__dict__["forward"]

        first = {}
        for name, forwards in (("eager", eager), ("compiled", compiled)):
            began = time.perf_counter()
            with_blocks(forwards)
            first[name] = time.perf_counter() - began
        steps = {"eager": lambda: with_blocks(eager), "compiled": lambda: with_blocks(compiled)}
        times = in_turn(steps, rounds)
        for name in steps:
            table.add(
                kind, name, f"{first[name]:.1f} s", f"{times[name]:.3f} s",
                times.ratio(name, "eager"),
            )
    counters = torch._dynamo.utils.counters
    table.note(
        f"{kind}: {len(blocks)} blocks became {counters['stats']['unique_graphs']} compiled pieces."
    )
