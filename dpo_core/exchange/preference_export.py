"""Preference records become a dataset of Parquet files that hold the images themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..pairs.export_folder import EXPORT_HEADING, write_export
from ..pairs.problem import PairError, PairProblem
from ..pairs.record import PairSet
from .arrow import Arrow, load_arrow
from .dataset_card import CARD_NAME, dataset_card
from .preference_table import Column, Row, Table, tables_of

SHARD_BYTES = 500_000_000
"""Images a file holds before another is begun."""
ROW_GROUP_BYTES = 32_000_000
"""Images gathered in memory before they are written."""
ROW_GROUP_ROWS = 1000

FILE_SPLITS = {"train": "train", "val": "validation", None: "train"}
"""A record's split and the name datasets have for it."""


def export_preferences(records: PairSet, folder: str | Path) -> Path:
    """Write `data/train-00000-of-0000N.parquet`, likewise `validation`, and a dataset card.

    Ties lie among the pairs. Labelled images and ranked groups get folders and configurations of
    their own, `labelled` and `ranked`. PNG, JPEG and WebP files keep their bytes; others, and
    pictures in memory, become PNG. The folder appears whole or not at all; an earlier export in
    its place is replaced, but nothing else ever is. Not kept: `lineage`, since a dataset is a
    fixed collection.

    Returns the folder. Raises PairError without pyarrow, for no records, for every image that
    cannot be read, and for a folder that holds something else; OSError for no room or no
    permission.
    """
    arrow = load_arrow()
    tables = tables_of(records)
    if not tables:
        fix = "Rank or load some images first."
        raise PairError([PairProblem("There is nothing to export", "pairs", fix)], EXPORT_HEADING)
    title = Path(folder).name

    def write(part: Path) -> None:
        written = [(table, _write_table(arrow, table, part / table.name)) for table in tables]
        card = dataset_card(title, written)
        (part / CARD_NAME).write_text(card, encoding="utf-8", newline="\n")

    return write_export(folder, f"huggingface {records.digest}", write)


def _write_table(arrow: Arrow, table: Table, folder: Path) -> dict[str, int]:
    """Write all files of a table; returns the rows of each split."""
    folder.mkdir()
    schema = _schema(arrow, table.columns)
    shards: dict[str, _Shards] = {}
    problems: list[PairProblem] = []
    try:
        for line in table.lines():
            try:
                row = line.row()
            except PairError as error:
                problems += error.problems
                continue
            if problems:  # nothing of it will stay: only look for further problems
                continue
            split = FILE_SPLITS[line.split]
            if split not in shards:
                shards[split] = _Shards(arrow, folder, split, schema)
            shards[split].add(row, _image_bytes(row, table.columns))
        if problems:
            raise PairError(problems, EXPORT_HEADING)
        return {split: one.finish() for split, one in shards.items()}
    finally:
        for one in shards.values():
            one.abandon()


@dataclass
class _Shards:
    """The files of one split, filled one row group after another."""

    arrow: Arrow
    folder: Path
    split: str
    schema: Any
    rows: int = 0
    _files: list[Path] = field(default_factory=list)
    _writer: Any = None
    _in_file: int = 0
    _waiting: list[Row] = field(default_factory=list)
    _waiting_bytes: int = 0

    def add(self, row: Row, size: int) -> None:
        """`size`: bytes of the row's images."""
        if self._writer is not None and self._in_file + self._waiting_bytes + size > SHARD_BYTES:
            self.close()
        self._waiting.append(row)
        self._waiting_bytes += size
        self.rows += 1
        if self._waiting_bytes >= ROW_GROUP_BYTES or len(self._waiting) >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> int:
        """Write what waits and give the files their final names; returns the rows of all."""
        self.close()
        for i, path in enumerate(self._files):
            path.rename(self.folder / f"{self.split}-{i:05d}-of-{len(self._files):05d}.parquet")
        return self.rows

    def close(self) -> None:
        """Write what waits, and end the file."""
        self._flush()
        self.abandon()

    def abandon(self) -> None:
        """End the file without what waits."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        if self._writer is None:
            self._files.append(self.folder / f"{self.split}-{len(self._files):05d}.parquet")
            self._writer = self._open(self._files[-1])
            self._in_file = 0
        self._in_file += self._waiting_bytes
        self._waiting_bytes = 0
        columns = {name: [row[name] for row in rows] for name in self.schema.names}
        self._writer.write_table(self.arrow.core.table(columns, schema=self.schema))

    def _open(self, path: Path) -> Any:
        texts = [name for name in self.schema.names if self.schema.field(name).type == "string"]
        # Images are compressed already, and their extremes are of no use in the file's index.
        return self.arrow.parquet.ParquetWriter(
            path, self.schema, compression="none", use_dictionary=texts, write_statistics=False
        )


def _schema(arrow: Arrow, columns: tuple[Column, ...]) -> Any:
    types = {
        "string": arrow.core.string(),
        "float64": arrow.core.float64(),
        "int64": arrow.core.int64(),
        "bool": arrow.core.bool_(),
        "image": arrow.core.binary(),
    }
    return arrow.core.schema(
        (one.name, arrow.core.list_(types[one.type]) if one.is_list else types[one.type])
        for one in columns
    )


def _image_bytes(row: Row, columns: tuple[Column, ...]) -> int:
    size = 0
    for column in columns:
        if column.holds_images:
            images = row[column.name] if column.is_list else [row[column.name]]
            size += sum(map(len, images))
    return size
