"""Parquet files read one row after another, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

_ROWS = 64
"""Rows that are decoded at a time. A file may have all its rows in one group; a group is not read as a whole."""
_BUFFER = 1 << 20


class ParquetRows:
    """The rows of parquet files, one after another, images undecoded; a column that a file lacks is None there.

    Args:
        files: Those after the first have its columns, and perhaps others, which are left out.

    Attributes:
        features: Of the columns, as `datasets` wrote them or as the types of the first file tell.

    Raises:
        ValueError: A file is no parquet, or has a column of another type than the first.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        schemas = [self._schema(file) for file in files]
        features = datasets.Features.from_arrow_schema(schemas[0])
        undecoded = datasets.Image(decode=False)
        self.features = {
            name: undecoded if isinstance(kind, datasets.Image) else kind for name, kind in features.items()
        }
        for file, schema in zip(files, schemas, strict=True):
            for field in schema:
                first = schemas[0].field(field.name).type if field.name in features else field.type
                if field.type != first and not pa.types.is_null(field.type):
                    raise ValueError(
                        f"{file}: {field.name!r} is {field.type}, and {first} in {files[0]}; give both one type"
                    )

    def __len__(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row in self.only(lambda number: True) if row is not None)

    def only(self, wanted: Callable[[int], bool]) -> Iterator[dict[str, Any] | None]:
        """The rows whose number is wanted; None, for a fraction of the time, in the place of each other."""
        absent, number = dict.fromkeys(self.features), 0
        for path in self.files:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
                columns = [name for name in self.features if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                    chosen = [wanted(number + index) for index in range(len(batch))]
                    number += len(batch)
                    rows = iter(batch.filter(pa.array(chosen)).to_pylist() if any(chosen) else ())
                    yield from (absent | next(rows) if here else None for here in chosen)

    @staticmethod
    def _schema(file: Path) -> pa.Schema:
        try:
            return pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(str(error).strip().splitlines()[0]) from error
