"""What a run of classification is of, so that no other is resumed with it, and that its output is not its input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..data.digest import table_digest
from ..data.rows import Columns
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


def see_that_data_stays(data: Any, out: str, folder: Path | None) -> None:
    """See that nothing is written over the data, or into it.

    Args:
        data: As it was given.
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
