"""Rows of the package `datasets`, streams, and repositories of the Hub; images stay undecoded."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import datasets
from datasets.utils.file_utils import xopen

from ..runtime.files import reason
from .image_source import BadImage
from .readers import Rows, plain
from .rows import UnreadableRow

_CHUNK = 64
_LONGEST = 1000
"""Characters of a path: what is longer is none."""
_ADDRESS = re.compile(r"[/\\~]|[a-z][a-z0-9+.-]*:", re.IGNORECASE)
"""How a path begins that is not relative."""


class DatasetRows(Rows):
    """The rows of a `datasets.Dataset`, whatever its format is set to; images, sounds and films stay undecoded.

    Raises:
        ValueError: The dataset has a transform of its own.
    """

    def __init__(self, data: datasets.Dataset) -> None:
        if data.format["type"] == "custom":
            raise ValueError(
                "the dataset has a transform of its own, which is not applied: apply it with map(), or take it off "
                "with reset_format()"
            )
        self.data = undecoded(data.with_format(None))
        self.features = dict(self.data.features)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> Any:
        return self.data[number]

    def only(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Any]:
        """As of `Rows`."""
        for start in range(0, len(self), _CHUNK):
            numbers = range(start, min(start + _CHUNK, len(self)))
            chosen = [number for number in numbers if wanted is None or wanted(number)]
            batch = self.data[chosen] if chosen else {}
            rows = {number: {name: batch[name][i] for name in batch} for i, number in enumerate(chosen)}
            yield from map(rows.get, numbers)

    def values(self, name: str) -> Iterator[Any]:
        """As of `Rows`."""
        return iter(self.data[name]) if name in self.features else super().values(name)

    def select(self, names: Iterable[str]) -> Rows:
        """As of `Rows`."""
        some = super().select(names)
        if isinstance(some, DatasetRows) and some._selected:
            some.data = self.data.select_columns(list(some._selected))
            some.features = dict(some.data.features)
        return some


class PassingRows(Rows):
    """Rows that only pass by: of an `IterableDataset`, a generator, standard input.

    Args:
        rows: An iterable; an iterator can be read once.
        name: What to call it in messages.

    Raises:
        ValueError: There is no row.
    """

    by_number = False

    def __init__(self, rows: Any, name: str) -> None:
        self.again = not isinstance(rows, Iterator)
        if isinstance(rows, datasets.IterableDataset):
            rows = rows.with_format(None)
            # reads the first rows: nothing else tells which columns hold images
            rows = undecoded(rows if rows.features is not None else rows._resolve_features())
            self.features = dict(rows.features or {})
        self.rows = rows
        if self.features:
            return
        passing = map(plain, rows)
        self._ahead = []
        for row in passing:  # no more than need be: who sends the next row may wait for an answer
            self._ahead.append(row)
            if not isinstance(row, UnreadableRow):
                break
        if not self._ahead:
            raise ValueError(f"{name} is empty: there are no rows in it")
        if not self.again:
            self.rows = chain(self._ahead, passing)

    def peek(self, most: int) -> list[Any]:
        """The first rows, at most so many, of those that can be read once; they are held and come again."""
        passing = iter(self.rows)
        first = list(map(plain, islice(passing, most)))
        self.rows = chain(first, passing)
        return first

    def only(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Any]:
        """As of `Rows`."""
        rows: Iterator[Any] = map(plain, self.rows)
        if isinstance(self.rows, datasets.IterableDataset):
            # in a process of a loader a stream gives some of its shards; batches of one row come undivided
            rows = ({n: values[0] for n, values in batch.items()} for batch in self.rows.iter(batch_size=1))
        return rows if wanted is None else (row if wanted(number) else None for number, row in enumerate(rows))

    def select(self, names: Iterable[str]) -> Rows:
        """As of `Rows`."""
        some = super().select(names)
        if isinstance(some, PassingRows):
            some._ahead = self._ahead
            if isinstance(self.rows, datasets.IterableDataset) and some._selected:
                some.rows = self.rows.select_columns(list(some._selected))
                some.features = {name: self.features[name] for name in some._selected}
        return some


class FetchedRows(Rows):
    """Rows whose images may lie as files in a repository of the Hub: those are fetched when a row is read.

    Args:
        rows: The rows, with addresses in place of images.
        images: Columns of images, each with what its relative paths begin and end with, `hf://datasets/NAME/` and
            `.jpg`; those that are declared as images, and have whole addresses, if not given.
        base: The address of the repository, if relative paths are of files there.
    """

    def __init__(self, rows: Rows, images: Mapping[str, tuple[str, str]] | None = None, *, base: str = "") -> None:
        declared = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        self.rows, self.base = rows, base
        self._images = dict.fromkeys(declared, (base, "")) if images is None else images
        self.features, self.again, self.by_number = rows.features, rows.again, rows.by_number

    def fetching(self, image: str, folder: str = "", suffix: str = "") -> FetchedRows:
        """The same rows, the relative paths of a column fetched as well, from a folder of the repository."""
        start = "/".join(part for part in (self.base, folder.strip("/")) if part)
        return FetchedRows(self.rows, {**self._images, image: (start, suffix)}, base=self.base)

    @property
    def ahead(self) -> list[Any]:
        """As of `Rows`, nothing fetched."""
        return self.rows.ahead

    def __len__(self) -> int:
        return len(self.rows)

    def size(self) -> int | None:
        """As of `Rows`."""
        return self.rows.size()

    def __getitem__(self, number: int) -> Any:
        return self._whole(self.rows[number])

    def only(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Any]:
        """As of `Rows`."""
        return (row if row is None else self._whole(row) for row in self.rows.only(wanted))

    def select(self, names: Iterable[str]) -> Rows:
        """As of `Rows`."""
        names = list(names)
        images = {name: how for name, how in self._images.items() if name in names}
        return FetchedRows(self.rows.select(names), images, base=self.base)

    def _whole(self, row: Any) -> Any:
        if isinstance(row, UnreadableRow):
            return row
        return row | {name: _fetched(row.get(name), *how) for name, how in self._images.items()}


def _fetched(image: Any, base: str, suffix: str) -> Any:
    """An image with the bytes of its file on the Hub, or a `BadImage`; any other as it is, whatever its address."""
    path = image.get("path") if isinstance(image, Mapping) and image.get("bytes") is None else image
    path = str(path) if isinstance(path, int) and not isinstance(path, bool) else path
    if base and isinstance(path, str) and len(path) < _LONGEST and (name := path.strip()) and not _ADDRESS.match(name):
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        path = f"{base}/{'/'.join(parts)}{suffix}"
    if not isinstance(path, str) or not path.split("::")[-1].startswith("hf://datasets/"):
        return image
    try:
        with xopen(path, "rb") as file:
            return {"bytes": file.read(), "path": path}
    except Exception as error:  # of the network, of the Hub, of an archive there
        return BadImage("image_missing", f"{path} cannot be fetched: {reason(error)}")


def undecoded(data: Any) -> Any:
    """A dataset that gives images and sounds as they are stored: one that is damaged must not end the reading."""
    for name, feature in (data.features or {}).items():
        stored = undecoded_feature(feature)
        if stored is not feature:
            data = data.cast_column(name, stored)
    return data


def undecoded_feature(feature: Any) -> Any:
    """The feature as it is stored, nothing in it decoded."""
    if getattr(feature, "decode", False) is True:
        feature = copy.copy(feature)
        feature.decode = False
    elif isinstance(feature, (datasets.List, datasets.LargeList)):
        inner = undecoded_feature(feature.feature)
        if inner is not feature.feature:
            feature = copy.copy(feature)
            feature.feature = inner
    elif isinstance(feature, dict):
        inner = {name: undecoded_feature(one) for name, one in feature.items()}
        if any(inner[name] is not feature[name] for name in inner):
            feature = inner
    return feature
