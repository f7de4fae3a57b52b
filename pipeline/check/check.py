"""Look through a table before any training or classifying: what is in it, what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..data.columns import find_columns
from ..data.labels import as_list, is_list, is_multi_label
from ..data.rows import Columns, read_text
from ..data.splits import pick_split
from ..data.tables import Table, load_tables
from ..data.writer import RowWriter
from .findings import ERRORS, WARNINGS, Checked, Finding, errors, in_order, warnings
from .scan import CountTokens, Facts, joined, label_code, read_facts, text_hash
from .statistics import contradictions, figures, leakage

_SAMPLE = 200  # image paths that the quick part looks for


def check(
    data: Any,
    *,
    split: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    text_encoder: str | None = None,
    max_length: int = 128,
    out: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Read every row once, without a model, and say what is there and what is wrong.

    Args:
        data: Whatever `load_tables` takes.
        split: Check this one only; else all, and what they share.
        image_column: The image column, if it cannot be told by its features and name.
        text_column: The text column, likewise.
        label_column: The label column, likewise; data without one can be checked for classifying.
        text_encoder: Count the texts in its tokens: a Hub id or a folder, as for training. Without
            it they are counted in words.
        max_length: Longest text in tokens, as for training.
        out: A .csv, .jsonl or .parquet file for the bad rows, all of them.
        quiet: Show no progress bar.

    Returns:
        `columns`; `splits` and `all`, with the figures of rows, images, texts and labels; `leakage`
        between splits; `contradictions`; `bad_rows`, the first thousand of each split with `split`,
        `row`, `status` and `reason`; `errors`, which would break training, evaluating or
        classifying, and `warnings`, both with `code`, `split`, `rows` and `message`, the most
        severe first; and `ok`, which is whether there is no error.

    Raises:
        ValueError: The data cannot be read at all, or a column is not there.
    """
    tables, refusal = _tables(data)
    training = "train" if "train" in tables else next(iter(tables))
    if split is not None:
        tables = {split: pick_split(tables, split)}
    columns, remark = _columns(tables, training, image_column, text_column, label_column)
    count_tokens = None
    if text_encoder is not None:
        count_tokens, max_length = _tokenizer(text_encoder, max_length)
    vocabulary: dict[Any, int] = {}
    parts: dict[str, Facts] = {}
    multi_label = _has_lists(tables, training, columns)
    with ExitStack() as stack:
        writer = stack.enter_context(RowWriter(_beside(out, data))) if out is not None else None
        for name, table in tables.items():
            parts[name] = read_facts(
                table,
                columns,
                vocabulary,
                on_bad_row=_recorder(name, writer),
                multi_label=multi_label,
                count_tokens=count_tokens,
                progress=_progress(name, table, quiet),
            )
    names = list(vocabulary)
    limit = None if count_tokens is None else max_length
    judged = Checked(parts, names, columns, *_training(tables, columns, training), limit)
    unit = "words" if count_tokens is None else "tokens"
    notes = [Finding("no_label_column", None, 0, remark)] if remark else []
    broken = in_order([*([refusal] if refusal else []), *errors(judged)], ERRORS)
    return {
        "ok": not broken,
        "data": str(data) if isinstance(data, (str, Path)) else type(data).__name__,
        "columns": {"image": columns.image, "text": columns.text, "label": columns.label},
        "max_length": limit,
        "splits": {name: figures(facts, names, unit=unit, max_length=limit) for name, facts in parts.items()},
        "all": figures(joined(parts.values()), names, unit=unit, max_length=limit),
        "leakage": leakage(parts),
        "contradictions": contradictions(parts, names),
        "bad_rows": [
            {"split": name, "row": row, "status": status, "reason": reason}
            for name, facts in parts.items()
            for row, status, reason in facts.bad_rows
        ],
        "bad_rows_file": None if out is None else str(out),
        "errors": broken,
        "warnings": in_order([*warnings(judged), *notes], WARNINGS),
    }


def quick_check(tables: Mapping[str, Table], columns: Columns) -> list[str]:
    """What can be told without opening an image: one line for each finding, the most severe first.

    Args:
        tables: By split, their rows to be asked for by number.
        columns: Which columns to read; a split that lacks one is left out.
    """
    vocabulary: dict[Any, int] = {}
    parts: dict[str, Facts] = {}
    lines: list[str] = []
    training = "train" if "train" in tables else next(iter(tables))
    multi_label = _has_lists(tables, training, columns)
    for split, table in tables.items():
        if {columns.text, columns.image} <= set(table.rows.features) and len(table):
            parts[split] = _quick_facts(table, columns, vocabulary, multi_label)
            lines += _lost_images(split, table, str(columns.image))
    if parts:
        shown = {name: table for name, table in tables.items() if name in parts}
        judged = Checked(parts, list(vocabulary), columns, *_training(shown, columns, training))
        lines += [finding["message"] for finding in in_order(warnings(judged), WARNINGS)]
    return lines


def _tables(data: Any) -> tuple[dict[str, Table], Finding | None]:
    """The tables as training reads them, whole; else as classifying does, and why training cannot."""
    try:
        return load_tables(data), None
    except ValueError as error:
        if not isinstance(data, (str, Path)) or not Path(data).expanduser().exists():
            raise
        tables = load_tables(data, streaming=True)
        message = f"training cannot read this data: {error}; classifying can, but for the bad rows"
        return tables, Finding("unreadable_table", None, 0, message)


