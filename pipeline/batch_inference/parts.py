"""Predictions in parts: files of so many rows each, whole or not there, so that a run that was killed can go on.

Part k holds rows k * rows to (k + 1) * rows - 1 in `part-<k>.parquet`, whoever computes it. What the parts are of
stands in `.classify.json` beside them, hidden from those who read the folder as a table.
"""

from __future__ import annotations

import csv
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from ..data.writer import FORMATS, RowWriter
from ..runtime.files import to_disk
from ..runtime.record import read_record, require_same, write_record
from .part_files import _rows_and_statuses, join

RECORD = ".classify.json"


class Parts:
    """The parts of one table's predictions.

    Args:
        folder: Where they are.
        rows: Of each part but the last.
        suffix: Their format, one of `FORMATS`.
        file: The file that they become in the end, if they do not stay.

    Raises:
        ValueError: `rows` is less than one.
    """

    def __init__(self, folder: Path, *, rows: int, suffix: str = ".parquet", file: Path | None = None) -> None:
        if rows < 1:
            raise ValueError(f"--part-rows is {rows}; it must be at least 1")
        self.folder, self.rows, self.suffix, self.file = folder, rows, suffix, file
        self.out = folder if file is None else file

    @classmethod
    def of(cls, out: str, *, rows: int, always: bool) -> Parts | None:
        """The parts that `out` is written in; None for a file that is written at once.

        Args:
            out: A folder if it is one, ends with a slash or has no suffix; else a file.
            rows: Of each part.
            always: Write a file in parts as well: they are hidden beside it and joined in the end.

        Raises:
            ValueError: There is no such format, or parts of standard output were asked for.
        """
        path = Path(out).expanduser()
        if out != "-" and (path.is_dir() or out.endswith("/") or not path.suffix):
            return cls(path, rows=rows)
        if out == "-" and always:
            raise ValueError(
                "standard output takes the rows of one process, once: with several processes or --resume give --out "
                "a file or a folder"
            )
        if out != "-" and path.suffix not in FORMATS:
            raise ValueError(
                f"{out} has no format that can be written: name it .csv, .jsonl or .parquet, {out}/ for a folder of "
                "parts, or - for JSON lines"
            )
        parts = None if out == "-" else cls(hidden(path), rows=rows, suffix=path.suffix, file=path)
        return parts if always or (parts is not None and parts.numbers()) else None

    def path(self, part: int) -> Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{part:06d}{self.suffix}"

    def numbers(self) -> list[int]:
        """The parts that are there, in order."""
        names = (path.stem.removeprefix("part-") for path in self.folder.glob(f"part-*{self.suffix}"))
        return sorted(int(name) for name in names if name.isdigit())

    def begin(self, identity: dict[str, Any], *, resume: bool, say: Callable[[str], None]) -> dict[str, Any]:
        """Begin anew or go on; of all processes the main one alone does it, before any other writes.

        Returns:
            The record of the run; its `state` is `done` if there is nothing left to do.

        Raises:
            ValueError: Parts would be lost, or are of something else.
        """
        record, left = read_record(self.folder, RECORD), self.numbers()
        if resume:
            if left and not record:
                raise ValueError(
                    f"{self.folder} holds parts, but no {RECORD} that says what they are of: choose another --out"
                )
            if record:
                require_same(record["identity"], identity, self.out)
            elif self.file is not None and self.file.exists():
                raise ValueError(
                    f"{self.file} is there, and of a run that made it nothing is left to go on with: it is done, or "
                    "was written at once; leave out --resume to write it anew"
                )
            if record.get("state") == "done" and len(left) == record["parts"]:
                say(f"the run in {self.out} is done: there is nothing to go on with")
                return record
            say(f"going on: {len(left)} parts are there" if left else f"no parts in {self.folder}: starting from row 0")
        elif left and record.get("state") != "done":
            raise ValueError(
                f"{self.folder} holds a run that is not done, in {len(left)} parts: go on with --resume, choose "
                f"another --out, or delete {self.folder}"
            )
        elif left:
            say(f"replacing the earlier predictions in {self.out}")
            for part in left:
                self.path(part).unlink()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in [path for name in (".part-*", ".ended-*", ".failed-*") for path in self.folder.glob(name)]:
                file.unlink(missing_ok=True)  # of a run that was killed
            record = {"identity": identity, "state": "running", "run": uuid.uuid4().hex}
            write_record(self.folder, record, RECORD)
        except OSError as error:
            raise ValueError(f"{self.out} cannot be written to ({error.strerror}); choose another --out") from error
        return record

    def whole(self, mine: Callable[[int], bool], say: Callable[[str], None]) -> set[int]:
        """Those of my parts that are there, read from end to end; a damaged one is said and removed."""
        numbers = self.numbers()
        found = set()
        for part in filter(mine, numbers):
            try:
                counts = self.counts(part, all_columns=True)
                if counts.total() < self.rows and part != numbers[-1]:
                    raise ValueError(f"it has {counts.total()} rows, not {self.rows}")
            except ValueError as error:
                say(f"removing {self.path(part)}, to compute it again: {error}")
                self.path(part).unlink()
            else:
                found.add(part)
        return found

    def write(self, part: int, rows: Iterable[Mapping[str, Any]], **options: Any) -> int:
        """Write one part beside its place and put it there when it is whole.

        Args:
            part: Its number.
            rows: With a `row` of their own, which is numbered anew here.
            options: For the `RowWriter`.

        Returns:
            How many rows it has.

        Raises:
            ValueError: It cannot be written.
        """
        path = self.path(part)
        beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
        number = first = part * self.rows
        try:
            with RowWriter(beside, **options) as writer:
                for row in rows:
                    writer.write({**row, "row": number})
                    number += 1
            to_disk(beside)
            beside.replace(path)
            to_disk(self.folder)
        except (ValueError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise ValueError(
                f"{path} cannot be written ({cause.strerror}); the parts before it stay: make room, then go on with "
                "--resume"
            ) from error
        finally:
            beside.unlink(missing_ok=True)
        return number - first

    def counts(self, part: int, *, all_columns: bool = False) -> Counter[str]:
        """The rows of a part by status.

        Args:
            part: Its number.
            all_columns: Read what is not needed for it as well, to see that it can be.

        Raises:
            ValueError: It cannot be read, or holds other rows than its own.
        """
        found: Counter[str] = Counter()
        number = part * self.rows
        try:
            for row, status in _rows_and_statuses(self.path(part), all_columns=all_columns):
                if int(row) != number:
                    raise ValueError(f"row {number} is not in its place")
                number += 1
                found[status] += 1
        except (KeyError, TypeError, OSError, csv.Error, pa.ArrowException) as error:
            raise ValueError(f"it cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
        if not 0 < found.total() <= self.rows:
            raise ValueError(f"it has {found.total()} rows")
        return found

    def all_counts(self, rows: int) -> Counter[str]:
        """The rows of all parts by status.

        Raises:
            ValueError: The parts do not hold `rows` rows, each once and in order; what doesn't fit is removed.
        """
        found: Counter[str] = Counter()
        for part in range(-(-rows // self.rows)):
            here, path = min(self.rows, rows - part * self.rows), self.path(part)
            try:
                counts = self.counts(part)
                if counts.total() != here:
                    raise ValueError(f"it has {counts.total()} rows, not {here}")
            except ValueError as error:
                path.unlink(missing_ok=True)
                raise ValueError(f"{path} is not whole: {error}; go on with --resume") from error
            found += counts
        more = [self.path(part) for part in self.numbers() if part * self.rows >= rows]
        if more:
            raise ValueError(f"{more[0]} is of a row that the data does not have; delete {self.folder} and begin anew")
        return found

    def end(self, record: dict[str, Any]) -> None:
        """Write down that all parts are there; make the file of them, if they are for one."""
        if self.file is not None:
            join([self.path(part) for part in self.numbers()], self.file)
            shutil.rmtree(self.folder)
            return
        for file in self.folder.glob(".ended-*"):
            file.unlink()
        write_record(self.folder, record | {"state": "done", "parts": len(self.numbers())}, RECORD)

    def ended(self) -> bool:
        """Whether `end` was called, perhaps by another process."""
        return not self.folder.is_dir() or read_record(self.folder, RECORD).get("state") == "done"


class RowCursor:
    """The rows of a table, taken or passed over piece by piece, from the first to the last.

    Args:
        rows: Of a `Table`.
        wanted: Whether a row will be taken, by its number: others are not decoded where that can be avoided.
    """

    def __init__(self, rows: Any, wanted: Callable[[int], bool]) -> None:
        self._whole = rows if isinstance(rows, datasets.Dataset) else None
        self._rows = iter(rows.only(wanted) if hasattr(rows, "only") else () if self._whole is not None else rows)
        self._at = 0

    def take(self, most: int) -> Iterator[Any]:
        """The next `most` rows, or as many as are left; to be read to their end before the next piece."""
        if self._whole is None:
            return islice(self._rows, most)
        start, passed = self._at, self.skip(most)
        return iter(self._whole.select(range(start, start + passed)) if passed else ())  # it cannot select none

    def skip(self, most: int) -> int:
        """Pass over the next `most` rows, or as many as are left; how many there were."""
        if self._whole is None:
            return sum(1 for _ in islice(self._rows, most))
        passed = min(most, len(self._whole) - self._at)
        self._at += passed
        return passed


def write_parts(
    parts: Parts,
    pieces: RowCursor,
    predict: Callable[[int, Iterator[Any]], Iterable[Mapping[str, Any]]],
    *,
    wanted: Callable[[int], bool],
    check: Callable[[], None],
    **options: Any,
) -> int:
    """Write those parts that are wanted.

    Args:
        parts: Where they go.
        pieces: The rows of the table.
        predict: From the number of the first row and rows to rows of output.
        wanted: Whether a part is to be written, by its number.
        check: Called before each part, to raise if all is to stop.
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
            found = 0 if ahead is nothing else parts.write(part, predict(first, chain([ahead], rows)), **options)
        if found < parts.rows:
            return first + found
    raise AssertionError


def hidden(file: Path) -> Path:
    """The folder beside `file` that holds its parts until they are joined."""
    return file.with_name(f".{file.name}.parts")
