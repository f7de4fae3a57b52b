"""Writing rows of predictions as they come: CSV, JSON lines or parquet."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..runtime.console import print_utf8
from ..runtime.files import user_path, writing_to
from .values import _cell, _valid, to_json

FORMATS = (".csv", ".jsonl", ".parquet")
_CHUNK = 1000
_CHUNK_TEXT = 1 << 24
"""Characters of text after which a chunk is full as well: a thousand rows of a megabyte each are too much to hold."""
_OF_NO_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)
"""What Arrow raises of values that are not of one type, or not of this one."""


class RowWriter:
    """A file of rows, written in chunks, whose format its name tells; `-` writes JSON lines to standard output.

    What was written before an error is kept, and readable.

    Args:
        out: The file, replaced if it is there.
        labels: Of the model, which settle the type of `scores` in parquet before a row has any.
        multi_label: Whether `label` is a list.
        columns: The columns of CSV and parquet and their parquet types, so that several files have the
            same; if not given, the first rows settle both.
        header: Whether CSV begins with the names of the columns.
        name: What to call the file in messages.

    Raises:
        ValueError: Its name tells no format, or it cannot be written to.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        labels: Sequence[str] = (),
        multi_label: bool = False,
        columns: Mapping[str, Any] | None = None,
        header: bool = True,
        name: str | Path | None = None,
    ) -> None:
        self.path = user_path(out)
        self.name, self.header = name or out, header
        self.format = ".jsonl" if str(out) == "-" else self.path.suffix
        if self.format not in FORMATS:
            raise ValueError(
                f"{self.name} has no format that can be written: name it .csv, .jsonl or .parquet, or - for JSON lines"
            )
        self.labels = [_valid(label) for label in labels]
        self.multi_label = multi_label
        self.columns = columns
        self.rows: list[dict[str, Any]] = []
        self._text = 0
        self._csv: Any = None
        self._parquet: Any = None
        self._file: IO[Any]
        self._stdout = str(out) == "-"
        if self._stdout:
            if sys.stdout is None:
                raise ValueError("- is standard output, which is closed; choose another --out")
            self._file = sys.stdout
            return
        with writing_to(self.name):
            text = self.format == ".csv"
            self._file = self.path.open("w", encoding="utf-8", newline="") if text else self.path.open("wb")

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row; rows are written when a chunk is full."""
        self.rows.append({_valid(name): _valid(value) for name, value in row.items()})
        self._text += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self.rows) >= (1 if self._stdout else _CHUNK) or self._text >= _CHUNK_TEXT:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken."""
        rows, self.rows, self._text = self.rows, [], 0
        if not rows:
            return
        with writing_to(self.name):
            self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.format == ".jsonl":
            lines = "".join(f"{to_json(row)}\n" for row in rows)
            if self._stdout:
                print_utf8(lines)
            else:
                self._file.write(lines.encode())
        elif self.format == ".csv":
            if self._csv is None:
                self._csv = csv.DictWriter(self._file, self.columns or _names(rows), extrasaction="ignore")
                if self.header:
                    self._csv.writeheader()
            self._csv.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        else:
            self._write_parquet(rows)
        self._file.flush()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing_to(self.name), contextlib.ExitStack() as closing:
            if not self._stdout:
                closing.callback(self._file.close)
            if self.format == ".parquet":
                closing.callback(self._close_parquet)
            self.flush()

    def _write_parquet(self, rows: list[dict[str, Any]]) -> None:
        """Unless they are given, the first rows settle the types."""
        if self._parquet is None:
            numbers = ("score", "image_contribution", "text_contribution")
            known = {"row": pa.int64()} | dict.fromkeys(numbers, pa.float64())
            by_label = pa.struct([(label, pa.float64()) for label in self.labels])
            if self.labels:
                known["scores"] = by_label
            known |= {"abstained": pa.bool_(), "label_set": pa.list_(pa.string())}
            if self.multi_label:
                known |= {"label": pa.list_(pa.string()), **dict.fromkeys(numbers[-2:], by_label)}
            kinds = types_of_rows(rows) if self.columns is None else self.columns
            schema = pa.schema({name: known.get(name, kind) for name, kind in kinds.items()})
            self._parquet = pq.ParquetWriter(self._file, schema, write_page_checksum=True)
        schema = self._parquet.schema
        columns = {field.name: self._column(field.name, rows, field.type) for field in schema}
        self._parquet.write_table(pa.table(columns, schema=schema))

    def _column(self, name: str, rows: list[dict[str, Any]], kind: Any) -> Any:
        """The values of a column, of type `kind`."""
        values = [row.get(name) for row in rows]
        try:
            return pa.array(values, kind if pa.types.is_nested(kind) else None).cast(kind)
        except _OF_NO_TYPE as error:
            if not pa.types.is_string(kind):
                raise ValueError(
                    f"{self.name}: {name!r} is {kind} in the rows before, and now something else; "
                    "choose --out with .jsonl or .csv"
                ) from error
        return pa.array([v if v is None or isinstance(v, str) else str(_cell(v)) for v in values], pa.string())

    def _close_parquet(self) -> None:
        if self._parquet is None:
            self._write_parquet([])  # no rows, but a file that can be read
        self._parquet.close()


def types_of_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """What the columns of a dataset are in parquet, those left out that hold bytes; of images their paths stay."""
    found = {}
    # of a type that `datasets` does not know, such as a map, the values are written as text
    known = {name: datasets.Value("string") if kind is None else kind for name, kind in features.items()}
    for field in datasets.Features(known).arrow_schema:
        kind = getattr(field.type, "storage_type", field.type)
        if pa.types.is_struct(kind) and {inner.name for inner in kind} == {"bytes", "path"}:
            kind = pa.string()
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            found[field.name] = pa.string() if pa.types.is_null(kind) else kind
    return found


def types_of_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns and types that suit all these rows, which are read once: text where they hold nothing, or several."""
    found: dict[str, Any] = {}
    wide: set[str] = set()
    rows = iter(rows)
    while chunk := [{_valid(name): _valid(value) for name, value in row.items()} for row in islice(rows, _CHUNK)]:
        for name in _names(chunk):
            values = [row.get(name) for row in chunk]
            try:
                kind = pa.array(values).type
            except _OF_NO_TYPE:
                kind = pa.string()
            if pa.types.is_integer(kind) and any(value is not None and abs(value) > 1 << 53 for value in values):
                wide.add(name)  # as a fraction it would be another number
            found[name] = _common(found.get(name, kind), kind)
    return {
        name: pa.string() if pa.types.is_null(kind) or (pa.types.is_floating(kind) and name in wide) else kind
        for name, kind in found.items()
    }


def _common(one: Any, other: Any) -> Any:
    """The type that suits values of both; text if none does."""
    try:
        both = pa.unify_schemas([pa.schema([("", one)]), pa.schema([("", other)])], promote_options="permissive")
    except _OF_NO_TYPE:
        return pa.string()
    return both.field(0).type


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the first rows, ordered as in the fullest: a row that could not be read has none of its own."""
    fullest = max(rows, key=lambda row: len(row), default={})
    return list(dict.fromkeys(chain(fullest, *rows)))