def _columns(
    tables: Mapping[str, Table], training: str, image: str | None, text: str | None, label: str | None
) -> tuple[Columns, str]:
    """The columns, of the split that would be trained on if it is there, and why there is no label if so."""
    table = tables.get(training, next(iter(tables.values())))
    try:
        return find_columns(table, image=image, text=text, label=label), ""
    except ValueError as error:
        if label is not None:
            raise
        columns = find_columns(table, image=image, text=text, need_label=False)  # or one of these cannot be told
        return columns, f"{error}; training needs labels, classifying does not"


def _training(tables: Mapping[str, Table], columns: Columns, training: str) -> tuple[str | None, list[str] | None]:
    """The split to train on, if it is there, and the classes that it declares, if it does."""
    if training not in tables:
        return None, None
    feature = (getattr(tables[training].rows, "features", None) or {}).get(columns.label)
    feature = getattr(feature, "feature", feature)  # of a list of classes
    return training, list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _has_lists(tables: Mapping[str, Table], training: str, columns: Columns) -> bool:
    """Whether labels are lists, told by the split that would be trained on if it is there."""
    table = tables.get(training, next(iter(tables.values())))
    features = getattr(table.rows, "features", None)
    if columns.label is None or columns.label not in (features if features is not None else table.first or ()):
        return False
    if features is None or not hasattr(table.rows, "__getitem__"):  # read once, line by line
        first = (table.first or {}).get(columns.label)
        return as_list(first) is not None or (features is not None and is_list(features[columns.label]))
    return is_multi_label(table, columns.label)


def _tokenizer(text_encoder: str, max_length: int) -> tuple[CountTokens, int]:
    from ..model.tokenizer import load_tokenizer  # loads torch

    if max_length < 3:
        raise ValueError(f"max_length is {max_length}; it must be at least 3: two special tokens and one of the text")
    inside = Path(text_encoder) / "model"  # of a run's folder
    tokenizer = load_tokenizer(inside if (inside / "config.json").is_file() else text_encoder)
    return lambda text: len(tokenizer(text, verbose=False)["input_ids"]), min(max_length, tokenizer.model_max_length)


def _beside(out: str | Path, data: Any) -> Path:
    """The file for the bad rows, where it does not become a part of the data.

    Raises:
        ValueError: It would.
    """
    path = Path(out).expanduser()
    if str(out) == "-":
        raise ValueError("--out is '-'; give a file: what is printed is the report")
    if isinstance(data, (str, Path)):
        source = Path(data).expanduser().resolve()
        if path.resolve() == source or source in path.resolve().parents:
            raise ValueError(f"{out} is the data itself, or would be read as a part of it; choose another --out")
    return path


def _recorder(split: str, writer: RowWriter | None) -> Callable[[int, str, str], None]:
    def record(row: int, status: str, reason: str) -> None:
        if writer is not None:
            writer.write({"split": split, "row": row, "status": status, "reason": reason})

    return record


def _progress(split: str, table: Table, quiet: bool) -> Callable[[Iterable[Any]], Iterable[Any]]:
    total = len(table.rows) if hasattr(table.rows, "__len__") else None

    def progress(rows: Iterable[Any]) -> Iterable[Any]:
        bar: Iterable[Any] = tqdm(
            rows, desc=f"check {split}", total=total, unit="row", disable=True if quiet else None, leave=False
        )
        return bar

    return progress


def _quick_facts(table: Table, columns: Columns, vocabulary: dict[Any, int], multi_label: bool) -> Facts:
    hashes = np.fromiter((text_hash(read_text(text)[0]) for text in table.rows[columns.text]), dtype=np.uint64)
    feature = table.rows.features.get(columns.label)
    values = table.rows[columns.label] if feature is not None else [None] * len(hashes)
    missing = int((hashes == 0).sum())
    return Facts(
        images=np.zeros_like(hashes),
        texts=hashes,
        sizes=np.zeros((len(hashes), 2), dtype=np.uint64),
        lengths=np.zeros_like(hashes),
        labels=np.array([label_code(value, feature, vocabulary, multi_label=multi_label) for value in values]),
        statuses={"text_missing": missing} if missing else {},
    )


def _lost_images(split: str, table: Table, column: str) -> list[str]:
    """A line if image paths of a sample of the rows lead nowhere."""
    count = min(_SAMPLE, len(table))
    sample = [round(i * (len(table) - 1) / max(1, count - 1)) for i in range(count)]
    lost: list[tuple[int, str]] = []
    for number, row in zip(sample, table.rows.select(sample).select_columns([column]), strict=True):
        image = row[column]
        if isinstance(image, dict):
            image = image.get("path") if image.get("bytes") is None else image["bytes"]
        if not image:
            lost.append((number, "there is none"))
        elif isinstance(image, str) and "://" in image:
            lost.append((number, f"{image} is a URL, which is not followed"))
        elif isinstance(image, str) and not ((table.folder or Path()) / image).exists():
            lost.append((number, f"{(table.folder or Path()) / image} does not exist"))
    if not lost:
        return []
    row, reason = lost[0]
    return [f"{split}: {len(lost)} of {count} images looked for are missing, row {row} first: {reason}"]
