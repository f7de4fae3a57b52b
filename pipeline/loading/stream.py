"""Training on rows that are read one after another, of data that need not fit in memory."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.rows import Columns
from ..data.tables import Table, every_row, readable
from ..model.processor import DiptychProcessor
from ..runtime.seeds import draw_seed
from .augmentation import Augmentation, speaks_of_sides
from .dataset import PairDataset
from .loader import Batches, Collate, leave_signals_to_the_main_process
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

    def count(self, labels: list[str] | None, text: Any) -> None:
        """Take in one row."""
        self.rows += 1
        self.labels.update(labels or ())
        self.unlabelled += labels == []
        if isinstance(text, str) and self.heard < 10_000:
            self.heard += 1
            self.sides += speaks_of_sides([text])
        self._hash.update(repr((labels, text)).encode("utf-8", "backslashreplace"))

    def fingerprint(self) -> str:
        """What tells these rows from others: their number, and a hash of their labels and texts."""
        return f"{self.rows} streamed rows ({self._hash.hexdigest()})"


class PairStream(IterableDataset[dict[str, Any]]):
    """Some rows of a stream, as the batches of one process; whoever reads, all rows pass by, and its own are decoded.

    The order follows from the seed and the epoch alone: rows pass through a buffer, which gives one of those it holds
    for each that comes in. So a step is of the same rows however many processes and workers share it, and a run
    that goes on begins where it stopped.

    Args:
        table: Its rows can be gone through again and again.
        survey: Which of them to take, and how many there are.
        columns: Which columns to read.
        target: The class index of a row, or the tuple of a multi-label one; None without labels.
        processor: Of the model.
        augmentation: For training.
        augment_from: Epoch from which pictures are changed.
        ids: Whether to hash images and texts.
        seed: Of the order and the augmentation.
        buffer: Rows that it holds, undecoded; 0 leaves them in their order.
    """

    def __init__(
        self,
        table: Table,
        survey: RowCounts,
        *,
        columns: Columns,
        target: Callable[[Table, int, Any], Any] | None,
        processor: DiptychProcessor,
        augmentation: Augmentation | None = None,
        augment_from: int = 1,
        ids: bool = False,
        seed: int = 0,
        buffer: int = 0,
    ) -> None:
        self.table, self.survey, self.columns, self.target = table, survey, columns, target
        self.processor, self.augmentation, self.augment_from = processor, augmentation, augment_from
        self.ids, self.seed, self.buffer = ids, seed, buffer
        self.collate, self.plan = Collate(processor), Plan(survey.rows, 1)
        self.place = torch.tensor([1, 0]).share_memory_()  # epoch and passes to skip: workers that stay look here

    def __len__(self) -> int:
        return self.survey.rows

    def fingerprint(self) -> str:
        """What tells these rows from others."""
        return self.survey.fingerprint()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches()
        except ValueError as error:  # out of a worker it would come with the worker's traceback
            yield {"error": str(error)}

    def _batches(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, skip = self.place.tolist()
        rows = self._chosen()
        if self.buffer:
            rows = shuffled(rows, seed=draw_seed(self.seed, "order", epoch), buffer=self.buffer)
        seen = 0
        for index, passed in enumerate(self.plan.passes(rows)):
            seen += len(passed)
            if index >= skip and (index - skip) % workers == number:
                yield self.collate(self._examples(self.plan.own(passed), epoch))
        if seen != len(self):
            found = f"{self.table.name} had {len(self)} rows when the run began and has {seen} now"
            raise ValueError(f"{found}: it was changed; begin anew")

    def first(self) -> dict[str, Any]:
        """A batch of one row."""
        return self.collate(self._examples(list(islice(self._chosen(), 1)), 0))

    def _chosen(self) -> Iterator[tuple[int, Any]]:
        rows = enumerate(readable(every_row(self.table.rows), self.table.name))
        return ((number, row) for number, row in rows if self.survey.chosen(number))

    def _examples(self, rows: list[tuple[int, Any]], epoch: int) -> list[Any]:
        contents = dict(rows)
        labels = self.target and {row: self.target(self.table, row, content) for row, content in rows}
        few = PairDataset(
            replace(self.table, rows=contents),
            self.columns,
            labels,  # type: ignore[arg-type]
            self.processor,
            rows=list(contents),
            augmentation=self.augmentation,
            augment_from=self.augment_from,
            ids=self.ids,
            seed=self.seed,
        )
        return [few[epoch, index] for index in range(len(few))]


class StreamBatches(Batches):
    """A process's batches of each epoch of a stream.

    Args: as of `Batches`; the stream has its own order.
    """

    def __init__(
        self, data: PairStream, plan: Plan, collate: Collate, *, device: torch.device | str = "cpu", workers: int = 0
    ) -> None:
        self.data: Any = data
        self.plan, self.collate, self.device = plan, collate, torch.device(device)
        data.plan, data.collate = plan, collate
        self.loader = DataLoader(
            data,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_the_main_process,
            pin_memory=self.device.type == "cuda",
        )

    def begin(self, epoch: int, skip: int) -> None:
        """Say where the next reading starts."""
        self.data.place.copy_(torch.tensor([epoch, skip]))

    def first(self) -> dict[str, Any]:
        """A batch of one row."""
        return self.data.first()


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
