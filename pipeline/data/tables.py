"""From whatever holds the data to tables of rows, one for each split."""

from __future__ import annotations

import contextlib
import csv
import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.utils.file_utils import xopen

from .csv_jsonl import CsvRows, JsonRows, json_rows, up_to_first_good
from .image_source import ARCHIVES, BadImage
from .parquet import ParquetRows

FORMATS = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
SPLITS |= {"test": "test"}


@dataclass(frozen=True)
class Table:
    """The rows of one split, images undecoded.

    Attributes:
        rows: A `datasets.Dataset`, or any iterable of rows where they are only read once through.
        folder: Where relative image paths start; None for the current directory.
        name: What to call it in messages.
        first: The first row, where the rows themselves don't tell what their columns hold.
    """

    rows: Any
    folder: Path | None
    name: str
    first: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.rows)


def load_tables(data: Any, *, streaming: bool = False) -> dict[str, Table]:
    """Load every split of `data`.

    Args:
        data: A CSV, JSONL or parquet file; a folder of such files named by split; an image folder
            with metadata.csv or .jsonl (or one below it for each split); a dataset saved by
            `datasets`; a Hub id; or a Dataset, a DatasetDict, a DataFrame or a list of rows.
        streaming: Read rows one after another, of data that need not fit anywhere.

    Raises:
        ValueError: It is not there, or cannot be read as a table; the message says what was found.
    """
    if isinstance(data, (str, Path)):
        with _no_progress_bars():
            found = _load_path(data, streaming)
    elif isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        found = {split: Table(rows, None, split) for split, rows in data.items()}
    elif isinstance(data, (datasets.Dataset, datasets.IterableDataset)):
        found = {"train": Table(data, None, "data")}
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):  # a DataFrame, without importing pandas
        found = {"train": _from_rows(data.to_dict("records"))}
    elif isinstance(data, Sequence) and not isinstance(data, (bytes, bytearray)):
        found = {"train": _from_rows(data)}
    else:
        raise ValueError(
            f"a {type(data).__name__} is no data: give a path, a Hub id, a Dataset, a DataFrame or a list of rows"
        )
    return {split: _undecoded(table) for split, table in found.items()}


def _load_path(data: str | Path, streaming: bool) -> dict[str, Table]:
    if "://" in str(data):
        raise ValueError(f"{data} is a URL, which is not followed: download it first")
    path = Path(data).expanduser()
    if path.is_file():
        if path.suffix not in FORMATS:
            hint = "" if path.suffix not in ARCHIVES else "; archives are not opened: unpack it first"
            raise ValueError(f"{data} is no table: give a .csv, .jsonl or .parquet file{hint}")
        return {"train": _read_files([path], str(data), streaming)}
    if not path.exists():
        looks_local = isinstance(data, Path) or str(data).startswith((".", "/", "~")) or path.suffix in FORMATS
        if looks_local or str(data).count("/") > 1:
            raise ValueError(f"{data} does not exist")
        return _load_hub(str(data), streaming)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # an IndexError if it has no rows, and others if it is damaged
            raise ValueError(
                f"{data} cannot be read as a saved dataset, or it has no rows: {_first_line(error)}"
            ) from error
        parts = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        return {split: Table(rows, None, f"{data} {split}") for split, rows in parts.items()}
    return _load_folder(path, streaming)


def _from_rows(rows: Sequence[Any]) -> Table:
    """Rows in memory as a table; a field that a row lacks is null, and so is NaN, which is how pandas writes a gap."""
    if not len(rows):
        raise ValueError("the data is empty: there are no rows in it")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {number} of the data is a {type(row).__name__}: give dicts by column name")
    names = dict.fromkeys(name for row in rows for name in row)
    filled = [{name: None if _is_nan(row.get(name)) else row.get(name) for name in names} for row in rows]
    try:
        return Table(datasets.Dataset.from_list(filled), None, "data")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a column of the data mixes types: {str(error).splitlines()[0]}") from error


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _load_folder(path: Path, streaming: bool) -> dict[str, Table]:
    """A folder of tables: one for each split, by the name of the file or of the folder it is in."""
    files: dict[str, list[Path]] = {}
    for file in sorted(f for pattern in ("*", "*/*") for f in path.glob(pattern) if f.suffix in FORMATS):
        place = file.stem if file.stem != "metadata" else file.parent.name
        split = next(
            (SPLITS[part] for part in (place, place.split("-")[0], file.parent.name) if part in SPLITS), "train"
        )
        files.setdefault(split, []).append(file)
    if not files:
        raise ValueError(
            f"{path} holds no table: there is no .csv, .jsonl or .parquet file in it. An image folder needs a "
            "metadata.csv or metadata.jsonl with the columns file_name, text and label"
        )
    order = [split for split in ("train", "validation", "test") if split in files]
    return {split: _read_files(files[split], f"{path} {split}", streaming) for split in order}


