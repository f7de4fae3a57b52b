"""Look through a table before any training or classifying: what is in it, what is wrong with it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.content import words_id
from ..data.image_source import BadImage, find_image
from ..data.labels import class_names, is_multi_label
from ..data.options import OptionNeeded, Reading
from ..data.read import Data, has_column, narrow, read_data
from ..data.rows import STATUSES, Columns, read_text
from ..data.splits import pick_split
from ..data.tables import Table
from ..data.writer import RowWriter
from ..runtime.console import Console
from ..runtime.files import user_path
from ..runtime.options import require_flags, sort_options
from ..runtime.outputs import beside
from .findings import ERRORS, WARNINGS, Checked, Finding, findings, in_order
from .scan import CountTokens, frame_of, label_code, scan, together

KEPT_BAD_ROWS = 1000
"""Bad rows of a split that stay in memory; a file takes all."""
_SAMPLE = 200
"""Images of a split that the quick part looks for."""


def check(
    data: Any,
    *,
    split: str | None = None,
    text_encoder: str | None = None,
    max_length: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """Read every row once, without a model, and say what is there and what is wrong.

    Args:
        data: Whatever `load_tables` takes.
        split: Check this one only; else all, and what they share.
        text_encoder: Count the texts in its tokens: a Hub id or a folder, as for training. Without
            it they are counted in words.
        max_length: With `text_encoder`: longest text in tokens, as for training.
        out: A .csv, .jsonl or .parquet file for the bad rows, all of them.
        quiet: Show no progress bar.
        **reading: Fields of `Reading`, such as `label_column`; data without labels can be checked for classifying.

    Returns:
        `columns`; `remarks`, lines that say how the data is read;
        `splits` and `all`, with the metrics of rows, images, texts and labels; `leakage`
        between splits; `contradictions`; `bad_rows`, the first thousand of each split with `split`,
        `row`, `status` and `reason`; `errors`, which would break training, evaluating or
        classifying, and `warnings`, both with `code`, `split`, `rows` and `message`, the most
        severe first; and `ok`, which is whether there is no error.

    Raises:
        ValueError: The data cannot be read at all, or a column is not there.
    """
    require_flags(overwrite=overwrite, quiet=quiet)
    remarks: list[str] = []
    read, remark = _read(data, sort_options(reading, Reading)[0], split, remarks)
    tables, columns = read.tables, read.columns
    training = "train" if "train" in tables or split is not None else next(iter(tables))
    if split is not None:
        tables = {split: read.table}
    if max_length is not None and text_encoder is None:
        raise ValueError(f"max_length is {max_length}, which goes with text_encoder: give both, or neither")
    count_tokens, limit = (None, None) if text_encoder is None else _tokenizer(text_encoder, max_length)
    vocabulary: dict[Any, int] = {}
    bad_rows: list[dict[str, Any]] = []
    parts: dict[str, pd.DataFrame] = {}
    console = Console(bars=not quiet)
    multi_label = columns.label is not None and is_multi_label(read.table, columns.label)
    with ExitStack() as stack:
        writer = None
        if out is not None:
            new = stack.enter_context(beside(_beside(out, data), replace=overwrite))
            writer = stack.enter_context(RowWriter(new, name=out))
        for name, table in tables.items():
            parts[name] = scan(
                table,
                columns,
                vocabulary,
                on_bad_row=_recorder(name, bad_rows, writer),
                multi_label=multi_label,
                count_tokens=count_tokens,
                progress=partial(console.progress, desc=f"check {name}", total=table.rows.size(), unit="row"),
            )
    absent = {name: _absent(table, columns) for name, table in tables.items()}
    names = list(vocabulary)
    judged_by = _training(tables, columns, training)
    checked = Checked(together(parts), names, columns, *judged_by, limit, absent, bad_rows)
    found = list(findings(checked))
    found += [Finding("no_label_column", None, 0, remark)] if remark else []
    broken = in_order(found, ERRORS)
    return {
        "ok": not broken,
        "data": str(data) if isinstance(data, (str, Path)) else type(data).__name__,
        "remarks": remarks,
        "columns": {"image": columns.image, "text": columns.text, "label": columns.label},
        "max_length": limit,
        "splits": {split: checked.metrics[split] for split in parts},
        "all": checked.metrics[None],
        "leakage": checked.leakage,
        "contradictions": checked.contradictions,
        "bad_rows": bad_rows,
        "bad_rows_file": None if out is None else str(out),
        "errors": broken,
        "warnings": in_order(found, WARNINGS),
    }


def quick_check(tables: Mapping[str, Table], columns: Columns) -> list[str]:
    """What can be told without opening an image: one line for each warning, the most severe first.

    Args:
        tables: By split, their rows to be asked for by number.
        columns: Which columns to read; a split that lacks one is left out.
    """
    vocabulary: dict[Any, int] = {}
    training = "train" if "train" in tables else next(iter(tables))
    multi_label = columns.label is not None and is_multi_label(tables[training], columns.label)
    whole = {name: table for name, table in tables.items() if len(table) and not _absent(table, columns, label=False)}
    if not whole:
        return []
    lines = [line for name, table in whole.items() for line in _lost_images(name, table, columns)]
    parts = {name: _quick_scan(table, columns, vocabulary, multi_label) for name, table in whole.items()}
    checked = Checked(together(parts), list(vocabulary), columns, *_training(whole, columns, training))
    return lines + [finding["message"] for finding in in_order(findings(checked), WARNINGS)]


def _read(data: Any, reading: Reading, split: str | None, remarks: list[str]) -> tuple[Data, str]:
    """The data, its columns those of the split that would be trained on, and why there is no label if so."""

    def pick(tables: Mapping[str, Table]) -> Table:
        return pick_split(tables, split or ("train" if "train" in tables else next(iter(tables))))

    data = list(data) if isinstance(data, Iterator) else data
    try:
        return read_data(data, reading, pick=pick, say=remarks.append), ""
    except OptionNeeded as error:
        if reading.label_column is not None:
            raise
        remarks.clear()
        read = read_data(data, reading, pick=pick, need_label=False, say=remarks.append)  # or another cannot be told
        return read, f"{error}; training needs labels, classifying does not"


def _training(tables: Mapping[str, Table], columns: Columns, training: str) -> tuple[str | None, list[str] | None]:
    """The split to train on, if it is there, and the classes that it declares, if it does."""
    if training not in tables:
        return None, None
    return training, class_names(tables[training], str(columns.label))


def _tokenizer(text_encoder: str, max_length: int | None) -> tuple[CountTokens, int]:
    from ..model.processor import beginning
    from ..model.tokenizer import length_to_read, load_tokenizer  # loads torch

    if max_length is not None and max_length < 3:
        raise ValueError(f"max_length is {max_length}; it must be at least 3: two special tokens and one of the text")
    inside = Path(text_encoder) / "model"  # of a run's folder
    tokenizer = load_tokenizer(inside if (inside / "config.json").is_file() else text_encoder)
    limit = length_to_read(max_length, tokenizer.model_max_length, text_encoder)
    return lambda text: len(tokenizer(beginning(text, tokenizer, limit), verbose=False)["input_ids"]), limit


def _beside(out: str | Path, data: Any) -> Path:
    """The file for the bad rows; a `ValueError` if it would become a part of the data."""
    path = user_path(out)
    if str(out) == "-":
        raise ValueError("--out is '-'; give a file: what is printed is the report")
    if isinstance(data, (str, Path)):
        source = user_path(data).resolve()
        if path.resolve() == source or source in path.resolve().parents:
            raise ValueError(f"{out} is the data itself, or would be read as a part of it; choose another --out")
    return path


def _absent(table: Table, columns: Columns, *, label: bool = True) -> list[str]:
    """Columns that a table lacks."""
    wanted = [columns.image, columns.text, columns.label if label else None]
    return [name for name in wanted if name is not None and not has_column(table, name)]


def _recorder(split: str, kept: list[dict[str, Any]], writer: RowWriter | None) -> Callable[[int, str, str], None]:
    """What takes the bad rows of a split: the first stay in memory, a file takes all."""
    most = len(kept) + KEPT_BAD_ROWS

    def record(row: int, status: str, reason: str) -> None:
        bad = {"split": split, "row": row, "status": status, "reason": reason}
        if len(kept) < most:
            kept.append(bad)
        if writer is not None:
            writer.write(bad)

    return record


def _quick_scan(table: Table, columns: Columns, vocabulary: dict[Any, int], multi_label: bool) -> pd.DataFrame:
    """What `scan` gives, of the texts and labels alone."""
    hashes, labels = array("Q"), array("i")
    feature = table.features.get(str(columns.label))
    for row in narrow(table, replace(columns, image=None)).rows:
        hashes.append(words_id(read_text(columns.text_of(row))[0]))
        labels.append(label_code(columns.label_of(row), feature, vocabulary, multi_label=multi_label))
    texts = np.asarray(hashes)
    codes = list(STATUSES)
    missing = (texts == 0) & (columns.text is not None)
    status = np.where(missing, codes.index("text_missing"), codes.index("ok")).astype("B")
    return frame_of(text=texts, label=np.asarray(labels), status=status)


def _lost_images(split: str, table: Table, columns: Columns) -> list[str]:
    """A line if images of a sample of the rows are not there."""
    count = min(_SAMPLE, len(table)) if columns.image is not None else 0
    lost: list[tuple[int, str]] = []
    for number in (round(i * (len(table) - 1) / max(1, count - 1)) for i in range(count)):
        try:
            image, name = find_image(columns.image_of(table.rows[number]), table.folder)
            if isinstance(image, Path) and not image.exists():
                lost.append((number, f"{name} does not exist"))
        except BadImage as error:
            lost.append((number, str(error)))
    if not lost:
        return []
    row, reason = lost[0]
    return [f"{split}: {len(lost)} of {count} images looked for are missing, row {row} first: {reason}"]
