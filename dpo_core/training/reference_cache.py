"""Reference errors of a finite set of draws, each computed once.

The reference never changes in a run, and with ``NoiseSettings.cached_draws`` neither do the draws:
what it makes of them is kept, and both its passes are saved from the second look on. Exact, since
nothing is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from .batch import Batch

CHECKED_OF = 100
"""Of so many entries that come from a file one is computed again and compared."""


class ReferenceCache:
    """Mean squared errors by record and draw; fills as they are first asked for.

    Args:
        tolerance: how far, relatively, an entry may be from the same one computed again.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._errors: dict[str, Tensor] = {}
        self._unchecked: set[str] = set()
        self._from_file: set[str] = set()
        self._on_device: list[tuple[tuple[str, ...], Tensor]] = []
        self.discarded = False
        """True if what came from a file was found to be wrong, and dropped."""

    def __len__(self) -> int:
        return len(self._errors)

    def known(self, batch: Batch) -> Tensor | None:
        """The errors of all images, shape (G, B), CPU; None if the batch has to be computed."""
        names = batch.draw_keys
        if any(name in others for name in names for others, _ in self._on_device):
            self.settle()
        if any(name not in self._errors or name in self._unchecked for name in names):
            return None
        return torch.stack([self._errors[name] for name in names], 1)

    def learn(self, batch: Batch, errors: Tensor) -> None:
        """Keeps what was computed: ``errors`` of shape (G, B), on the device until they settle."""
        self._on_device.append((batch.draw_keys, errors.detach()))

    def settle(self) -> None:
        """Reads what was learned in one go. A step does so once the device has nothing to do."""
        learned, self._on_device = self._on_device, []
        if not learned:
            return
        values = torch.cat([errors.flatten() for _, errors in learned]).to("cpu", copy=True)
        parts = values.split([errors.numel() for _, errors in learned])
        for (names, errors), part in zip(learned, parts, strict=True):
            self._keep(names, part.reshape(errors.shape))

    def _keep(self, names: Sequence[str], errors: Tensor) -> None:
        # Copies: a view would keep all of them.
        rows = {name: row.clone() for name, row in zip(names, errors.unbind(1), strict=True)}
        if any(self._is_wrong(name, row) for name, row in rows.items()):
            for name in self._from_file:
                self._errors.pop(name, None)
            self._from_file.clear()
            self._unchecked.clear()
            self.discarded = True
        self._unchecked -= rows.keys()
        self._errors |= rows

    def state(self) -> dict[str, Tensor]:
        """Everything kept, by name."""
        return dict(self._errors)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`state` gave in another program; some of it is checked when used."""
        new = {name: errors for name, errors in state.items() if name not in self._errors}
        self._errors |= new
        self._from_file |= new.keys()
        self._unchecked |= {name for name in new if _number(name) % CHECKED_OF == 0}
        self._unchecked |= set(sorted(new, key=_number)[:1])

    def check(self, batch: Batch) -> None:
        """Has what is known of a batch computed again and compared."""
        self._unchecked |= self._from_file.intersection(batch.draw_keys)

    def _is_wrong(self, name: str, errors: Tensor) -> bool:
        if name not in self._unchecked:
            return False
        before = self._errors[name]
        return before.shape != errors.shape or not all(
            math.isclose(a, b, rel_tol=self._tolerance)
            for a, b in zip(before.tolist(), errors.tolist(), strict=True)
        )


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
