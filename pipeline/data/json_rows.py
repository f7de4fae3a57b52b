"""JSON lines and JSON files, each object a row: a broken line is a row of its own status, and ends nothing."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .readers import ListRows, Rows
from .rows import UnreadableRow
from .text_files import FileRows, TextFile, read_whole
from .values import DEEPEST


class JsonRows(FileRows):
    """The rows of files of JSON lines; a field that a row lacks is None.

    Args:
        files: One object per line.

    Raises:
        ValueError: Among the first thousand lines there is no such object.
    """

    def _read(
        self, file: TextFile, wanted: Callable[[], bool] | None = None, ends: array[int] | None = None
    ) -> Iterator[Any]:
        end, name = 0, str(file.path)
        with file.lines() as lines:
            for number, line in enumerate(lines, start=1):
                if ends is not None:
                    end += file.length(line)
                if line.isspace():
                    continue
                if ends is not None:
                    ends.append(end)
                yield _json_row(line, number, name) if wanted is None or wanted() else None

    def _parse(self, file: TextFile, text: str) -> Any:
        return _json_row(text.lstrip(), 0, str(file.path))  # of the blank lines before it


def read_json(files: Sequence[Path]) -> Rows:
    """The rows of JSON lines; of a file that is one list of objects, or an object with one such list, which is held.

    Raises:
        ValueError: There is no object.
    """
    rows: list[Any] = []
    for path in files:
        file = TextFile(path)
        try:
            with file.lines() as lines:
                filled = filter(str.strip, lines)
                head = next(filled, "").lstrip()
                first = None if head.startswith("[") else _object(head)
                of_rows = path.suffix.lower() == ".json" and _holds_rows(first) and not next(filled, "")
                if not of_rows and (first is not None or not head.startswith(("[", "{"))):
                    return JsonRows(files)
                whole = _DECODER.decode(head + lines.read())
        except (ValueError, RecursionError) as error:
            if path.suffix.lower() != ".json":
                return JsonRows(files)
            raise ValueError(f"{path} is no JSON: {error}") from error
        if isinstance(whole, dict):
            lists = _lists_of_rows(whole)
            if len(lists) != 1:
                raise ValueError(
                    f"{path} is one JSON object, of which {len(lists)} fields are lists of rows: give one "
                    "(pandas writes it with orient='records')"
                )
            whole = lists[0]
        if not isinstance(whole, list) or not any(isinstance(row, dict) for row in whole):
            return JsonRows(files)
        for number, row in enumerate(whole):
            good = isinstance(row, dict) and not _is_deep(row)
            rows.append(row if good else UnreadableRow(f"item {number} of {path} is no JSON object that can be read"))
    return ListRows(rows)


def read_object(path: Path) -> dict[str, Any]:
    """The object that a whole file is.

    Raises:
        ValueError: It is none.
    """
    row = _json_row(read_whole(path), 1, str(path))
    if isinstance(row, UnreadableRow):
        raise ValueError(row.reason)
    return row


def _object(line: str) -> Any:
    """What a line of JSON says; None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lists_of_rows(whole: dict[str, Any]) -> list[Any]:
    return [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]


def _holds_rows(whole: Any) -> bool:
    """Whether an object is no row but holds rows: in lists, or by column or number, as pandas writes them."""
    return isinstance(whole, dict) and bool(
        _lists_of_rows(whole) or (whole and all(isinstance(value, dict) for value in whole.values()))
    )


def json_rows(lines: Iterable[bytes | str], name: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, in order; blank lines are passed over."""
    return (_json_row(line, number, name) for number, line in enumerate(lines, start=1) if not _is_blank(line))


def _is_blank(line: bytes | str) -> bool:
    """Whether a line holds nothing but blanks of any script, as `str.isspace` knows them."""
    return not (line.decode("utf-8", "replace") if isinstance(line, bytes) else line).strip()


def _json_row(line: bytes | str, number: int, name: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        if not text.isascii():  # a byte of a file that says nothing
            text = text.encode("utf-8", "surrogateescape").decode("utf-8")
        row = _DECODER.decode(text)
        if not isinstance(row, dict):
            return UnreadableRow(f"line {number} of {name} is no JSON object with 'image' and 'text': {line[:60]!r}")
        if text.count("[") + text.count("{") > DEEPEST and _is_deep(row):
            raise RecursionError(f"lists and objects stand over {DEEPEST} deep in one another")
    except (ValueError, RecursionError) as error:
        return UnreadableRow(f"line {number} of {name} is no JSON: {error}")
    return row


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _is_deep(row: Any) -> bool:
    level = [row]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, (Mapping, list))
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
    return bool(level)
