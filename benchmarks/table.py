"""Tables of results, and the page they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"


@dataclass
class Table:
    """Rows of text under a heading.

    Attributes:
        name: of its place in the page.
        columns: their headings.
        rows: one text for each column.
        notes: sentences below it.
    """

    name: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """Adds a row, and shows it at once."""
        row = [str(cell) for cell in cells]
        print(f"{self.name}: " + "  ".join(row), flush=True)
        self.rows.append(row)

    def note(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)
        self.notes.append(text)

    def __str__(self) -> str:
        lines = [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.rows)]
        return "\n".join(lines if self.rows else []) + "".join(f"\n\n{note}" for note in self.notes)


def write(table: Table, page: Path = PAGE) -> None:
    """Puts a table in its place in the page.

    Raises:
        ValueError: the page has no such place.
    """
    begin, end = f"<!-- begin {table.name} -->", f"<!-- end {table.name} -->"
    text = page.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{page.name} has no place for {table.name}: write {begin} and {end}.")
    before, rest = text.split(begin)
    page.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
