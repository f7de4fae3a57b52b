"""What a check keeps of every row: a few numbers and two hashes, so that a table of any length fits."""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..data.content import image_id, words_id
from ..data.labels import labels_in, one_label
from ..data.read import narrow
from ..data.rows import STATUSES, Columns, not_tokenized, read_pair, with_problem
from ..data.tables import Table

NOT_BAD = ("ok", "text_truncated")
"""Statuses of rows of which both halves are used."""
NO_LABEL, ODD_LABEL = -1, -2
"""What stands for the class of a row that has none, or something that is no label, such as a list."""
_KEPT = {"image": "Q", "text": "Q", "width": "I", "height": "I", "length": "I", "label": "i", "status": "B", "cut": "B"}
_STATUSES = {status: code for code, status in enumerate(STATUSES)}
_CHUNK = 8
_THREADS = min(8, os.cpu_count() or 1)

BadRowFound = Callable[[int, str, str], None]
"""Takes a row's number, status and reason."""
CountTokens = Callable[[str], int]


def scan(
    table: Table,
    columns: Columns,
    vocabulary: dict[Any, int],
    *,
    on_bad_row: BadRowFound,
    multi_label: bool = False,
    count_tokens: CountTokens | None = None,
    progress: Callable[[Iterable[_Seen]], Iterable[_Seen]] = iter,
) -> pd.DataFrame:
    """Read every row of a table once, and keep 34 bytes of it.

    Ids have 63 bits: among ten million rows the chance that any two different ones meet is about one in 200,000.

    Args:
        table: Its rows are read in their order, and no more than a few dozen are held.
        vocabulary: Class indices by label; grows by the labels that are new.
        on_bad_row: Called with every row of which a half cannot be used.
        count_tokens: Lengths of texts in tokens; without it they are counted in words.
        progress: Wraps the rows, to show how far it is.

    Returns:
        A row for each row, in order: `image` and `text`, ids of its upright pixels and of its words (0 where there is
        none); `width` and `height` in pixels; `length` of the text in words
        or tokens; `label`, its index in the vocabulary, or `NO_LABEL` or `ODD_LABEL`; `status`; and `cut`, whether
        its image file ends too early.
    """
    feature = table.features.get(str(columns.label))
    rows = narrow(table, columns).rows
    kept = {name: array(code) for name, code in _KEPT.items()}
    with closing(_look_at_all(rows, columns, table)) as found:
        for seen in progress(found):
            words = seen.words or ""
            try:
                length = len(words.split()) if count_tokens is None else count_tokens(words) if words else 0
            except Exception as error:
                none_left = seen.image == 0
                worst, reason = with_problem(seen.status, seen.reason, not_tokenized(error), none_left=none_left)
                seen, length = seen._replace(status=worst, reason=reason, words=None), 0
            label = label_code(seen.label, feature, vocabulary, multi_label=multi_label)
            status, cut = _STATUSES[seen.status], "truncated" in seen.reason  # as Pillow calls it
            numbers = (seen.image, words_id(seen.words), *seen.size, length, label, status, cut)
            for values, number in zip(kept.values(), numbers, strict=True):
                values.append(number)
            if seen.status not in NOT_BAD:
                on_bad_row(seen.row, seen.status, seen.reason)
    return frame_of(**{name: np.asarray(values) for name, values in kept.items()})


def frame_of(**values: Any) -> pd.DataFrame:
    """Rows as `scan` gives them, of what is known of them; the rest is 0, the label `NO_LABEL`, the status `ok`."""
    rows = max((len(column) for column in values.values()), default=0)
    nothing = dict.fromkeys(_KEPT, 0) | {"label": NO_LABEL, "status": _STATUSES["ok"]}
    values = {name: values.get(name, np.full(rows, nothing[name], dtype=code)) for name, code in _KEPT.items()}
    values["status"] = pd.Categorical.from_codes(values["status"], categories=list(STATUSES))
    return pd.DataFrame(values)


def together(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of all splits, with their `split`, their number in it, `row`, and `pair`, a hash of both halves or 0."""
    whole = pd.concat([part.assign(split=split, row=np.arange(len(part))) for split, part in parts.items()])
    mixed = whole["image"] * np.uint64(0x9E3779B97F4A7C15) + whole["text"]  # wraps around, as a hash may
    both = (whole["image"] != 0) & (whole["text"] != 0)
    splits = pd.Categorical(whole["split"], categories=list(parts), ordered=True)
    return whole.assign(pair=mixed.where(both, np.uint64(0)), split=splits).reset_index(drop=True)


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


class _Seen(NamedTuple):
    """One row, when its image has been let go."""

    row: int
    status: str
    reason: str
    image: int
    size: tuple[int, int]
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
    size = (0, 0) if pair.image is None else pair.image.size
    return _Seen(number, pair.status, pair.reason, image_id(pair.image), size, pair.text, columns.label_of(row))
