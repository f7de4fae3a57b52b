"""From whatever holds the data to tables of rows, one for each split; nothing is decoded."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from ..runtime.files import entries_below, reason, user_path
from .csv_rows import CsvRows
from .dataset_rows import DatasetRows, FetchedRows, PassingRows
from .image_source import ARCHIVES, IMAGE_SUFFIXES
from .json_rows import json_rows, read_json, read_object
from .options import OptionNeeded
from .parquet import ParquetRows
from .readers import FrameRows, ListRows, Rows
from .splits import SPLITS, by_split, split_of
from .text_files import read_whole

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_NEEDS = (
    "holds no table: there is no .csv, .jsonl or .parquet file in it. An image folder needs a metadata.csv or "
    "metadata.jsonl with the columns file_name, text and label, or a folder for each class and, beside each image, "
    "its text in a .txt file of the same name"
)


@dataclass(frozen=True)
class Table:
    """The rows of one split, images undecoded.

    Attributes:
        rows: `Rows`; a list becomes them. Rows of another kind are only gone through, or asked for by number.
        folder: Where relative image paths start; None for the current directory.
        name: What to call it in messages.
        root: The folder that was given, in which images may lie as well.
    """

    rows: Any
    folder: Path | None
    name: str
    root: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rows, (list, tuple)):
            object.__setattr__(self, "rows", ListRows(self.rows))
        elif isinstance(self.rows, datasets.Dataset):
            object.__setattr__(self, "rows", DatasetRows(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> Mapping[str, Any]:
        """Types of the columns as `datasets` has them, where the source tells them."""
        return getattr(self.rows, "features", {})

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self.rows.names)


def load_tables(
    data: Any,
    *,
    streaming: bool = False,
    config: str | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Table]:
    """Load every split of `data`.

    Args:
        data: A CSV, JSON or parquet file; a folder of such files named by split; an image folder with metadata, or
            with a folder for each class and a text beside each image (or such folders in one for each split); a
            dataset saved by `datasets`; a Hub id; or a Dataset, a DatasetDict, a DataFrame or rows.
        streaming: Take rows one after another, where else all would be held or downloaded: of a Hub id or a generator.
        say: What to do with each line that says how the data is read, where that does not go without saying.

    Raises:
        ValueError: It is not there, or cannot be read as a table; the message says what was found.
    """
    if isinstance(data, (str, Path)):
        with _no_progress_bars():
            return _load_path(data, streaming, config, revision, say)
    if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return _of_splits(data, "", say)
    if isinstance(data, (datasets.Dataset, datasets.IterableDataset)):
        return {"train": Table(_rows_of(data, "data"), None, "data")}
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # a DataFrame, of pandas or polars, importing neither
        rows: Rows = FrameRows(data)
    elif isinstance(data, Iterator) and streaming:
        rows = PassingRows(data, "the data")
    elif isinstance(data, Iterable) and not isinstance(data, (bytes, bytearray, Mapping)):
        rows = ListRows(data if isinstance(data, Sequence) else list(data))
    else:
        raise ValueError(f"a {type(data).__name__} is no data: give a path, a Hub id, a Dataset, a DataFrame or rows")
    if rows.size() == 0:
        raise ValueError("the data is empty: there are no rows in it")
    return {"train": Table(rows, None, "data")}


def read_json_lines(file: Iterable[bytes | str]) -> Table:
    """Rows of JSON lines as they come in; a line that is none is an `UnreadableRow`.

    Raises:
        ValueError: There is no line at all.
    """
    try:
        return Table(PassingRows(json_rows(file, "standard input"), "standard input"), None, "standard input")
    except ValueError:
        raise ValueError("standard input is empty: give one JSON object per line, with 'image' and 'text'") from None


def _load_path(
    data: str | Path, streaming: bool, config: str | None, revision: str | None, say: Callable[[str], None]
) -> dict[str, Table]:
    if "://" in str(data):
        raise ValueError(f"{data} is a URL, which is not followed: download it first")
    path = user_path(data)
    if str(data) == "-":
        raise ValueError("- is standard input, which is read by classify alone: give a file or a folder")
    local = path.exists() or isinstance(data, Path) or str(data).startswith((".", "/", "~")) or str(data).count("/") > 1
    if not local and path.suffix.lower() not in FORMATS:
        return _load_hub(str(data), streaming, config, revision, say)
    if not path.exists():
        raise ValueError(f"{data} does not exist")
    if config is not None or revision is not None:
        raise ValueError(f"--config and --revision are for datasets of the Hub, and {data} is a file or folder here")
    if path.is_file():
        if path.suffix.lower() in FORMATS:
            return {"train": _of_files([path], str(data), say)}
        raise _no_table(path, str(data))
    if not path.is_dir():
        raise ValueError(f"{data} is neither a file nor a folder: write the rows to a file first")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # an IndexError if it has no rows, and others if it is damaged
            raise ValueError(f"{data} cannot be read as a saved dataset, or it has no rows: {reason(error)}") from error
        return _of_splits(saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}, f"{data} ", say)
    return _load_folder(path, say)


def _no_table(path: Path, data: str) -> ValueError:
    reason = f"{data} is no table: give a .csv, .jsonl or .parquet file"
    if path.suffix.lower() not in ARCHIVES:
        return ValueError(reason)
    reason += "; archives are not opened: unpack it first"
    if path.suffix != ".tar":
        return ValueError(reason)
    folder, quoted = str(path.with_suffix("")), shlex.quote(str(path.with_suffix("")))
    first = f"mkdir {quoted} && tar xf {shlex.quote(str(path))} -C {quoted}"
    return OptionNeeded(reason, first=first, instead={data: folder})


def _of_splits(parts: Mapping[Any, Any], name: str, say: Callable[[str], None]) -> dict[str, Table]:
    """Splits of `datasets` under their usual names, and a line if these are others."""
    if not parts:
        raise ValueError(f"{name or 'the data '}has no splits: it is an empty DatasetDict")
    found = by_split(parts)
    if set(found) != {str(key) for key in parts}:
        names = by_split({key: str(key) for key in parts})
        say(f"splits: {'; '.join(f'{split} from {name}' for split, name in names.items())}")
    return {split: Table(_rows_of(part, f"{name}{split}"), None, f"{name}{split}") for split, part in found.items()}


def _rows_of(data: Any, name: str) -> Rows:
    return DatasetRows(data) if isinstance(data, datasets.Dataset) else FetchedRows(PassingRows(data, name))


def _load_folder(path: Path, say: Callable[[str], None]) -> dict[str, Table]:
    """A folder of tables: one for each split, by the name of the file or of the folder it is in."""
    entries = _entries(path, say, depth=2)
    images = {entry.with_suffix("") for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES}
    inside = [file for file in entries if file.suffix.lower() in FORMATS]
    inside = [file for file in inside if file.suffix.lower() != ".json" or file.with_suffix("") not in images]
    files = sorted(file for file in inside if file.is_file() and not _is_hidden(file, path))
    files = [file for file in files if file.suffix.lower() != ".json"] or files  # beside tables they say other things
    if not files:
        return _image_folder(path, say)
    parts: dict[str, list[Path]] = {}
    for file in files:
        split = split_of(file.stem) or (split_of(file.parent.name) if file.parent != path else None)
        parts.setdefault(split or "", []).append(file)
    others, predictions = parts.pop("", []), list[Path]()
    for split, found in parts.items():
        own = found if len({*map(_series, found)}) < 2 else [file for file in found if not _holds_predictions(file)]
        predictions += (file for file in found if own and file not in own)
        parts[split] = own or found
    if not parts:  # one table, in one file or in numbered ones
        stems = {*map(_series, others)}
        if len(stems) > 1:
            raise ValueError(
                f"{path} holds several tables, of which no name says a split: {_listed(others, path)}; give one of "
                "them, or name them train and validation"
            )
        parts, others = {"train": others}, []
    shown = "; ".join(f"{split} from {_listed(parts[split], path)}" for split in SPLITS if split in parts)
    say(f"splits: {shown}")
    if others:
        say(f"left out, as no name says a split: {_listed(others, path)}")
    if predictions:
        say(f"left out, as they hold predictions: {_listed(predictions, path)}")
    hidden = sorted(file for file in inside if _is_hidden(file, path))
    if hidden:
        say(f"left out, as they are hidden: {_listed(hidden, path)}")
    tables = {split: _of_files(parts[split], f"{path} {split}", say) for split in SPLITS if split in parts}
    return {split: replace(table, root=path.resolve()) for split, table in tables.items()}


def _entries(path: Path, say: Callable[[str], None], depth: int | None = None) -> list[Path]:
    """What is in a folder and below it; a line for each folder below that cannot be listed, such as lost+found."""

    def closed(folder: Path, error: OSError) -> None:
        if (depth or folder.parent != path) and not _is_hidden(folder, path):  # of those at the top it has been said
            say(f"left out, as it cannot be read ({reason(error)}): {folder.relative_to(path)}")

    try:
        return list(entries_below(path, closed, depth=depth))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)})") from error


def _series(file: Path) -> tuple[str, Path, str]:
    """What files of one numbered series have in common."""
    return re.sub("[0-9]+", "", file.stem), file.parent, file.suffix


def _holds_predictions(file: Path) -> bool:
    """Whether a table is what `diptych classify` has written, in which `label` is no truth."""
    try:
        names = _of_files([file], str(file), lambda line: None).names
    except ValueError:  # it will be said when it is read
        return False
    ours = {"image_contribution", "image_weight"}  # the second of versions before 0.4
    return {"status", "reason", "label", "scores"} <= {*names} and not ours.isdisjoint(names)


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file, or a folder that it is in, is one that people do not see, such as a copy that an editor keeps."""
    return any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)


