"""Classify a whole table, row by row, into another."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import tee
from pathlib import Path

from tqdm.auto import tqdm

from .classify import ImageTextClassifier, output_row
from .columns import find_columns
from .data import load_tables, pick_split, read_json_lines
from .rows import Columns
from .tables import RowWriter


def classify_table(
    data: str,
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
        data: Whatever `load_tables` takes by name; `-` for JSON lines from standard input.
        out: A .csv, .jsonl or .parquet file; `-` for JSON lines to standard output.
        model: A run's folder, a model's folder or a Hub id.
        split: Which split, if the data has several.
        image_column: The image column, if it cannot be told by its features and name.
        text_column: The text column, likewise.
        on_bad_row: As for calling an `ImageTextClassifier`.
        batch_size: Rows per forward pass.
        say: What to do with each line that tells how it goes.
        quiet: Show no progress bar.

    Returns:
        The number of rows by status.

    Raises:
        BadRow: At the first bad row, if asked to; what was classified before is kept.
        ValueError: The data, the model or the output is not usable, or there are no rows.
    """
    if "-" not in (data, out) and Path(out).exists() and Path(data).exists() and Path(out).samefile(data):
        raise ValueError(f"{out} is the data itself, which would be lost; choose another --out")
    table = read_json_lines(sys.stdin) if data == "-" else pick_split(load_tables(data, streaming=True), split)
    columns = Columns(image_column or "image", text_column or "text")
    if table.first is None or not {columns.image, columns.text} & set(table.first):  # a stream's row may lack a half
        columns = find_columns(table, image=image_column, text=text_column, need_label=False)
    say(f"columns: {columns}")
    classifier = ImageTextClassifier.from_pretrained(model)
    counts: Counter[str] = Counter()
    with RowWriter(out) as writer:
        kept, rows = tee(table.rows)  # the second reader is at most a batch ahead
        predictions = classifier.stream(
            rows, columns=columns, folder=table.folder, batch_size=batch_size, on_bad_row=on_bad_row
        )
        for prediction in tqdm(predictions, desc="classify", unit="row", disable=True if quiet or out == "-" else None):
            writer.write(output_row(next(kept), prediction))
            counts[prediction["status"]] += 1
    if not counts:
        raise ValueError(f"{table.name} is empty: there are no rows in it")
    statuses = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    say(f"{sum(counts.values())} rows: {statuses}; {out}")
    return dict(counts)
