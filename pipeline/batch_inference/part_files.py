"""Parts joined into one file."""

from __future__ import annotations

import csv
import io
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..data.csv_jsonl import long_cells
from ..runtime.files import to_disk


def join(parts: list[Path], file: Path) -> None:
    """Make one file of parts, in order, whole or not at all; no part is held in memory.

    Raises:
        ValueError: It cannot be written.
    """
    beside = file.with_name(f".{file.stem}.{uuid.uuid4().hex}{file.suffix}")
    try:
        (_join_parquet if file.suffix == ".parquet" else _join_text)(parts, beside)
        to_disk(beside)
        beside.replace(file)
    except OSError as error:
        raise ValueError(
            f"{file} cannot be written ({error.strerror or error}); its parts stay in {parts[0].parent}: make room, "
            "then go on with --resume"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _join_parquet(parts: list[Path], file: Path) -> None:
    with pq.ParquetWriter(file, pq.read_schema(parts[0]), write_page_checksum=True) as writer:
        for path in parts:
            for batch in pq.ParquetFile(path).iter_batches(1000):
                writer.write_batch(batch)


def _join_text(parts: list[Path], file: Path) -> None:
    with file.open("wb") as joined:
        for number, path in enumerate(parts):
            with path.open("rb") as lines:
                if number and file.suffix == ".csv":
                    lines.seek(_header_bytes(path))
                shutil.copyfileobj(lines, joined, 1 << 20)


def _header_bytes(path: Path) -> int:
    """How long the line of column names of a CSV file of ours is; there may be line breaks in them."""
    with path.open(newline="", encoding="utf-8") as lines, long_cells():
        names = next(csv.reader(lines))
    header = io.StringIO()
    csv.writer(header).writerow(names)
    return len(header.getvalue().encode("utf-8"))


def _rows_and_statuses(path: Path, *, all_columns: bool) -> Iterator[tuple[Any, str]]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(1000, columns=None if all_columns else ["row", "status"]):
                yield from zip(batch["row"].to_pylist(), batch["status"].to_pylist(), strict=True)
        return
    with path.open("rb") as file:
        file.seek(-1, io.SEEK_END)
        if file.read() != b"\n":
            raise ValueError("its end is missing")
    with path.open(newline="", encoding="utf-8") as lines:
        if path.suffix == ".jsonl":
            for row in map(json.loads, lines):
                yield row["row"], row["status"]
            return
        reader = csv.DictReader(lines)
        while True:
            with long_cells():
                row = next(reader, None)
            if row is None:
                return
            if None in row or None in row.values():
                raise ValueError("a row is not whole")
            yield row["row"], row["status"]