def _listed(files: Sequence[Path], folder: Path) -> str:
    names = [str(file.relative_to(folder)) for file in files]
    return ", ".join(names if len(names) < 6 else [*names[:4], f"and {len(names) - 4} more"])


def _image_folder(path: Path, say: Callable[[str], None]) -> dict[str, Table]:
    """Images in a folder for each class, with a text beside each: one table for each split, its texts held in memory.

    Beside `a.jpg` may stand its text in `a.txt`, its class in `a.cls`, and any fields in `a.json`.
    """
    below = _entries(path, say)
    images = sorted(f for f in below if f.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(f, path))
    parts: dict[str, list[dict[str, Any]]] = {}
    for image in images:
        inner = list(image.relative_to(path).parts[:-1])
        splits = [part for part in inner if split_of(part)]
        classes = [part for part in inner if not split_of(part)]
        row: dict[str, Any] = {"image": str(image.relative_to(path))}
        if classes:
            row["label"] = classes[-1]
        for suffix, name in ((".txt", "text"), (".caption", "text"), (".cls", "label")):
            if (beside := image.with_suffix(suffix)).is_file():
                row[name] = read_whole(beside)
        if (beside := image.with_suffix(".json")).is_file():
            row = {**read_object(beside), **row}
        parts.setdefault(str(split_of(splits[-1])) if splits else "train", []).append(row)
    if not any("text" in row or len(row) > 2 for rows in parts.values() for row in rows):
        raise ValueError(f"{path} {_NEEDS}")
    say(f"splits: {'; '.join(f'{split} from {len(rows):,} images' for split, rows in by_split(parts).items())}")
    return {split: Table(rows, path.resolve(), f"{path} {split}") for split, rows in by_split(parts).items()}


