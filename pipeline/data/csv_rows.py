"""CSV files, each cell as it stands: a broken line is a row of its own status, an open quote ends the reading."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

from .image_source import IMAGE_SUFFIXES
from .readers import require_distinct
from .rows import UnreadableRow
from .text_files import FileRows, TextFile

_LONGEST_CELL = 1 << 26
"""Characters: a quote that is never closed must not read a whole file into one cell."""
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR = re.compile(r"sep=(.)\s*$")


class CsvRows(FileRows):
    """The rows of CSV files; every cell is text as it stands, an empty one None.

    Args:
        files: Each with a header, whose cells are parted by commas, semicolons, tabs or bars: by what gives the most.

    Raises:
        ValueError: Two columns have one name, among the first thousand rows there is none of the header's columns, or
            a quote is opened and not closed: what follows it are no rows.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._headers: dict[Path, list[str]] = {}
        self._marks: dict[Path, str] = {}
        try:
            super().__init__(files)
        except ValueError as error:
            hint = "; put double quotes around a text that has a comma in it" if "cells for" in str(error) else ""
            raise ValueError(f"{error}{hint}") from None
        self._names = self._names or self._headers.get(files[0], [])
        for file, mark in self._marks.items():
            if mark != "," and file.suffix.lower() != ".tsv":
                self.remarks.append(f"{file}: cells are parted by {_DELIMITERS.get(mark, repr(mark))}")

    def _read(
        self, file: TextFile, wanted: Callable[[], bool] | None = None, ends: array[int] | None = None
    ) -> Iterator[Any]:
        names: list[str] | None = None
        end, over = 0, False

        def ended() -> Iterator[str]:
            nonlocal over
            over = True
            yield from ()

        with file.lines() as text:
            lines, behind = tee(chain(text, ended()))
            mark = self._mark(file)
            reader = csv.reader(lines, delimiter=mark)
            while True:
                row: Any = None
                before = reader.line_num
                limit = csv.field_size_limit(_LONGEST_CELL)  # of the whole process
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    cells, row = [], UnreadableRow(f"line {before + 1} of {file.path} is no CSV: {error}")
                finally:
                    csv.field_size_limit(limit)
                if cells is None:
                    return
                record = list(islice(behind, reader.line_num - before))
                if ends is not None:
                    end += sum(map(file.length, record))
                if len(record) > 1 and row is None and (over or not _is_strict(record, mark)):
                    raise ValueError(_open_quote(file.path, before + 1, record, mark))
                if names is None and row is None:
                    if cells and not (len(record) == 1 and _SEPARATOR.match(record[0])):
                        names = self._header(file.path, cells)
                    continue
                if names is not None and len(cells) > len(names):
                    place = f"line {before + 1}" if len(record) == 1 else f"lines {before + 1} to {reader.line_num}"
                    row = UnreadableRow(f"{place} of {file.path}: {len(cells)} cells for {len(names)} columns")
                odd = '\\"' in record[0] and (row is not None or not _is_strict(record, mark))
                if odd and _escapes(record[0], mark):
                    row = UnreadableRow(_escaped(file.path, before + 1))
                if cells or row is not None:
                    if ends is not None:
                        ends.append(end)
                    if wanted is not None and not wanted():
                        yield None
                    else:
                        yield _cells(names or [], cells) if row is None else row

    def _parse(self, file: TextFile, text: str) -> dict[str, Any]:
        with long_cells():
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=self._marks[file.path])
            rows = [cells for cells in reader if cells]
        return _cells(self._headers[file.path], rows[-1])  # the first row's place is that of the header

    def _mark(self, file: TextFile) -> str:
        """What parts the cells of a file: what gives its header the most; Excel's line `sep=;` says it."""
        if file.path not in self._marks:
            with file.lines() as lines:
                head = next(filter(str.strip, lines), "")
            said = _SEPARATOR.match(head)
            with long_cells():
                counts = {mark: len(next(csv.reader([head], delimiter=mark), [])) for mark in _DELIMITERS}
            self._marks[file.path] = said[1] if said else max(_DELIMITERS, key=lambda mark: counts[mark])
        return self._marks[file.path]

    def _header(self, path: Path, cells: Sequence[str]) -> list[str]:
        """A name for every column; one without a name, such as the index that pandas writes, gets one."""
        names = [cell or f"Unnamed: {index}" for index, cell in enumerate(cells)]
        if photo := next((name for name in names if name.strip().lower().endswith(IMAGE_SUFFIXES)), None):
            raise ValueError(
                f"{path} begins with a row and not with the names of its columns ({photo!r} is an image): put them "
                "above it, such as image,text,label"
            )
        require_distinct(names, str(path))
        if any("\udc80" <= character <= "\udcff" for name in names for character in name):
            raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8")
        return self._headers.setdefault(path, names)


def _cells(names: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(names, cells, strict=False))
    if "" in cells:
        row = {name: cell or None for name, cell in row.items()}
    return row if len(row) == len(names) else dict.fromkeys(names) | row


def _is_strict(record: Sequence[str], mark: str, escape: str | None = None) -> bool:
    """Whether quotes in a record stand only where they open and close cells, or in pairs, or behind an `escape`."""
    try:
        with long_cells():
            return len(list(csv.reader(record, delimiter=mark, escapechar=escape, strict=True))) == 1
    except csv.Error:
        return False


def _escapes(line: str, mark: str) -> bool:
    """Whether a line is whole if backslashes make the quotes behind them part of the text, as Spark and MySQL do."""
    return '\\"' in line and _is_strict([line], mark, "\\")


def _escaped(path: Path, line: int) -> str:
    return f'line {line} of {path} writes a quote as \\": write it twice, ""'


def _open_quote(path: Path, start: int, record: Sequence[str], mark: str) -> str:
    """Words for a quote that is not closed, with the line where it was opened."""
    if _escapes(record[0], mark):
        return _escaped(path, start)
    opened, inside = start, False
    for number, line in enumerate(record, start):
        if line.count('"') % 2:
            inside = not inside
            opened = number if inside else opened
    return (
        f"line {opened} of {path} opens a quote that is not closed, so that the lines behind it are no rows: close it, "
        "or write it twice if it belongs to the text"
    )


@contextlib.contextmanager
def long_cells() -> Iterator[None]:
    """Let a cell be as long as it is; the limit of 128 kB is a switch of the whole process, put back at once."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
