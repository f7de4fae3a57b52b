"""Rows, whatever holds them: read one after another, or by number; and rows that are in memory."""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .rows import UnreadableRow, field_of
from .values import python_value

_FEW = 20


class Rows:
    """The rows of one table.

    Attributes:
        features: Types of the columns, as `datasets` has them; empty where the values tell.
        again: Whether they can be read more than once.
        by_number: Whether they can be asked for by number.
    """

    features: Mapping[str, Any] = {}
    again = by_number = True
    _selected: tuple[str, ...] | None = None
    _ahead: list[Any] | None = None

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self.features or self.first)

    @property
    def first(self) -> dict[str, Any]:
        """Of every column the first value that says something."""
        found: dict[str, Any] = {}
        for row in self.ahead:
            for name, value in row.items():
                if found.get(name) is None:
                    found[name] = value
        return found

    @property
    def ahead(self) -> list[Any]:
        """The first rows, of those that can be read."""
        if self._ahead is None:
            self._ahead = list(islice(self, _FEW))
        return [row for row in self._ahead if isinstance(row, Mapping) and not isinstance(row, UnreadableRow)]

    def __iter__(self) -> Iterator[Any]:
        return self.only()

    def only(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Any]:
        """The rows whose number is wanted, or all; None, for a fraction of the time, in the place of each other."""
        return (self[number] if wanted is None or wanted(number) else None for number in range(len(self)))

    def __getitem__(self, number: int) -> Any:
        raise NotImplementedError

    def size(self) -> int | None:
        """How many rows there are; None if they would have to be read to tell."""
        return len(self) if self.by_number else None

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} only pass by: how many they are is not known")

    def values(self, name: str) -> Iterator[Any]:
        """The values of one column; an `UnreadableRow` in the place of a row that cannot be read."""
        for row in self.select([name]):
            yield row if isinstance(row, UnreadableRow) else field_of(row, name)

    def select(self, names: Iterable[str]) -> Rows:
        """The same rows, of these columns alone, of which no other is read or decoded."""
        some = copy.copy(self)
        some._selected = tuple(n for n in self.names if any(n == name or name.startswith(f"{n}.") for name in names))
        some._ahead = None
        return some

    def _chosen(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: row.get(name) for name in (self.names if self._selected is None else self._selected)}


def plain(row: Any) -> Any:
    """A row as any reader gives it: names are text, values as `python_value` gives them."""
    if not isinstance(row, Mapping) or isinstance(row, UnreadableRow):
        return row if isinstance(row, UnreadableRow) else UnreadableRow(f"a {type(row).__name__} is no row of a table")
    return {str(name): python_value(value) for name, value in row.items()}


class ListRows(Rows):
    """Rows in a list; a field that a row lacks is None.

    Raises:
        ValueError: There is none, or something else than rows.
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ValueError(f"row {number} of the data is a {type(row).__name__}: give dicts by column name")
            require_distinct([str(name) for name in row], f"row {number} of the data")
        self._rows = rows
        self._names = list(dict.fromkeys(str(name) for row in rows for name in row))

    @property
    def names(self) -> list[str]:
        """The columns of all rows together."""
        return self._names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Any:
        row = plain(self._rows[number])
        return row if isinstance(row, UnreadableRow) else self._chosen(row)


class FrameRows(Rows):
    """The rows of a DataFrame, of pandas or polars; columns that are not asked for are not touched.

    Raises:
        ValueError: It has no rows, or two columns of one name.
    """

    def __init__(self, frame: Any) -> None:
        self._frame, self._lists = frame, dict[str, list[Any]]()
        self._columns = {str(name): name for name in frame.columns}
        require_distinct([str(name) for name in frame.columns], "the data")

    @property
    def names(self) -> list[str]:
        """The columns, as text."""
        return list(self._columns)

    def __len__(self) -> int:
        return len(self._frame)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {name: self._list(name)[number] for name in (self.names if self._selected is None else self._selected)}

    def _list(self, name: str) -> list[Any]:
        if name not in self._lists:
            values = self._frame[self._columns[name]].to_list()
            self._lists[name] = list(map(python_value, values))
        return self._lists[name]


def require_distinct(names: Sequence[str], where: str) -> None:
    """See that no two columns have one name.

    Raises:
        ValueError: Two have.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{where} has two columns named {twice[0]!r}: rename one, or take it out")


def scratch_file(owner: object) -> Path:
    """A file below the folder for temporary files, which goes with its owner, in the process that made it."""
    handle, name = tempfile.mkstemp(prefix="diptych-rows-")
    os.close(handle)
    weakref.finalize(owner, _remove, name, os.getpid())
    return Path(name)


def _remove(name: str, process: int) -> None:
    if process == os.getpid():
        Path(name).unlink(missing_ok=True)
