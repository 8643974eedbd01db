"""A comparison in words: before it is revealed only what to do, then the result."""

from __future__ import annotations

from ..pairs.record import counted
from .comparison import ComparisonState, progress
from .outcome import PERSON
from .tally import Tally, verdict

MAX_PROMPT_ROWS = 40
CAUTION = (
    "This is an exact sign test at 5 % on the couples that were not tied; looking again and again "
    "until it is clear makes it weaker, so decide beforehand how many couples to judge."
)
_SHOWN_CHARS = 90


def report(state: ComparisonState) -> str:
    """Several lines of text."""
    lines = [f"Session {state.session.name}: {progress(state)}."]
    if state.counting or (state.identical and not state.asked):
        lines += ["", *result_lines(state)]
    if state.hidden:
        more = " more" if state.counting else ""
        lines += [
            "",
            f"{counted(state.hidden, 'couple')}{more} judged and not revealed: press Reveal in the "
            "node to have them counted.",
        ]
    elif not state.counting and state.asked:
        lines += [
            "",
            "Choose the better one of each couple here in the node. Which picture is whose is told "
            "to nobody, the page included, until you press Reveal.",
        ]
    return "\n".join(lines)


def result_lines(state: ComparisonState) -> list[str]:
    """The verdict, the numbers behind it, who judged, and what each prompt says."""
    tally = state.tally(state.counting)
    lines = [verdict(tally, state.sides), numbers(state, tally)]
    if state.asked:
        lines.append(CAUTION)
    if tally.identical:
        lines.append(f"Of the ties {tally.identical} came out as the very same picture.")
    if state.judges:
        lines.append(f"Judged by: {judged_by(state)}.")
    if state.changed:
        lines.append(
            f"{counted(state.changed, 'choice')} made or changed after the reveal: not blind any "
            "more, and not counted."
        )
    lines += [f"{one.name}: drawn with {one.made_with}." for one in state.sides if one.made_with]
    a, b = state.sides
    rows = state.by_prompt(state.counting)
    if len(rows) > 1:
        lines += ["", f"By prompt ({b.name} - ties - {a.name}):"]
        lines += [_row(prompt, one) for prompt, one in list(rows.items())[:MAX_PROMPT_ROWS]]
        if len(rows) > MAX_PROMPT_ROWS:
            lines.append(f"  and {len(rows) - MAX_PROMPT_ROWS} more prompts")
    return lines


def numbers(state: ComparisonState, tally: Tally) -> str:
    """The share with its interval, and what it is made of."""
    share, (a, b) = tally.share, state.sides
    if share is None:
        return "No comparison counts yet."
    won = f"{b.name} preferred {counted(tally.b, 'time')}, {a.name} {counted(tally.a, 'time')}"
    ties = tally.ties + tally.identical
    tied, half = (f", {counted(ties, 'tie')}", " and a tie counting one half") if ties else ("", "")
    return f"{won}{tied}: {b.name} wins {share}, the 95 % interval in brackets{half}."


def judged_by(state: ComparisonState) -> str:
    """Who judged how many of what counts."""
    judges = sorted(state.judges.items(), key=lambda one: (one[0] != PERSON, -one[1], one[0]))
    return ", ".join(f"{'you' if name == PERSON else name} {count}" for name, count in judges)


def _row(prompt: str, tally: Tally) -> str:
    text = prompt or "(no prompt)"
    short = text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
    return f"  {tally.b} - {tally.ties + tally.identical} - {tally.a}  {short}"
