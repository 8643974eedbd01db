"""How much memory a computation holds at once, as the allocator sees it."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(compute: Callable[[], object]) -> int:
    """Most bytes on the CPU that ``compute`` holds at once, above what is there before.

    Counted where memory is taken and given back, so nothing is missed: neither what lies inside
    of kernels, nor inside of tensors that wrap others.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        compute()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in run.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        live += size
        peak = max(peak, live)
    return peak
