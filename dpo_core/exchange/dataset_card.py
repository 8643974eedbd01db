"""The card of an exported dataset: what its files hold, for people and for `load_dataset`."""

from __future__ import annotations

from collections.abc import Sequence

from .preference_table import Column, Table

CARD_NAME = "README.md"

_ABOUT = {
    "data": """\
One row for each pair of images under one prompt, in the columns of Pick-a-Pic.

| column | |
|---|---|
| `prompt`, `caption` | the prompt, twice: readers differ in what they call it |
| `jpg_0`, `jpg_1` | the files of the preferred and of the other image |
| `label_0`, `label_1` | 1 and 0; 0.5 and 0.5 is a tie. A reader that does not know of ties \
has to leave those rows out |
| `has_label` | always true |
| `is_tie` | the two were called equal |
| `chosen_probability` | how likely a person prefers `jpg_0`: 1 where it was simply picked |
| `rating_gap` | by how much it was rated better, in log odds; may be empty |""",
    "labelled": """\
One row for each image that was liked or disliked on its own: `prompt`, the file in `image`, and
`label`, true for liked.""",
    "ranked": """\
One row for each group of images that was put in order under one `prompt`: the files in `images`,
best first, and the `ratings` they got, in log odds. Equal ratings are a tie.""",
}
_OWN = """\
In all tables, `group` names what a split must not tear apart, `split` is empty where the source
made none, `source` says where the row came from, and `position` is its place among all rows."""
_IMAGES = """\
Images are the files as they were made, with whatever their metadata holds: often the prompt and
the whole workflow. Look at that, and at the `source` column, before you publish the dataset, and
add the licence under which you do: none is claimed here."""


def dataset_card(title: str, tables: Sequence[tuple[Table, dict[str, int]]]) -> str:
    """The text of the card; the rows of each split by table."""
    lines = ["---", "configs:"]
    for table, splits in tables:
        lines += [f"- config_name: {_configuration(table)}"]
        if table is tables[0][0]:
            lines.append("  default: true")
        lines.append("  data_files:")
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {table.name}/{split}-*.parquet"]
    lines.append("dataset_info:")
    for table, _ in tables:
        lines += [f"- config_name: {_configuration(table)}", "  features:"]
        lines += [line for column in table.columns for line in _feature(column)]
    lines += ["---", "", f"# {_plain(title)}", "", "Preferences between images.", ""]
    for table, splits in tables:
        rows = ", ".join(f"{rows} in {split}" for split, rows in splits.items())
        lines += [f"## {table.name}", "", f"Rows: {rows}.", "", _ABOUT[table.name], ""]
    lines += [_OWN, "", "## Reading it", "", *_reading(tables[0][0]), "", _IMAGES, ""]
    return "\n".join(lines)


def _configuration(table: Table) -> str:
    return "default" if table.name == "data" else table.name


def _feature(column: Column) -> list[str]:
    kind = f"list: {column.type}" if column.is_list else f"dtype: {column.type}"
    return [f"  - name: {column.name}", f"    {kind}"]


def _reading(first: Table) -> list[str]:
    lines = [
        "`datasets.load_dataset(folder)` shows images",
        f"(`load_dataset(f\"{{folder}}/{first.name}\")` the bytes of their files, as scripts for",
        "Pick-a-Pic expect them).",
    ]
    return lines


def _plain(title: str) -> str:
    """A folder's name that means nothing to Markdown or HTML."""
    return "".join(c if c.isalnum() or c in " .-_" else " " for c in title).strip() or "Preferences"
