"""Rows on their way to a model: read some way ahead, put into batches of like length, prepared by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

BATCHES = 16
"""Of a table so many are read at a time, to be sorted by length: with more, hardly less padding is left."""

WINDOW_BYTES = 64 << 20
"""Of images, as they are stored, and of texts that are held at a time."""


In = TypeVar("In")
Out = TypeVar("Out")


def windows(rows: Iterable[Any], size: Callable[[], int]) -> Iterator[list[tuple[int, Any]]]:
    """Numbered rows, some at a time; if their source ends in an error, those before it still come.

    Args:
        size: How many at most; fewer if they hold more than `WINDOW_BYTES`.
    """
    window: list[tuple[int, Any]] = []
    held, most = 0, size()
    try:
        for number, row in enumerate(rows):
            window.append((number, row))
            held += _bytes(row)
            if len(window) >= most or held >= WINDOW_BYTES:
                yield window
                window, held, most = [], 0, size()
    except Exception:
        if window:
            yield window
        raise
    if window:
        yield window


def ahead(
    pool: ThreadPoolExecutor | None, do: Callable[[In], Out], items: Iterable[In], depth: Callable[[], int]
) -> Iterator[Out]:
    """`do(item)` of each item, in order; errors, also of `items`, come where they belong.

    Args:
        pool: Whose threads do it; without one it is done when it is asked for.
        items: Taken in the caller's thread.
        depth: How many may be under way, or done, before they are asked for.
    """
    if pool is None:
        yield from map(do, items)
        return

    def submitted() -> Iterator[Future[Out]]:
        try:
            for item in items:
                yield pool.submit(do, item)
        except Exception as error:
            failed: Future[Out] = Future()
            failed.set_exception(error)
            yield failed

    source, waiting = submitted(), deque[Future[Out]]()
    while True:
        waiting.extend(islice(source, max(0, depth() + 1 - len(waiting))))
        if not waiting:
            return
        yield waiting.popleft().result()


class BatchSize:
    """Rows per forward pass: as given; else 32, and on a GPU as many as it does well with.

    There it starts from 32 and doubles while memory lasts. A batch that is too large is done in halves,
    and none of its size is tried again.

    Args:
        given: By the caller; then it stays so.
    """

    LARGEST = 512

    def __init__(self, given: int | None, device: torch.device) -> None:
        self.rows = 32 if given is None else given
        self.finds = given is None and device.type == "cuda"
        self.limit = self.LARGEST

    def run(self, do: Callable[[list[In]], object], rows: list[In]) -> None:
        """`do(rows)`, in halves where memory is too small for all.

        Raises:
            torch.OutOfMemoryError: It is too small for one row, or for a size that was given.
        """
        if not self.finds or len(rows) <= self.limit:
            try:
                do(rows)
                if self.finds and len(rows) == self.rows:
                    self.rows = min(2 * self.rows, self.limit)
                return
            except torch.OutOfMemoryError:
                if not self.finds or len(rows) == 1:
                    raise
                self.rows = self.limit = len(rows) // 2
            torch.cuda.empty_cache()  # not in the handler: the error holds on to what the batch had taken
        step = self.limit  # which the first of the parts may lower
        for start in range(0, len(rows), step):
            self.run(do, rows[start : start + step])


def _bytes(row: Any) -> int:
    """About how much memory a row holds, in bytes."""
    values = row.values() if isinstance(row, Mapping) else ()
    return sum(_size(inner) for value in values for inner in (value.values() if isinstance(value, dict) else (value,)))


def _size(value: Any) -> int:
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, (str, bytes, bytearray, memoryview)) else 0
