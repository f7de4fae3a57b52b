"""Parquet files, each row as it stands there, in memory that does not grow with them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.features.features import generate_from_arrow_type

from ..runtime.files import reason
from .dataset_rows import undecoded_feature
from .readers import Rows, require_distinct, scratch_file
from .rows import UnreadableRow
from .text_files import see_what_it_is

_ROWS = 64
"""Rows that are decoded at a time. A file may have all its rows in one group; a group is not read as a whole."""
_BUFFER = 1 << 20


class ParquetRows(Rows):
    """The rows of parquet files, images undecoded; a column that a file lacks is None there.

    One after another they are read in batches; by number from a copy of the columns that are asked for, uncompressed,
    below the folder for temporary files (`$TMPDIR`), of which the system holds in memory what it likes.

    Args:
        files: Those after the first have its columns, and perhaps others, which are left out.

    Attributes:
        features: Of the columns, as `datasets` wrote them or as the types of the first file tell; None of others.

    Raises:
        ValueError: A file is no parquet, or has two columns of one name.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [file for file in files if file.stat().st_size]
        self._schemas = [_schema(file) for file in self.files]
        self.features = _features(self._schemas[0]) if self._schemas else {}
        self._copy: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_copy": None}

    def __len__(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    @property
    def _columns(self) -> list[str]:
        return list(self.features if self._selected is None else self._selected)

    def _require_types(self) -> None:
        for name in self._columns:
            types = [(file, schema.field(name).type) for file, schema in zip(self.files, self._schemas, strict=True)
                     if name in schema.names and not pa.types.is_null(schema.field(name).type)]  # fmt: skip
            for file, kind in types[1:]:
                if kind != types[0][1] and not all(map(_is_number, (kind, types[0][1]))):
                    raise ValueError(
                        f"{file}: {name!r} is {kind}, and {types[0][1]} in {types[0][0]}; give both one type"
                    )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        self._require_types()
        for path, schema in zip(self.files, self._schemas, strict=True):
            columns, number = [name for name in self._columns if name in schema.names], 0
            try:
                with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
                    for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                        yield batch
                        number += len(batch)
            except (pa.ArrowException, OSError) as error:  # of a page that is damaged
                raise ValueError(f"{path} cannot be read past its first {number} rows: {reason(error)}") from error

    def only(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Any]:
        """As of `Rows`."""
        number = 0
        for batch in self._batches():
            chosen = [wanted is None or wanted(number + index) for index in range(len(batch))]
            rows = iter(
                self._rows(batch if all(chosen) else batch.filter(pa.array(chosen)), number) if any(chosen) else ()
            )
            number += len(batch)
            yield from rows if all(chosen) else (next(rows) if here else None for here in chosen)

    def __getitem__(self, number: int) -> Any:
        if self._copy is None:
            self._copy = self._copied()
        file, starts = self._copy
        if not 0 <= number < starts[-1]:
            raise IndexError(number)
        which = bisect_right(starts, number) - 1
        return self._rows(file.get_batch(which).slice(number - starts[which], 1), number)[0]

    def _copied(self) -> tuple[Any, list[int]]:
        """A copy that can be read from any place, and the number of the first row of each of its batches."""
        path, starts = scratch_file(self), [0]
        schema = pa.schema([next(s for s in self._schemas if n in s.names).field(n) for n in self._columns])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in self._batches():
                arrays = [
                    batch.column(field.name).cast(field.type)
                    if field.name in batch.schema.names
                    else pa.nulls(len(batch), field.type)
                    for field in schema
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                starts.append(starts[-1] + len(batch))
        return pa.ipc.open_file(pa.memory_map(str(path))), starts

    def _rows(self, batch: pa.RecordBatch, first: int) -> list[Any]:
        """Rows as Python has them; bytes that are no UTF-8 become lone surrogates, so that one bad cell is bad."""
        absent = dict.fromkeys(self._columns)
        if not batch.num_columns:
            return [dict(absent) for _ in range(len(batch))]
        try:
            rows: list[Any] = batch.to_pylist()
            return rows if batch.schema.names == list(absent) else [absent | row for row in rows]
        except UnicodeDecodeError:
            if len(batch) > 1:
                return [self._rows(batch.slice(index, 1), first + index)[0] for index in range(len(batch))]
        row = absent
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row |= {name: column[0].as_py()}
            except UnicodeDecodeError as error:
                if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                    return [UnreadableRow(f"row {first} has text in {name!r} that is no UTF-8: {error.reason}")]
                row |= {name: column.cast(pa.large_binary())[0].as_py().decode("utf-8", "surrogateescape")}
        return [row]


def _is_number(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _schema(file: Path) -> pa.Schema:
    try:
        with file.open("rb") as start:
            see_what_it_is(file, start.read(200))
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet: {reason(error)}") from error
    require_distinct(schema.names, str(file))
    return schema


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What each column is to `datasets`, undecoded; None of a type that it does not know, such as a map."""
    try:
        features: dict[str, Any] = dict(datasets.Features.from_arrow_schema(schema))
    except Exception:  # of each type and of metadata of another version it has errors of its own
        features = {}
        for field in schema:
            try:
                features[field.name] = generate_from_arrow_type(field.type)
            except Exception:
                features[field.name] = None
    return {name: undecoded_feature(features.get(name)) for name in schema.names}
