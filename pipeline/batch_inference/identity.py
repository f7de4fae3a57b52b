"""What a run of classification is of, so that no other is resumed with it, and that its output is not its input."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.dataset_rows import FetchedRows
from ..data.digest import table_digest
from ..data.image_source import BadImage, find_image
from ..data.rows import Columns, UnreadableRow
from ..data.tables import FORMATS, Table
from ..inference.classifier import ImageTextClassifier
from ..model.fingerprint import model_digest
from ..runtime.files import reason, same_file, user_path
from ..runtime.version import __version__


def identity_of(
    data: Any, table: Table, columns: Columns, classifier: ImageTextClassifier, *, resume: bool, **others: Any
) -> dict[str, Any]:
    """What must be the same for a run to be resumed, by the name that a user knows it by.

    Raises:
        ValueError: The data cannot be read, or is to be known again and cannot be.
    """
    path = user_path(data) if isinstance(data, (str, Path)) else None
    try:
        content = table_digest(table)
    except OSError as error:
        raise ValueError(f"{table.name} cannot be read ({reason(error)})") from error
    if resume and content is None:
        raise ValueError(f"{table.name} is a stream that cannot be known again: leave out --resume, or save it first")
    return {
        "data": str(path.resolve()) if path is not None and path.exists() else str(data) if path else table.name,
        "content of the data": content,
        "image column": columns.image,
        "text column": columns.text,
        "model": model_digest(classifier.model, classifier.processor),
        "diptych": __version__,
        **others,
    }


class FileStamps:
    """What tells that none of the image files which some rows name has changed: of each its inode, size and times.

    The time of the last change (ctime) cannot be set back, as that of the last write can; so equal stamps are equal
    contents, and no file is read for it.

    Args:
        folder: Where relative paths start.
    """

    def __init__(self, columns: Columns, folder: Path | None) -> None:
        self.columns, self.folder = columns, folder
        self._found = hashlib.blake2b(digest_size=16)

    def passing(self, rows: Iterator[Any]) -> Iterator[Any]:
        """The rows, each taken in before anything reads its image."""
        for row in rows:
            self.add(row)
            yield row

    def add(self, row: Any) -> None:
        """Take in the file that a row names, or that there is none."""
        stamp: tuple[int, ...] = ()
        with contextlib.suppress(BadImage, OSError, ValueError):
            try:
                stamp = self._stamp(row)
            except OSError:
                stamp = self._stamp(row)  # an error that passes is no change
        self._found.update(repr(stamp).encode())

    def _stamp(self, row: Any) -> tuple[int, ...]:
        held, _ = find_image(None if isinstance(row, UnreadableRow) else self.columns.image_of(row), self.folder)
        if not isinstance(held, Path):
            return ()
        file = held.stat()
        return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns

    def __str__(self) -> str:
        return self._found.hexdigest()


def changed_images(table: Table, columns: Columns, facts: Mapping[int, dict[str, Any]], part_rows: int) -> list[int]:
    """The parts of which an image file has changed since they were written.

    Args:
        table: The rows of all parts.
        facts: What was written of each part that is looked at.
        part_rows: Rows of each part.
    """
    if not names_files(table, columns) or not facts:
        return []
    now = {part: FileStamps(columns, table.folder) for part in facts}
    rows = table.rows.select([columns.image]).only(lambda number: number // part_rows in facts)
    for number, row in enumerate(rows):
        if row is not None:
            now[number // part_rows].add(row)
    return [part for part, stamps in now.items() if facts[part].get("images") != str(stamps)]


def names_files(table: Table, columns: Columns) -> bool:
    """Whether images may be files that a table names; those of the Hub are known by its commit."""
    rows = table.rows
    return columns.image is not None and rows.again and not (isinstance(rows, FetchedRows) and rows.base)


def see_that_data_stays(data: Any, out: str, folder: Path | None) -> None:
    """See that nothing is written over the data, or into it.

    Args:
        out: Where the output goes, as it was given.
        folder: That its parts go to, if any.

    Raises:
        ValueError: It would be.
    """
    if not isinstance(data, (str, Path)):
        return
    target: Path | int = _descriptor(sys.stdout, 1) if out == "-" else user_path(out)
    path = user_path(data).resolve()
    itself = path.exists() and path == user_path(out).resolve()
    if itself or any(same_file(target, source) for source in _sources(data)):
        raise ValueError(f"{out} is the data itself, which would be lost; choose another --out")
    if folder is not None and data != "-" and path in (folder.resolve(), folder.resolve().parent):
        raise ValueError(f"{out} is in the folder of the data, where its parts would be taken for data; choose another")


def _sources(data: str | Path) -> list[Path | int]:
    """The files that data is read from, as far as they are here."""
    if str(data) == "-":
        return [_descriptor(sys.stdin, 0)]
    path = user_path(data)
    if not path.is_dir():
        return [path]
    return [file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix in {*FORMATS, ".arrow"}]


def _descriptor(stream: Any, usual: int) -> int:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something in memory
        return usual if stream is None else -1


def states_of(data: Any) -> dict[Path, tuple[int, int, int]]:
    """Inode, size and time of change of each file that data is read from."""
    if not isinstance(data, (str, Path)) or str(data) == "-":
        return {}
    states = {}
    for path in _sources(data):
        if isinstance(path, Path) and path.is_file():
            found = path.stat()
            states[path] = found.st_ino, found.st_size, found.st_mtime_ns
    return states