def _of_files(files: list[Path], name: str, say: Callable[[str], None]) -> Table:
    """Tables of one format in one folder, one after another."""
    if len({file.suffix for file in files}) > 1 or len({file.parent for file in files}) > 1:
        raise ValueError(f"{name}: {', '.join(map(str, files))} belong to one split, but not to one folder and format")
    suffix = files[0].suffix.lower()
    rows: Rows = ListRows([])
    files = [file for file in files if file.stat().st_size]
    try:
        if files and suffix == ".parquet":
            rows = ParquetRows(files)
        elif files:
            rows = CsvRows(files) if suffix in (".csv", ".tsv") else read_json(files)
    except (OSError, ValueError) as error:
        named = str(files[0].parent) in str(error)
        raise ValueError(f"{'' if named else f'{name} cannot be read as {suffix[1:]}: '}{reason(error)}") from error
    if rows.size() == 0 if isinstance(rows, ParquetRows) else not rows.ahead:
        raise ValueError(f"{name} is empty: there are no rows in it")
    for remark in getattr(rows, "remarks", ()):
        say(remark)
    return Table(rows, files[0].parent.resolve(), name)


def _load_hub(
    name: str, streaming: bool, config: str | None, revision: str | None, say: Callable[[str], None]
) -> dict[str, Table]:
    options = {key: value for key, value in (("name", config), ("revision", revision)) if value is not None}
    try:
        loaded = datasets.load_dataset(name, streaming=streaming, **options)
    except Exception as error:  # the Hub, the network and the builder each have errors of their own
        raise ValueError(
            f"there is no data at {name!r}: no such file or folder here, and the Hub's dataset of that name cannot be "
            f"loaded ({reason(error)})"
        ) from error
    base = f"hf://datasets/{name}{f'@{revision}' if revision else ''}"
    tables = _of_splits(loaded, f"{name} ", say)
    return {split: replace(table, rows=FetchedRows(table.rows, base=base)) for split, table in tables.items()}


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


def readable(rows: Iterable[Any], name: str, first: int = 0) -> Iterator[Any]:
    """Rows of a table from number `first`; an error in reading them names it and how far it was read."""
    number = first
    try:
        for row in rows:
            yield row
            number += 1
    except Exception as error:  # of a damaged file in its middle, of the network
        raise ValueError(f"{name} cannot be read past its first {number} rows: {reason(error)}") from error
