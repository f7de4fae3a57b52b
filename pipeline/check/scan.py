"""What a check keeps of every row: a few numbers and two hashes, so that a table of any length fits."""

from __future__ import annotations

import os
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from ..data.labels import labels_in, one_label
from ..data.read import has_column, narrow
from ..data.rows import Columns, read_pair
from ..data.tables import Table

NOT_BAD = ("ok", "text_truncated")
"""Statuses of rows of which both halves are used."""
NO_LABEL, ODD_LABEL = -1, -2
"""What stands for the class of a row that has none, or something that is no label, such as a list."""
KEPT_BAD_ROWS = 1000
"""Bad rows of a split that stay in memory; a file takes all."""
_CHUNK = 8
_THREADS = min(8, os.cpu_count() or 1)

BadRowFound = Callable[[int, str, str], None]
"""Takes a row's number, status and reason."""
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Facts:
    """What is kept of a split, its rows in order.

    Hashes have 64 bits: among ten million rows the chance that any two different ones meet is
    about one in 400,000.

    Attributes:
        images: Hash of the decoded pixels of each row's image, 0 where it has none.
        texts: Hash of each row's text, letter case and blanks aside, 0 where it has none.
        sizes: Width and height of each image in pixels, upright, (rows, 2).
        lengths: Words or tokens of each text.
        labels: Index of each row's class in the vocabulary, or `NO_LABEL` or `ODD_LABEL`.
        statuses: Rows by status.
        cut_short: Image files that end too early.
        bad_rows: The first rows of which a half cannot be used: number, status, reason.
        absent: Columns that the split lacks.
    """

    images: np.ndarray
    texts: np.ndarray
    sizes: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    statuses: Mapping[str, int] = field(default_factory=dict)
    cut_short: int = 0
    bad_rows: Sequence[tuple[int, str, str]] = ()
    absent: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def pairs(self) -> np.ndarray:
        """A hash of each row's image and text together, 0 where a half is missing."""
        mixed = self.images * np.uint64(0x9E3779B97F4A7C15) + self.texts  # wraps around, as a hash may
        return np.where((self.images != 0) & (self.texts != 0), mixed, np.uint64(0))


def read_facts(
    table: Table,
    columns: Columns,
    vocabulary: dict[Any, int],
    *,
    on_bad_row: BadRowFound,
    multi_label: bool = False,
    count_tokens: CountTokens | None = None,
    progress: Callable[[Iterable[_Seen]], Iterable[_Seen]] = iter,
) -> Facts:
    """Read every row of a table once.

    Args:
        table: Its rows are read in their order, and no more than a few dozen are held.
        columns: Which columns to read.
        vocabulary: Class indices by label; grows by the labels that are new.
        on_bad_row: Told of every row of which a half cannot be used.
        multi_label: Whether labels are lists.
        count_tokens: Lengths of texts in tokens; without it they are counted in words.
        progress: Wraps the rows, to show how far it is.
    """
    rows = narrow(table, columns).rows
    absent = [name for name in (columns.image, columns.text, columns.label) if name and not has_column(table, name)]
    feature = table.features.get(str(columns.label))
    images, texts, labels, lengths, sizes = array("Q"), array("Q"), array("q"), array("Q"), array("Q")
    statuses: Counter[str] = Counter()
    cut_short = 0
    bad_rows: list[tuple[int, str, str]] = []
    with closing(_look_at_all(rows, columns, table)) as found:
        for seen in progress(found):
            images.append(seen.image)
            texts.append(seen.text)
            sizes.extend(seen.size)
            lengths.append(_length(seen.words, count_tokens))
            labels.append(label_code(seen.label, feature, vocabulary, multi_label=multi_label))
            statuses[seen.status] += 1
            if seen.status not in NOT_BAD:
                on_bad_row(seen.row, seen.status, seen.reason)
                cut_short += "truncated" in seen.reason  # as Pillow calls it
                if len(bad_rows) < KEPT_BAD_ROWS:
                    bad_rows.append((seen.row, seen.status, seen.reason))
    return Facts(
        images=np.asarray(images),
        texts=np.asarray(texts),
        sizes=np.asarray(sizes).reshape(-1, 2),
        lengths=np.asarray(lengths),
        labels=np.asarray(labels),
        statuses=dict(statuses.most_common()),
        cut_short=cut_short,
        bad_rows=bad_rows,
        absent=absent,
    )


def joined(parts: Iterable[Facts]) -> Facts:
    """Several splits as one."""
    parts = list(parts)
    statuses: Counter[str] = Counter()
    for part in parts:
        statuses.update(part.statuses)

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Facts(
        images=all_of("images"),
        texts=all_of("texts"),
        sizes=all_of("sizes"),
        lengths=all_of("lengths"),
        labels=all_of("labels"),
        statuses=dict(statuses.most_common()),
        cut_short=sum(part.cut_short for part in parts),
    )


def label_code(value: Any, feature: Any, vocabulary: dict[Any, int], *, multi_label: bool = False) -> int:
    """Index of the label that `value` holds, read as training reads it; of a list of labels as one, a sorted tuple."""
    if multi_label:
        if value is None or value == "":
            return NO_LABEL
        try:
            return vocabulary.setdefault(tuple(sorted(labels_in(value, feature))), len(vocabulary))
        except ValueError:
            return ODD_LABEL
    try:
        return vocabulary.setdefault(one_label(value, feature), len(vocabulary))
    except ValueError as error:
        return NO_LABEL if str(error) == "no label" else ODD_LABEL


def text_hash(text: str | None) -> int:
    """The same for texts that differ in letter case and blanks only; 0 for none."""
    return 0 if text is None else _hash(" ".join(text.casefold().split()).encode())


@dataclass(frozen=True)
class _Seen:
    """One row, when its image has been let go."""

    row: int
    status: str
    reason: str
    image: int
    size: tuple[int, int]
    text: int
    words: str | None
    label: Any


def _look_at_all(rows: Iterable[Mapping[str, Any]], columns: Columns, table: Table) -> Generator[_Seen, None, None]:
    """Every row in order, read by threads.

    Threads, as reading files, decoding photos and hashing all run outside Python's lock, and no
    image has to be sent anywhere; and a thread holds one image at a time, so that memory is
    bounded. Very small pictures gain nothing, at half a millisecond each.
    """

    def look(chunk: list[tuple[int, Mapping[str, Any]]]) -> list[_Seen]:
        return [_look(number, row, columns, table) for number, row in chunk]

    numbered = enumerate(rows)
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[list[_Seen]]] = deque()
        while chunk := list(islice(numbered, _CHUNK)):
            waiting.append(pool.submit(look, chunk))
            if len(waiting) > 2 * _THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _look(number: int, row: Mapping[str, Any], columns: Columns, table: Table) -> _Seen:
    pair = read_pair(number, row, columns, table.folder)
    image, size = 0, (0, 0)
    if pair.image is not None:
        size = pair.image.size
        image = _hash(b"%dx%d" % size, pair.image.tobytes())
    label = columns.label_of(row)
    return _Seen(number, pair.status, pair.reason, image, size, text_hash(pair.text), pair.text, label)


def _length(text: str | None, count_tokens: CountTokens | None) -> int:
    if text is None:
        return 0
    return len(text.split()) if count_tokens is None else count_tokens(text)


def _hash(*parts: bytes) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little") or 1  # 0 stands for nothing
