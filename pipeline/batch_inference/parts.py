"""Predictions in parts: files of so many rows each, whole or not there, so that a run that was killed can be resumed.

Part k holds rows k * rows to (k + 1) * rows - 1 in `part-<k>.parquet`, whoever computes it, and `.part-<k>.json` says
of which run it is and what its bytes must be. What the parts are of stands in `.classify.json`. Hidden files are not
seen by those who read the folder as a table.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from ..data.writer import FORMATS, RowWriter
from ..runtime.files import Lock, reason, user_path, writing_to
from ..runtime.outputs import beside, remove_leftovers, see_that_it_is_new
from ..runtime.record import read_record, require_same, write_record
from .part_files import damage_of_part, facts_file, join, read_facts, write_facts

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
        self._record: dict[str, Any] | None = None
        self._lock: Lock | None = None

    @classmethod
    def of(cls, out: str, *, rows: int, always: bool) -> Parts | None:
        """The parts that `out` is written in; None for a file that is written at once.

        Args:
            out: A folder if it is one, ends with a slash or has no suffix; else a file.
            always: Write a file in parts as well: they are hidden beside it and joined in the end.

        Raises:
            ValueError: There is no such format, or parts of standard output were asked for.
        """
        path = user_path(out)
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
        """The parts that are there, in order.

        Raises:
            ValueError: The folder cannot be read.
        """
        try:
            paths = list(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be read ({reason(error)}); nothing was changed") from error
        numbers = (path.stem.removeprefix("part-") for path in paths if path.suffix == self.suffix)
        return sorted(int(number) for number in numbers if number.isdigit())

    def facts(self, part: int) -> dict[str, Any]:
        """What was written of a part of this run: its hash, `rows` and `counts`; empty if it is not of this run.

        Raises:
            ValueError: It is there and cannot be read.
        """
        if self._record is None:
            self._record = read_record(self.folder, RECORD)
        try:
            facts = read_facts(self.path(part)) or self._record.get("files", {}).get(self.path(part).name, {})
        except OSError as error:
            raise ValueError(f"{facts_file(self.path(part))} cannot be read ({reason(error)})") from error
        return facts if facts and facts.get("table_run") == self._record.get("table_run", "none") else {}

    def may_begin(self, *, resume: bool, overwrite: bool) -> None:
        """See that no output is lost, before anything is loaded.

        Raises:
            ValueError: It would be.
        """
        record, left = read_record(self.folder, RECORD), self.numbers()
        state = record.get("state")
        if not record and (self.folder / RECORD).exists():
            raise ValueError(f"{self.folder / RECORD} is of no run of this version: choose another --out, or move it")
        if resume and left and not record:
            raise ValueError(
                f"{self.folder} holds parts, but no {RECORD} that says what they are of: choose another --out"
            )
        if resume and not record and self.file is not None and self.file.exists():
            raise ValueError(
                f"{self.file} is there, and of a run that made it nothing is left to resume: it is done, or was "
                "written at once; give --overwrite in place of --resume to write it anew"
            )
        if not resume and left and state in ("running", "joining"):
            raise ValueError(
                f"{self.folder} holds a run that is not done, in {len(left)} parts: go on with --resume, choose "
                f"another --out, or delete {self.folder}"
            )
        begun = state == "running" and self.file is None  # and has no part yet, or is to be resumed
        if not (resume or overwrite or begun):
            see_that_it_is_new(self.out)
        self._record = record
        foreign = [self.path(part) for part in left if not self.facts(part)]
        if foreign:
            raise ValueError(f"{foreign[0]} is not of this run: move it, or choose another --out")

    def begin(
        self,
        identity: dict[str, Any],
        *,
        resume: bool,
        overwrite: bool = False,
        say: Callable[[str], None],
    ) -> dict[str, Any]:
        """Begin anew or resume; of all processes the main one alone does it, before any other writes.

        Returns:
            The record of the run; its `state` is `done` if there is nothing left to do.

        Raises:
            ValueError: Parts would be lost, or are of something else, or another run is writing them.
        """
        self.close()
        self.may_begin(resume=resume, overwrite=overwrite)
        existed = self.folder.is_dir()
        with writing_to(self.out):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = Lock(self.folder)
            except BlockingIOError as error:
                raise ValueError(f"another run is writing {self.out}: wait for it, or choose another --out") from error
        try:
            return self._begin(identity, resume=resume, overwrite=overwrite, say=say)
        except ValueError:
            self.close()
            if not existed:
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
            raise

    def _begin(
        self, identity: dict[str, Any], *, resume: bool, overwrite: bool, say: Callable[[str], None]
    ) -> dict[str, Any]:
        self.may_begin(resume=resume, overwrite=overwrite)  # again: what another run has done until now
        record, left = self._record or {}, self.numbers()
        if record and resume:
            require_same(record["identity"], identity, self.out)
        done = record.get("state") == "done" and len(left) == record["parts"]
        done = done and not any(damage_of_part(self.path(part), self.facts(part)) for part in left)
        if record.get("state") == "joined":  # and was killed before it had removed its parts
            self._clear(record)
            done, record, left = True, record if resume else {}, []
        if resume and done and left:
            self._settle(record)
        if resume and done:
            say(f"the run in {self.out} is done: there is nothing to resume")
            return record | {"state": "done"}
        if resume:
            say(f"resuming: {len(left)} parts are there" if left else f"no parts in {self.folder}: starting from row 0")
        with writing_to(self.out):
            if not resume and left:
                say(f"replacing the earlier predictions in {self.out}: {len(left)} parts removed")
                self.remove(left)
            self._forget(record)  # it was killed
            remove_leftovers(self.folder)
            self._record = {
                "identity": identity,
                "state": record["state"] if resume and record.get("state") == "joining" else "running",
                "run": uuid.uuid4().hex,
                "table_run": record["table_run"] if resume and record else uuid.uuid4().hex,
                "overwrite": overwrite or (resume and record.get("overwrite", False)),
                "files": record.get("files", {}) if resume else {},
            }
            write_record(self.folder, self._record, RECORD)
        return self._record

    def whole(self, mine: Callable[[int], bool], say: Callable[[str], None]) -> set[int]:
        """Those of my parts that are there and whole; a damaged one is said and removed.

        Raises:
            ValueError: One cannot be read, which says nothing of what is in it.
        """
        numbers = self.numbers()
        whole = set()
        for part in filter(mine, numbers):
            damage = damage_of_part(self.path(part), self.facts(part), None if part == numbers[-1] else self.rows)
            if damage is not None:
                say(f"removing {self.path(part)}, to compute it again: {damage}")
                self.remove([part])
            else:
                whole.add(part)
        return whole

    def write(
        self,
        part: int,
        rows: Iterable[Mapping[str, Any]],
        more: Callable[[int], Mapping[str, Any]] = lambda part: {},
        **options: Any,
    ) -> int:
        """Write one part beside its place and put it there when it is whole.

        Args:
            rows: With a `row` of their own, which is numbered anew here.
            more: What else is to be known of the part, once its rows are written.
            options: For the `RowWriter`.

        Returns:
            How many rows it has.

        Raises:
            ValueError: It cannot be written.
        """
        path, counts, first = self.path(part), Counter[str](), part * self.rows
        if self._record is None:
            self._record = read_record(self.folder, RECORD)
        try:
            with beside(path) as new:
                with RowWriter(new, header=part == 0 or self.file is None, **options) as writer:
                    for row in rows:
                        writer.write({**row, "row": first + counts.total()})
                        counts[row["status"]] += 1
                run = self._record.get("table_run")
                write_facts(path, new, table_run=run, rows=counts.total(), counts=counts, **more(part))
        except (ValueError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise ValueError(
                f"{path} cannot be written ({reason(cause)}); the parts before it stay: make room, then resume with "
                "--resume"
            ) from error
        return counts.total()

    def write_wanted(
        self,
        rows: Iterable[Any],
        predict: Callable[[int, Iterator[Any]], Iterable[Mapping[str, Any]]],
        *,
        wanted: Callable[[int], bool],
        check: Callable[[], None],
        **options: Any,
    ) -> int:
        """Write those parts that are wanted; how many rows the table has.

        Args:
            rows: All of the table; what stands for those of parts that are not wanted is passed over.
            predict: From the number of the first row and rows to rows of output.
            wanted: Whether a part is to be written, by its number.
            check: Called before each part, to raise if all is to stop.
            options: As of `write`.
        """
        rows = iter(rows)
        for part in count():
            check()
            piece = islice(rows, self.rows)
            ahead = list(islice(piece, 1))  # there is no part without rows
            if ahead and wanted(part):
                found = self.write(part, predict(part * self.rows, chain(ahead, piece)), **options)
            else:
                found = len(ahead) + sum(1 for _ in piece)
            if found < self.rows:
                return part * self.rows + found
        raise AssertionError

    def all_counts(self, rows: int) -> Counter[str]:
        """The rows of all parts by status.

        Raises:
            ValueError: The parts do not hold `rows` rows, each once and in order.
        """
        total: Counter[str] = Counter()
        for part in range(-(-rows // self.rows)):
            here, path, facts = min(self.rows, rows - part * self.rows), self.path(part), self.facts(part)
            if damage := damage_of_part(path, facts, here):
                raise ValueError(f"{path} is not whole: {damage}; resume with --resume")
            total += Counter(facts["counts"])
        more = [self.path(part) for part in self.numbers() if part * self.rows >= rows]
        if more:
            raise ValueError(f"{more[0]} is of a row that the data does not have; delete {self.folder} and begin anew")
        return total

    def end(self, record: dict[str, Any]) -> None:
        """Write down that all parts are there; make the file of them, if they are for one."""
        numbers = self.numbers()
        files = {self.path(part).name: self.facts(part) for part in numbers}
        if self.file is None:
            record = record | {"state": "done", "parts": len(numbers), "files": files}
            write_record(self.folder, record, RECORD)
            self._settle(record)
        else:
            replace = record["overwrite"] or record["state"] == "joining"
            if not replace:
                see_that_it_is_new(self.file)
            write_record(self.folder, record | {"state": "joining"}, RECORD)
            join([self.path(part) for part in numbers], self.file)
            write_record(self.folder, record | {"state": "joined"}, RECORD)
            self._clear(record)
        self.close()

    def _settle(self, record: dict[str, Any]) -> None:
        """Remove what is not needed any more, now that the record says all of it."""
        for name in record["files"]:
            facts_file(self.folder / name).unlink(missing_ok=True)
        self._forget(record)
        remove_leftovers(self.folder)

    def _clear(self, record: dict[str, Any]) -> None:
        """Remove all parts, which have become a file."""
        self.remove(self.numbers())
        self._forget(record)
        (self.folder / RECORD).unlink(missing_ok=True)
        remove_leftovers(self.folder)
        with contextlib.suppress(OSError):  # others have put something there
            self.folder.rmdir()

    def _forget(self, record: dict[str, Any]) -> None:
        """Remove what the processes of a run have told each other, and facts of parts that are not there."""
        run = record.get("run")
        for path in list(self.folder.iterdir()):
            if path.name.startswith((f".ended-{run}-", f".failed-{run}")):
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".part-*.json"):
            part = self.folder / f"{path.stem[1:]}{self.suffix}"
            if not part.exists() and read_facts(part).get("table_run") == record.get("table_run", "none"):
                path.unlink(missing_ok=True)

    def ended(self) -> bool:
        """Whether `end` was called, perhaps by another process."""
        record = read_record(self.folder, RECORD)
        return not record or record.get("state") == "done"

    def close(self) -> None:
        """Let others write here."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def remove(self, parts: Iterable[int]) -> None:
        """Remove parts, which are to be computed again, or have become a file."""
        for part in parts:
            self.path(part).unlink(missing_ok=True)
            facts_file(self.path(part)).unlink(missing_ok=True)


def hidden(file: Path) -> Path:
    """The folder beside `file` that holds its parts until they are joined."""
    return file.with_name(f".{file.name}.parts")
