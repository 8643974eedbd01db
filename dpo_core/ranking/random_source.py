"""Random numbers that Python and JavaScript draw alike: the generator mulberry32.

One 32-bit state; the generator of Tommy Ettinger (2017), as a pure function.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_INCREMENT = 0x6D2B79F5


def draw(state: int) -> tuple[int, int]:
    """A number in 0..2^32 - 1 and the next state, both unsigned 32-bit integers."""
    state = (state + _INCREMENT) & _MASK
    mixed = ((state ^ state >> 15) * (state | 1)) & _MASK
    mixed ^= (mixed + (mixed ^ mixed >> 7) * (mixed | 61)) & _MASK
    return mixed ^ mixed >> 14, state


def shuffled(n: int, state: int) -> tuple[list[int], int]:
    """0..n-1 in random order (Fisher and Yates, from the end), and the next state."""
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        number, state = draw(state)
        j = number % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order, state
