"""CSV and JSON lines read one row after another: a broken line is a row of its own status, and ends nothing."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from .rows import UnreadableRow

_PEEK = 1000
"""Rows of a file that are read ahead, to see whether it is a table and which columns it has."""
_LONGEST_CELL = 1 << 26
"""Characters: a quote that is never closed must not read a whole file into one cell."""


class CsvRows:
    """The rows of CSV files, one after another; every cell is text as it stands, an empty one None.

    Bytes that are no UTF-8 become lone surrogates, so that one bad cell is one bad text.

    Args:
        files: Each with a header.

    Raises:
        ValueError: A header is no UTF-8, or among the first thousand rows there is none of its columns.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        ahead = list(islice(self, _PEEK))
        good = (row for row in ahead if not isinstance(row, UnreadableRow))
        self.first: dict[str, Any] = next(good, {})
        if ahead and not self.first:
            raise ValueError(f"{ahead[0].reason}; put double quotes around a text that has a comma in it")  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row in self.only(lambda number: True) if row is not None)

    def only(self, wanted: Callable[[int], bool]) -> Iterator[dict[str, Any] | None]:
        """The rows whose number is wanted; None, for a fraction of the time, in the place of each other."""
        numbers = count()
        for file in self.files:
            with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
                yield from _csv_rows(lines, file, lambda: wanted(next(numbers)))


class JsonRows:
    """The rows of files of JSON lines, one after another; a field that a row lacks is None.

    Args:
        files: One object per line.

    Raises:
        ValueError: Among the first thousand lines there is no such object.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        ahead = list(islice(self._rows(), _PEEK))
        good = [row for row in ahead if not isinstance(row, UnreadableRow)]
        if ahead and not good:
            raise ValueError(ahead[0].reason)  # type: ignore[attr-defined]
        self.first: dict[str, Any] = {}  # of every field the first value that says something
        for row in good:
            self.first |= {name: value for name, value in row.items() if self.first.get(name) is None}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row in self.only(lambda number: True) if row is not None)

    def only(self, wanted: Callable[[int], bool]) -> Iterator[dict[str, Any] | None]:
        """The rows whose number is wanted; None, for a fraction of the time, in the place of each other."""
        absent = dict.fromkeys(self.first)
        numbers = count()
        for file in self.files:
            with file.open("rb") as lines:
                for place, line in _full_lines(lines):
                    row = _json_row(line, place, str(file)) if wanted(next(numbers)) else None
                    yield row if row is None or isinstance(row, UnreadableRow) else absent | row

    def _rows(self) -> Iterator[dict[str, Any]]:
        for file in self.files:
            with file.open("rb") as lines:
                yield from json_rows(lines, str(file))


def json_rows(lines: Iterable[bytes | str], name: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, in order; blank lines are passed over."""
    for number, line in _full_lines(lines):
        yield _json_row(line, number, name)


def _full_lines(lines: Iterable[bytes | str]) -> Iterator[tuple[int, bytes | str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _json_row(line: bytes | str, number: int, name: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig") if isinstance(line, bytes) else line)
    except (ValueError, RecursionError) as error:
        return UnreadableRow(f"line {number} of {name} is no JSON: {error}")
    if not isinstance(row, dict):
        return UnreadableRow(f"line {number} of {name} is no JSON object with 'image' and 'text': {line[:60]!r}")
    return row


def up_to_first_good(rows: Iterator[dict[str, Any]]) -> tuple[dict[str, Any] | None, Iterator[dict[str, Any]]]:
    """The first row that can be read, of those that are there, and all rows, that one included."""
    ahead: list[dict[str, Any]] = []
    for row in rows:
        ahead.append(row)
        if not isinstance(row, UnreadableRow):
            break
    return (ahead[-1] if ahead else None), chain(ahead, rows)


def _csv_rows(lines: Iterable[str], file: Path, wanted: Callable[[], bool]) -> Iterator[dict[str, Any] | None]:
    """The rows of one file; `wanted` is asked once for each."""
    reader = csv.reader(lines)
    names: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            with long_cells():
                cells = next(reader, None)
        except csv.Error as error:
            yield UnreadableRow(f"line {start} of {file} is no CSV: {error}") if wanted() else None
            continue
        if cells is None:
            return
        if names is None:
            names = _column_names(cells, file)
        elif len(cells) > len(names):
            place = f"line {start}" if start == reader.line_num else f"lines {start} to {reader.line_num}"
            row = UnreadableRow(f"{place} of {file}: {len(cells)} cells for {len(names)} columns")
            yield row if wanted() else None
        elif cells and wanted():
            yield dict.fromkeys(names) | {name: cell or None for name, cell in zip(names, cells, strict=False)}
        elif cells:
            yield None


def _column_names(cells: Sequence[str], file: Path) -> list[str]:
    """A name for every column; one without a name, such as the index that pandas writes, gets one."""
    for cell in cells:
        try:
            cell.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{file} is no UTF-8 text; save it as UTF-8") from error
    return [cell or f"Unnamed: {index}" for index, cell in enumerate(cells)]


@contextlib.contextmanager
def long_cells() -> Iterator[None]:
    """Let a cell be as long as it is; the limit of 128 kB is a switch of the whole process, put back at once."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
