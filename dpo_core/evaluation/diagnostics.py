"""What curves mean: warnings while training runs, and a verdict when it has ended.

The ranges are for preference training of a LoRA against a fixed reference, on pairs. Where chosen
and rejected come from the model itself as it learns, both rewards may rise; see ``online``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from ..pairs.record import counted

DECAY = 0.95
SETTLED = 25
"""Steps that a smoothed number needs, and that a sign has to last."""
LN_2 = math.log(2)
INVISIBLE = 0.01
"""Relative change of predictions below which a LoRA can hardly be seen; 2 % can."""


@dataclass(frozen=True)
class Finding:
    """Something a person should know.

    Attributes:
        name: of the rule; each speaks once in a run.
        text: what was seen, what it means, what to do.
        step: when.
        serious: True if going on may do harm.
    """

    name: str
    text: str
    step: int
    serious: bool = False


class Watch:
    """Reads the metrics of a run, step by step.

    Args:
        supervised: whether ordinary training on the chosen images is mixed in.
        online: whether pairs are made by the model in training.
    """

    def __init__(self, supervised: bool = False, online: bool = False) -> None:
        self._supervised, self._online = supervised, online
        self._smooth: dict[str, _Smoothed] = {}
        self._lasting: dict[str, int] = {}
        self._norms: deque[float] = deque(maxlen=100)
        self._found: dict[str, Finding] = {}
        self._validated: list[Mapping[str, float]] = []
        self._steps = self._skipped = 0

    @property
    def findings(self) -> list[Finding]:
        """All so far, in the order they came."""
        return list(self._found.values())

    def take(self, row: Mapping[str, float]) -> list[Finding]:
        """Reads one step's metrics, ``step`` among them; what is new in them."""
        if "dpo/val_accuracy" in row:
            self._validated.append(row)
        if row["step"] < 1:
            return []
        if "loss/dpo" not in row or "grad_norm" not in row:
            self._skipped += 1
            return []
        self._steps += 1
        for name, value in row.items():
            self._smooth.setdefault(name, _Smoothed()).take(value)
        new = []
        for name, rule in _RULES.items():
            text = None if name in self._found else rule(self, row)
            if text is not None:
                finding = Finding(name, text, int(row["step"]), name in _SERIOUS)
                self._found[name] = finding
                new.append(finding)
        self._norms.append(row["grad_norm"])
        return new

    def verdict(self) -> list[str]:
        """What the whole run says, line by line; the first is the summary."""
        if self._steps == 0:
            return ["Nothing was trained."]
        lines = [finding.text for finding in self.findings]
        if (text := self._invisible()) is not None:
            lines.append(text)
        if self._skipped:
            skipped = counted(self._skipped, "step")
            lines.append(f"{skipped} had no finite result and changed nothing.")
        lines += self._of_validation()
        summary = "Worth a look:" if lines else "Healthy: no sign of trouble in the curves."
        if any(finding.serious for finding in self.findings):
            summary = "Take care:"
        return [summary, *lines, *self._where()]

    def smooth(self, name: str) -> float:
        """The running mean of a metric; NaN before its first value."""
        return self._smooth[name].mean if name in self._smooth else math.nan

    def first(self, name: str) -> float:
        """Mean of a metric's first steps; NaN before there are any."""
        return self._smooth[name].start if name in self._smooth else math.nan

    def lasts(self, name: str, holds: bool, steps: int = SETTLED) -> bool:
        """Whether something holds, and has for so many steps."""
        self._lasting[name] = self._lasting.get(name, 0) + 1 if holds else 0
        return self._lasting[name] >= steps

    def _chosen_worse(self, row: Mapping[str, float]) -> str | None:
        rho = row.get("rho", math.nan)
        if not rho > 1.02:
            return None
        return (
            f"The model gets worse at the pictures you prefer: their error is {rho - 1:.0%} above "
            "the base model's. Often the learning rate is too high, or beta too low; a safeguard "
            "of 0.5 or a supervised mix helps."
        )

    def _chosen_spoiled(self, row: Mapping[str, float]) -> str | None:
        rho = row.get("rho", math.nan)
        if not rho > 1.10:
            return None
        return (
            f"The pictures you prefer are being unlearned: their error is {rho - 1:.0%} above the "
            "base model's. Stop, and train again with a lower learning rate or the conservative "
            "preset; an earlier checkpoint is better than this."
        )

    def _hacking(self, row: Mapping[str, float]) -> str | None:
        accuracy, reward = self.smooth("dpo/accuracy"), self.smooth("dpo/chosen_reward")
        if self._online or not self.lasts("hacking", accuracy > 0.95 and reward < 0):
            return None
        return (
            "It tells your choices apart by making both pictures worse, the rejected one more: "
            "accuracy is high while the chosen reward is below zero. Connect an Objective with a "
            "safeguard of 0.5, or raise beta."
        )

    def _stuck(self, row: Mapping[str, float]) -> str | None:
        accuracy = self.smooth("dpo/accuracy")
        if not self.lasts("stuck", 0.45 <= accuracy <= 0.55, 100):
            return None
        return (
            "Accuracy stays at one half: nothing is learned from these pairs yet. Look whether "
            "chosen and rejected really differ in what you mean; else raise the learning rate."
        )

    def _swapped(self, row: Mapping[str, float]) -> str | None:
        accuracy = self.smooth("dpo/accuracy")
        if not self.lasts("swapped", accuracy < 0.45, 2 * SETTLED):
            return None
        return (
            "Accuracy stays below one half: the model learns the opposite of your choices. Are "
            "chosen and rejected swapped in some of the pairs?"
        )

    def _too_easy(self, row: Mapping[str, float]) -> str | None:
        # The first step has no margin yet: it counts one half.
        early = SETTLED // 2 <= row["step"] <= SETTLED
        if not (early and self.smooth("dpo/accuracy") > 0.95):
            return None
        return (
            "The pairs are told apart almost at once. They may be too easy: pictures of two kinds "
            "rather than two tries at one. Pairs that are close teach taste."
        )

    def _masked(self, row: Mapping[str, float]) -> str | None:
        raw, total = self.smooth("dpo/raw_loss"), self.smooth("loss/dpo")
        rising = raw > 1.2 * max(LN_2, self.first("dpo/raw_loss"))
        stable = total <= 1.05 * self.first("loss/dpo")
        if not (self._supervised and self.lasts("masked", rising and stable)):
            return None
        return (
            "The preference loss rises while the total looks calm: the supervised mix hides it. "
            "Lower the supervised mix, or the learning rate."
        )

    def _exploding(self, row: Mapping[str, float]) -> str | None:
        if len(self._norms) < SETTLED:
            return None
        usual = median(self._norms)
        if not self.lasts("exploding", row["grad_norm"] > 10 * usual, 3):
            return None
        return (
            f"Gradients are ten times as long as usual ({row['grad_norm']:.2g} instead of "
            f"{usual:.2g}). If the loss jumps as well, lower the learning rate."
        )

    def _invisible(self) -> str | None:
        accuracy = self.smooth("dpo/accuracy")
        change = math.sqrt(max(0.0, self.smooth("prediction_change")))
        if not (accuracy > 0.8 and change < INVISIBLE and self._steps >= SETTLED):
            return None
        return (
            f"It has learned your choices but moves predictions by only {change:.2%}: you will "
            "hardly see it. Train longer, raise the learning rate, or lower beta."
        )

    def _of_validation(self) -> list[str]:
        if not self._validated:
            return []
        last = self._validated[-1]
        best = max(self._validated, key=lambda row: row["dpo/val_accuracy"])
        lines = []
        if best["dpo/val_accuracy"] - last["dpo/val_accuracy"] >= 0.1:
            lines.append(
                f"Validation was best at step {best['step']:g} ({best['dpo/val_accuracy']:.0%}) "
                f"and fell to {last['dpo/val_accuracy']:.0%}: it learns these pairs by heart. "
                "Switch save_best on, or train fewer steps."
            )
        low, high = last["dpo/val_accuracy_low"], last["dpo/val_accuracy_high"]
        if last["step"] > 0 and low <= 0.5 <= high:
            lines.append(
                f"Validation cannot tell yet whether it learns your taste: "
                f"{last['dpo/val_accuracy']:.0%} may be chance ({low:.0%} to {high:.0%})."
            )
        if (rho := last.get("val/rho", math.nan)) > 1.02:
            lines.append(f"On held-out pairs the chosen pictures' error rose by {rho - 1:.0%}.")
        return lines

    def _where(self) -> list[str]:
        """Where along the noise levels the difference was learned."""
        last = self._validated[-1] if self._validated else {}
        margins = [last.get(f"dpo/val_margin_q{i}", math.nan) for i in range(1, 5)]
        total = sum(abs(margin) for margin in margins)
        if not total > 0:
            return []
        shares = ", ".join(f"{margin / total:.0%}" for margin in margins)
        return [f"Margin by noise, from composition to detail: {shares}."]