def _read_files(files: list[Path], name: str, streaming: bool) -> Table:
    """Tables of one format in one folder, one after another."""
    if len({file.suffix for file in files}) > 1 or len({file.parent for file in files}) > 1:
        raise ValueError(f"{name}: {', '.join(map(str, files))} belong to one split, but not to one folder and format")
    if all(file.stat().st_size == 0 for file in files):
        raise ValueError(f"{name} is empty: there are no rows in it")
    suffix = files[0].suffix
    folder = files[0].parent.resolve()
    if streaming and suffix != ".parquet":  # by ourselves: one broken line must not end the reading
        rows = CsvRows(files) if suffix == ".csv" else JsonRows(files)
        if not rows.first:
            raise ValueError(f"{name} is empty: there are no rows in it")
        return Table(rows, folder, name, rows.first)
    if streaming:
        return Table(_parquet_rows(files, name), folder, name)
    options: dict[str, Any] = {}
    if suffix == ".csv":  # every cell as it stands: no '007' turned 7, no caption 'None' turned nothing
        options = {"features": _all_text(files[0]), "keep_default_na": False, "na_values": [""]}
    try:
        rows = datasets.load_dataset(
            FORMATS[suffix],
            data_files=[glob.escape(str(f)) for f in files],  # a path with [2024] in it is no pattern
            split="train",
            **options,
        )
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        if "no data" in str(error):
            raise ValueError(f"{name} is empty: there are no rows in it") from error
        cause = error.__cause__ or error
        raise ValueError(f"{name} cannot be read as {suffix[1:]}: {_first_line(cause)}") from error
    return Table(rows, folder, name)


def _parquet_rows(files: list[Path], name: str) -> ParquetRows:
    try:
        rows = ParquetRows([file for file in files if file.stat().st_size])
        if len(rows):
            return rows
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as parquet: {error}") from error
    raise ValueError(f"{name} is empty: there are no rows in it")


def _all_text(file: Path) -> datasets.Features:
    """Every column of a CSV file as text."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            names, first = next(reader, []), next(reader, [])
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from error
    if len(first) > len(names):  # pandas would take the first cells for an index, and shift the others
        raise ValueError(
            f"{file}: the first row has {len(first)} cells for {len(names)} columns; "
            "put double quotes around a text that has a comma in it"
        )
    # pandas gives its own name to a column without one, such as the index that `to_csv` writes
    return datasets.Features({name or f"Unnamed: {i}": datasets.Value("string") for i, name in enumerate(names)})


def _load_hub(name: str, streaming: bool) -> dict[str, Table]:
    try:
        loaded = datasets.load_dataset(name, streaming=streaming)
    except Exception as error:  # the Hub, the network and the builder each have errors of their own
        raise ValueError(
            f"there is no data at {name!r}: no such file or folder here, and the Hub's dataset of that name cannot be "
            f"loaded ({_first_line(error)})"
        ) from error
    return {str(split): Table(rows, None, f"{name} {split}") for split, rows in loaded.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep the bars and the log of `datasets`, which reads small tables in a blink, from the user's eyes."""
    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it has to say is in our own error
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


def _undecoded(table: Table) -> Table:
    """Take images as they are stored: one that cannot be decoded must not end the reading of a table."""
    rows = table.rows
    streaming = isinstance(rows, datasets.IterableDataset)
    if streaming and rows.features is None:
        rows = rows._resolve_features()  # reads the first rows: nothing else tells which columns hold images
    features = getattr(rows, "features", None) or {}
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    for column in images:
        if features[column].decode:
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return replace(table, rows=_HubRows(rows, images) if streaming and images else rows)


class _HubRows:
    """A stream's rows, the images that it keeps as files on the Hub fetched: undecoded, those are but an address."""

    def __init__(self, rows: datasets.IterableDataset, images: Sequence[str]) -> None:
        self.rows, self.images, self.features = rows, images, rows.features

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row in self.only(lambda number: True) if row is not None)

    def only(self, wanted: Callable[[int], bool]) -> Iterator[dict[str, Any] | None]:
        """The rows whose number is wanted; None in the place of each other, of which nothing is fetched."""
        for number, row in enumerate(every_row(self.rows)):
            yield row | {column: _fetched(row[column]) for column in self.images} if wanted(number) else None


def every_row(rows: Iterable[Any]) -> Iterator[Any]:
    """The rows of a table that can be gone through, all of them also in a process of a loader.

    There a stream of `datasets` would give each process some of its shards; batches of one row come undivided.
    """
    if not isinstance(rows, datasets.IterableDataset):
        return iter(rows)
    return ({name: values[0] for name, values in batch.items()} for batch in rows.iter(batch_size=1))


def readable(rows: Iterable[Any], name: str, first: int = 0) -> Iterator[Any]:
    """Rows of a table from number `first`; an error in reading them names it and how far it was read."""
    number = first
    try:
        for row in rows:
            yield row
            number += 1
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except Exception as error:  # of a damaged file in its middle, of the network
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be read past its first {number} rows: {said}") from error


def _fetched(image: Any) -> Any:
    """An image with the bytes of its file on the Hub, or a `BadImage`; any other as it is, whatever its address."""
    path = image.get("path") if isinstance(image, Mapping) and image.get("bytes") is None else None
    if not isinstance(path, str) or not path.split("::")[-1].startswith("hf://datasets/"):
        return image
    try:
        with xopen(path, "rb") as file:
            return {"bytes": file.read(), "path": path}
    except Exception as error:  # of the network, of the Hub, of an archive there
        return BadImage("image_missing", f"{path} cannot be fetched: {_first_line(error)}")


def read_json_lines(file: Iterable[bytes | str]) -> Table:
    """Rows of JSON lines as they come in; a line that is none is an `UnreadableRow`.

    Raises:
        ValueError: There is no line at all.
    """
    first, rows = up_to_first_good(json_rows(file, "standard input"))
    if first is None:
        raise ValueError("standard input is empty: give one JSON object per line, with 'image' and 'text'")
    return Table(rows, None, "standard input", first)
