"""Training on rows that are read one after another, of data that need not fit in memory."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..data.rows import Columns
from ..data.tables import Table, readable
from ..model.processor import DiptychProcessor
from ..runtime.seeds import draw_seed
from .augmentation import Augmentation, speaks_of_sides
from .dataset import PairDataset
from .loader import Batches, Collate, Example
from .plan import Plan

T = TypeVar("T")


class RowCounts:
    """What one pass over some of a stream's rows has counted.

    Args:
        chosen: Of a row's number, whether it is one of them.

    Attributes:
        rows: How many there are.
        labels: Rows by label.
        unlabelled: Rows without any, where they may have several.
        heard: Texts that were listened to.
        sides: Of these, those that speak of left or right.
    """

    def __init__(self, chosen: Callable[[int], bool]) -> None:
        self.chosen = chosen
        self.rows = self.heard = self.sides = self.unlabelled = 0
        self.labels: Counter[str] = Counter()
        self._hash = hashlib.blake2b(digest_size=8)

    def count(self, labels: list[str] | None, text: Any, content: bytes) -> None:
        """Take in one row, of which `content` is a hash."""
        self.rows += 1
        self.labels.update(labels or ())
        self.unlabelled += labels == []
        if isinstance(text, str) and self.heard < 10_000:
            self.heard += 1
            self.sides += speaks_of_sides([text])
        self._hash.update(repr((labels, content)).encode())

    def fingerprint(self) -> str:
        """What tells these rows from others: their number, and a hash of their labels, texts and images."""
        return f"{self.rows} streamed rows ({self._hash.hexdigest()})"


@dataclass(eq=False)
class PairStream:
    """Some rows of a stream as batches; whoever reads, all rows pass by, and its own are decoded.

    The order follows from the seed and the epoch alone: rows pass through a buffer, which gives one of those it holds
    for each that comes in. So a step is of the same rows however many processes and workers share it, and a run
    that is resumed begins where it stopped.

    Attributes:
        table: Its rows can be gone through again and again.
        counts: Which of them to take, and how many there are.
        target: The class index of a row, or the tuple of a multi-label one; None without labels.
        augment_from: Epoch from which pictures are changed.
        ids: Whether to hash images and texts.
        seed: Of the order and the augmentation.
        buffer: Rows that are held, undecoded, to shuffle them.
    """

    table: Table
    counts: RowCounts
    columns: Columns
    target: Callable[[Table, int, Any], Any] | None
    processor: DiptychProcessor
    _: KW_ONLY
    augmentation: Augmentation | None = None
    augment_from: int = 1
    ids: bool = False
    seed: int = 0
    buffer: int = 1

    def __len__(self) -> int:
        return self.counts.rows

    def fingerprint(self) -> str:
        """What tells these rows from others."""
        return self.counts.fingerprint()

    def row_ids(self) -> None:
        """None: its images are not read before it is trained on."""

    def batches(
        self, plan: Plan, *, device: torch.device | str = "cpu", shuffle: bool = False, workers: int = 0
    ) -> Batches:
        """As of `PairSource`."""
        share = _Share(self, plan, shuffle=shuffle)
        return Batches(
            plan, share, begin=share.begin, first=share.first, device=device, workers=workers, batch_size=None
        )

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Its rows and their numbers, undecoded, in the stream's order."""
        rows = enumerate(readable(self.table.rows, self.table.name))
        return ((number, row) for number, row in rows if self.counts.chosen(number))

    def examples(self, rows: list[tuple[int, Any]], epoch: int) -> list[Example]:
        """These rows, prepared for `epoch`."""
        contents = dict(rows)
        labels: Any = self.target and {row: self.target(self.table, row, content) for row, content in rows}
        few = PairDataset(
            replace(self.table, rows=contents),
            self.columns,
            labels,
            self.processor,
            rows=list(contents),
            augmentation=self.augmentation,
            augment_from=self.augment_from,
            ids=self.ids,
            seed=self.seed,
        )
        return [few[epoch, index] for index in range(len(few))]


class _Share(IterableDataset[dict[str, Any]]):
    """What one process has of a stream, as batches."""

    def __init__(self, stream: PairStream, plan: Plan, *, shuffle: bool) -> None:
        super().__init__()
        self.stream, self.plan, self.shuffle = stream, plan, shuffle
        self.collate = Collate(stream.processor)
        self.place = torch.tensor([1, 0]).share_memory_()  # epoch and batches to skip: workers that stay look here

    def begin(self, epoch: int, skip: int) -> None:
        """Choose the epoch, and how many of its micro-batches are skipped."""
        self.place.copy_(torch.tensor([epoch, skip]))

    def first(self) -> dict[str, Any]:
        """A batch of one row."""
        return self.collate(self.stream.examples(list(islice(self.stream.rows(), 1)), 0))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches()
        except ValueError as error:  # out of a worker it would come with the worker's traceback
            yield {"error": str(error)}

    def _batches(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, skip = self.place.tolist()
        rows = self.stream.rows()
        if self.shuffle:
            rows = shuffled(rows, seed=draw_seed(self.stream.seed, "order", epoch), buffer=self.stream.buffer)
        seen = 0
        for index, micro_batch in enumerate(self.plan.micro_batches(rows)):
            seen += len(micro_batch)
            if index >= skip and (index - skip) % workers == number:
                yield self.collate(self.stream.examples(self.plan.own(micro_batch), epoch))
        if seen != len(self.stream):
            changed = f"{self.stream.table.name} had {len(self.stream)} rows when the run began and has {seen} now"
            raise ValueError(f"{changed}: it was changed; begin anew")


def shuffled(items: Iterable[T], *, seed: int, buffer: int) -> Iterator[T]:
    """The items in another order: for each that comes in, one of the `buffer` that are held goes out."""
    rng = random.Random(seed)
    held: list[T] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        place = rng.randrange(buffer)
        yield held[place]
        held[place] = item
    rng.shuffle(held)
    yield from held