_RULES: dict[str, Callable[[Watch, Mapping[str, float]], str | None]] = {
    "chosen spoiled": Watch._chosen_spoiled,
    "chosen worse": Watch._chosen_worse,
    "hacking": Watch._hacking,
    "stuck": Watch._stuck,
    "swapped": Watch._swapped,
    "too easy": Watch._too_easy,
    "masked": Watch._masked,
    "exploding": Watch._exploding,
}
_SERIOUS = ("chosen spoiled", "hacking", "swapped")


def watched(
    rows: Iterable[Mapping[str, float]], supervised: bool = False, online: bool = False
) -> Watch:
    """A watch that has read a history; arguments as of :class:`Watch`."""
    watch = Watch(supervised, online)
    for row in rows:
        watch.take(row)
    return watch


class _Smoothed:
    """A running mean without the bias towards its first value, and the mean of the first steps."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._first: list[float] = []

    def take(self, value: float) -> None:
        if not math.isfinite(value):
            return
        self._sum = DECAY * self._sum + (1 - DECAY) * value
        self._weight = DECAY * self._weight + (1 - DECAY)
        if len(self._first) < SETTLED:
            self._first.append(value)

    @property
    def mean(self) -> float:
        return self._sum / self._weight if self._weight else math.nan

    @property
    def start(self) -> float:
        return sum(self._first) / len(self._first) if self._first else math.nan
