"""Writing rows of predictions as they come: CSV, JSON lines or parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

FORMATS = (".csv", ".jsonl", ".parquet")
_CHUNK = 1000


class RowWriter:
    """A file of rows, written in chunks, whose format its name tells; `-` writes JSON lines to standard output.

    What was written before an error is kept, and readable.

    Args:
        out: The file, replaced if it is there.

    Raises:
        ValueError: Its name tells no format, or it cannot be written to.
    """

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out).expanduser()
        self.format = ".jsonl" if str(out) == "-" else self.path.suffix
        if self.format not in FORMATS:
            raise ValueError(
                f"{out} has no format that can be written: name it .csv, .jsonl or .parquet, or - for JSON lines"
            )
        self.rows: list[dict[str, Any]] = []
        self._csv: Any = None
        self._parquet: Any = None
        self._file: IO[Any]
        if str(out) == "-":
            self._file = sys.stdout
            return
        try:
            binary = self.format == ".parquet"
            self._file = self.path.open("wb") if binary else self.path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise ValueError(f"{out} cannot be written to ({error.strerror}); choose another --out") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row; rows are written when a chunk is full."""
        self.rows.append(dict(row))
        if len(self.rows) >= (1 if self._file is sys.stdout else _CHUNK):
            self.flush()

    def flush(self) -> None:
        """Write what has been taken."""
        rows, self.rows = self.rows, []
        if not rows:
            return
        if self.format == ".jsonl":
            self._file.writelines(to_json(row) + "\n" for row in rows)
        elif self.format == ".csv":
            if self._csv is None:
                self._csv = csv.DictWriter(self._file, list(rows[0]), extrasaction="ignore")
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
        try:
            self.flush()
        finally:
            if self._parquet is not None:
                self._parquet.close()
            if self._file is not sys.stdout:
                self._file.close()

    def _write_parquet(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._parquet is None:
            table = pa.Table.from_pylist(rows)
            known = {
                "row": pa.int64(),
                "score": pa.float64(),
                "image_weight": pa.float64(),
                "text_weight": pa.float64(),
            }
            fields = []
            for field in table.schema:
                kind = known.get(field.name, pa.string() if pa.types.is_null(field.type) else field.type)
                fields.append(pa.field(field.name, kind))
            self._parquet = pq.ParquetWriter(self._file, pa.schema(fields))
        self._parquet.write_table(pa.Table.from_pylist(rows, schema=self._parquet.schema))


def to_json(row: Mapping[str, Any]) -> str:
    """One line of strict JSON: what JSON cannot say (NaN, dates, bytes) is null or text."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _cell(value: Any) -> Any:
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, (Mapping, list, tuple)) else value
