"""The rows of a table, taken or passed over piece by piece, and written as parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count, islice
from typing import Any

from .parts import Parts


class RowCursor:
    """The rows of a table, taken or passed over piece by piece, from the first to the last.

    Args:
        rows: Of a `Table`.
        wanted: Whether a row will be taken, by its number: others are not decoded where that can be avoided.
    """

    def __init__(self, rows: Any, wanted: Callable[[int], bool]) -> None:
        self._rows = iter(rows.only(wanted) if hasattr(rows, "only") else rows)

    def take(self, most: int) -> Iterator[Any]:
        """The next `most` rows, or as many as are left; to be read to their end before the next piece."""
        return islice(self._rows, most)

    def skip(self, most: int) -> int:
        """Pass over the next `most` rows, or as many as are left; how many there were."""
        return sum(1 for _ in islice(self._rows, most))


def write_parts(
    parts: Parts,
    pieces: RowCursor,
    predict: Callable[[int, Iterator[Any]], Iterable[Mapping[str, Any]]],
    *,
    wanted: Callable[[int], bool],
    check: Callable[[], None],
    more: Callable[[int], Mapping[str, Any]] = lambda part: {},
    **options: Any,
) -> int:
    """Write those parts that are wanted.

    Args:
        parts: Where they go.
        pieces: The rows of the table.
        predict: From the number of the first row and rows to rows of output.
        wanted: Whether a part is to be written, by its number.
        check: Called before each part, to raise if all is to stop.
        more: Of each part what else is to be known of it.
        options: For the `RowWriter`.

    Returns:
        How many rows the table has.
    """
    nothing = object()
    for part in count():
        check()
        first = part * parts.rows
        if not wanted(part):
            found = pieces.skip(parts.rows)
        else:
            rows = pieces.take(parts.rows)
            ahead = next(rows, nothing)  # there is no part without rows
            found = (
                0 if ahead is nothing else parts.write(part, predict(first, chain([ahead], rows)), more=more, **options)
            )
        if found < parts.rows:
            return first + found
    raise AssertionError
