"""A hash of all that a table holds, by which a run that is resumed knows its data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..runtime.files import digest
from ..runtime.seeds import content_id
from .content import NOTHING, words_id
from .dataset_rows import DatasetRows, FetchedRows, PassingRows
from .image_source import BadImage
from .images import image_content, stored_image_id
from .readers import Rows
from .rows import Columns, UnreadableRow, read_text
from .tables import Table

_ROWS = 256
"""Rows that are hashed at a time."""
_UNCHANGED = {
    *("ArrowExamplesIterable", "ExamplesIterable", "FormattedExamplesIterable", "RebatchedArrowExamplesIterable")
}
"""What a stream of `datasets` consists of that gives the rows of its files as they are."""


def table_digest(table: Table) -> str | None:
    """A hash of a table's content: of the bytes of its files, of all its rows, or on the Hub of its commit.

    Images that it names by their paths are not read.

    Returns:
        None if the rows are a stream that nothing else stands for.

    Raises:
        OSError: A file cannot be read.
    """
    rows = table.rows
    while isinstance(rows, (FetchedRows, PassingRows)):
        rows = rows.rows
    if isinstance(rows, DatasetRows):
        return _rows_digest(rows.data)
    if hasattr(rows, "files"):
        return digest(rows.files)
    if not isinstance(rows, Rows):
        return _commit(rows)
    found = hashlib.blake2b(digest_size=16)
    for row in rows:
        for name, value in row.items():
            pixels = np.asarray(value) if hasattr(value, "__array__") or hasattr(value, "getbands") else None
            found.update(repr((name, value if pixels is None else pixels.shape)).encode("utf-8", "backslashreplace"))
            found.update(b"" if pixels is None else pixels.tobytes())
    return found.hexdigest()


def row_digest(row: Any, columns: Columns, folder: Path | None, *, read: bool) -> bytes:
    """A hash of what a row's image and text are, or of why they cannot be used.

    Args:
        folder: Where relative image paths start.
        read: Read an image that is a file; else it is known by what stands for it.
    """
    found = hashlib.blake2b(digest_size=16)
    if isinstance(row, UnreadableRow) or not isinstance(row, Mapping):
        found.update(repr(getattr(row, "reason", row)).encode("utf-8", "backslashreplace"))
        return found.digest()
    image = columns.image_of(row)
    try:
        in_row = image if read or not isinstance(image, (str, Path)) else str(image).encode("utf-8", "backslashreplace")
        parts = (in_row,) if isinstance(in_row, bytes) else image_content(in_row, folder=folder)
    except BadImage as error:
        parts = (str(error).encode("utf-8", "backslashreplace"),)
    for part in (*parts, repr(columns.text_of(row)).encode("utf-8", "backslashreplace")):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def row_ids(row: Any, columns: Columns, folder: Path | None) -> tuple[int, int, int]:
    """Ids of a row's image and text together, of its image and of its text, whatever holds them; `NOTHING` of none.

    Args: as of `row_digest`.
    """
    if isinstance(row, UnreadableRow) or not isinstance(row, Mapping):
        return NOTHING, NOTHING, NOTHING
    image = NOTHING if columns.image is None else stored_image_id(columns.image_of(row), folder=folder)
    text = words_id(read_text(columns.text_of(row))[0])
    return content_id(repr((image, text)).encode()) if image or text else NOTHING, image, text


class _Hash:
    """A file that keeps nothing of what is written but its hash."""

    closed = False

    def __init__(self) -> None:
        self.found = hashlib.blake2b(digest_size=16)

    def write(self, content: Any) -> int:
        self.found.update(content)
        return len(content)

    def flush(self) -> None:
        pass


def _rows_digest(rows: datasets.Dataset) -> str:
    """Of the rows as Arrow has them, always so many at a time, so that it does not depend on how they are stored."""
    sink = _Hash()
    for batch in rows.with_format("arrow").iter(batch_size=_ROWS):
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), batch.schema.remove_metadata()) as writer:
            packed = batch.take(pa.array(range(len(batch))))  # a slice's buffers hold bytes of its neighbours
            writer.write_table(packed.combine_chunks().replace_schema_metadata())
    return sink.found.hexdigest()


def _commit(stream: Any) -> str | None:
    """Where on the Hub, and at which commit, a stream of `datasets` reads its files."""
    source = getattr(stream, "_ex_iterable", None)
    while type(source).__name__ in _UNCHANGED:
        files = re.findall(r"hf://datasets/[^'\"]+@[0-9a-f]{40}/[^'\"]+", repr(getattr(source, "kwargs", None)))
        if files:
            return hashlib.blake2b("\n".join(sorted({*files})).encode(), digest_size=16).hexdigest()
        source = getattr(source, "ex_iterable", None)
    return None
