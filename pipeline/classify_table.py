"""Classify a whole table, row by row, into another."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .classify import ImageTextClassifier, pair_columns
from .columns import find_columns
from .data import Table, load_tables, pick_split, read_json_lines
from .rows import STATUSES, BadRow, Columns
from .tables import RowWriter


def classify_table(
    data: Any,
    out: str,
    *,
    model: str | Path,
    split: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    on_bad_row: str = "mask",
    batch_size: int = 32,
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> dict[str, int]:
    """Classify rows as they are read and write them as they are classified, in order; no table is held.

    Args:
        data: Whatever `load_tables` takes, such as a file or a streaming dataset; `-` for JSON
            lines from standard input.
        out: A .csv, .jsonl or .parquet file; `-` for JSON lines to standard output.
        model: A run's folder, a model's folder or a Hub id.
        split: Which split, if the data has several.
        image_column: The image column, if it cannot be told by its features and name. If only one
            of the two columns is named, and the other cannot be told, there is none.
        text_column: The text column, likewise.
        on_bad_row: As for calling an `ImageTextClassifier`.
        batch_size: Rows per forward pass.
        say: What to do with each line that tells how it goes.
        quiet: Show no progress bar.

    Returns:
        The number of rows by status, `ok` first, the most severe last.

    Raises:
        BadRow: At the first bad row, if asked to; what was classified before is kept.
        ValueError: The data, the model or the output is not usable, or there are no rows.
    """
    named = isinstance(data, (str, Path))
    data_is_stream = named and data == "-"
    if named and "-" not in (data, out) and Path(out).exists() and Path(data).exists() and Path(out).samefile(data):
        raise ValueError(f"{out} is the data itself, which would be lost; choose another --out")
    if data_is_stream:  # bytes: a line that is no text is a bad row as well
        table = read_json_lines(getattr(sys.stdin, "buffer", sys.stdin))
        columns = _stream_columns(table, image_column, text_column)
    else:
        table = pick_split(load_tables(data, streaming=True), split)
        columns = _table_columns(table, image_column, text_column)
    absent = [] if data_is_stream else [name for name in (columns.image, columns.text) if name not in _names(table)]
    say(f"columns: {columns}{''.join(f'; there is no column {name!r}' for name in absent)}")
    classifier = ImageTextClassifier.from_pretrained(model)
    counts: Counter[str] = Counter()
    table = replace(table, rows=_readable(table))
    multi_label = classifier.model.config.multi_label
    with RowWriter(out, labels=classifier.labels, multi_label=multi_label) as writer:
        rows = classifier.table_stream(table, columns, batch_size=batch_size, on_bad_row=on_bad_row)
        try:
            for row in tqdm(rows, desc="classify", unit="row", disable=True if quiet or out == "-" else None):
                writer.write(row)
                counts[row["status"]] += 1
        except BadRow as error:
            raise BadRow(f"{table.name}, {error}; the {sum(counts.values())} rows before it are in {out}") from error
    if not counts:
        raise ValueError(f"{table.name} is empty: there are no rows in it")
    by_status = {status: counts[status] for status in reversed(STATUSES) if counts[status] or status == "ok"}
    shown = ", ".join(f"{count} {status}" for status, count in by_status.items())
    say(f"{sum(counts.values())} rows: {shown}; {out}")
    return by_status


def _table_columns(table: Table, image: str | None, text: str | None) -> Columns:
    """The columns of a table, every row of which has the same."""
    try:
        return find_columns(table, image=image, text=text, need_label=False)
    except ValueError as error:
        if image is None and text is None:
            raise ValueError(f"{error}, or name the other column alone if there is none") from error
        if (image is None or text is None) and {image, text} & _names(table):
            return Columns(image or "image", text or "text")
        raise


def _stream_columns(table: Table, image: str | None, text: str | None) -> Columns:
    """The columns of a stream, told by its first row that can be read; that row may lack a half, or be none."""
    given = dict.fromkeys([name for name in (image, text) if name is not None], "")
    if (image is not None and text is not None) or not table.first:
        return Columns(image or "image", text or "text")
    if given:
        try:
            table = replace(table, first={**given, **table.first})
            return find_columns(table, image=image, text=text, need_label=False)
        except ValueError:
            return Columns(image or "image", text or "text")
    return pair_columns(table)


def _names(table: Table) -> set[str]:
    return set(getattr(table.rows, "features", None) or table.first or ())


def _readable(table: Table) -> Iterator[Any]:
    """The table's rows; an error in reading them names the table and how far it was read."""
    number = 0
    try:
        for row in table.rows:
            yield row
            number += 1
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except Exception as error:  # of a damaged file in its middle, of the network
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{table.name} cannot be read past its first {number} rows: {first}") from error
