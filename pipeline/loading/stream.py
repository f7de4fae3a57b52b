"""Training on rows that are read one after another, of data that need not fit in memory."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from ..data.columns import class_names, one_label, sort_labels
from ..data.labels import as_list, is_list, labels_in
from ..data.rows import Columns, UnreadableRow
from ..data.tables import Table, every_row, readable
from ..model.processor import DiptychProcessor
from ..training.config import TrainConfig
from ..training.table_rows import require_any, require_two, training_table
from .loader import (
    Augmentation,
    Batches,
    Collate,
    PairDataset,
    draw_seed,
    leave_signals_to_the_main_process,
    speaks_of_sides,
)
from .plan import Plan

T = TypeVar("T")
_PARTS = 1 << 20
"""Into so many parts rows are sorted by chance, to hold some of them out."""


class StreamRows:
    """Rows that come one after another: all that a run must know of them beforehand is read in one pass.

    It counts rows and classes, decodes no image and keeps no row. Without a validation split a share of the rows is
    held out, whatever their class: by a hash of their number.

    Args, Attributes, Raises: as of `TableRows`.
    """

    def __init__(
        self, tables: Mapping[str, Table], columns: Columns, config: TrainConfig, *, quiet: bool = True
    ) -> None:
        self.columns, self.config = columns, config
        self.table = training_table(tables)
        self.aligning = config.objective == "align"
        self.multi_label = not self.aligning and _has_lists(self.table, str(columns.label))
        own = tables.get("validation")
        self.held_table = self.table if own is None else own
        self.part = Survey(self._is_kept if own is None else _every)
        self.held = Survey(self._is_held if own is None else _every)
        surveys = [[self.part], [self.held]] if own is not None else [[self.part, self.held]]
        for table, some in zip((self.table, self.held_table), surveys, strict=False):
            self._read(table, some, quiet)
        share = config.validation_share
        self.source = "its own split" if own is not None else f"{share:.0%} of the rows by chance, seed {config.seed}"
        if not self.part.rows or not self.held.rows:
            raise ValueError(
                f"{self.table.name} has {self.part.rows + self.held.rows} rows, too few to hold some out; give a "
                "validation split"
            )
        found = set(self.part.labels) | (set(self.held.labels) if own is None else set())
        self.names = [] if self.aligning else class_names(self.table, str(columns.label)) or sort_labels(found)
        if not self.aligning:
            self._check_labels(own is not None, found)

    def _check_labels(self, own: bool, found: set[str]) -> None:
        kinds = len(found) + (self.multi_label and self.part.unlabelled > 0)
        require_two(kinds, self.part.rows + (0 if own else self.held.rows), self.table, self.columns)
        unknown = sorted(set(self.held.labels) - set(self.names))
        if unknown:
            raise ValueError(
                f"{self.held_table.name}: label {unknown[0]!r} in {self.columns.label!r} does not occur in the rows to "
                f"train on, which have {len(self.names)}: {', '.join(self.names[:10])}"
            )
        if self.multi_label:
            require_any(sum(self.held.labels.values()), self.held_table, self.columns)

    def _is_held(self, row: int) -> bool:
        return draw_seed(self.config.seed, "held out", row) % _PARTS < self.config.validation_share * _PARTS

    def _is_kept(self, row: int) -> bool:
        return not self._is_held(row)

    def _read(self, table: Table, surveys: list[Survey], quiet: bool) -> None:
        rows = readable(every_row(table.rows), table.name)
        bar = tqdm(rows, desc="reading labels", unit="row", leave=False, disable=True if quiet else None)
        for number, row in enumerate(bar):
            text = row.get(self.columns.text) if isinstance(row, Mapping) else None
            labels = None if self.aligning else self._labels(table, number, row)
            for survey in surveys:
                if survey.chosen(number):
                    survey.count(labels, text)

    def _labels(self, table: Table, number: int, row: Any) -> list[str]:
        column = str(self.columns.label)
        if isinstance(row, UnreadableRow):
            raise ValueError(f"{table.name}: row {number} cannot be trained on: {row.reason}; mend it or take it out")
        try:
            feature = _feature(table, column)
            return labels_in(row.get(column), feature) if self.multi_label else [one_label(row.get(column), feature)]
        except ValueError as error:
            raise ValueError(
                f"{table.name}: row {number} has {error} in {column!r}; give every row one or take it out"
            ) from error

    def speaks_of_sides(self) -> bool:
        """Whether the texts to train on speak of left and right."""
        return speaks_of_sides(["left"] * self.part.sides + [""] * (self.part.heard - self.part.sides))

    def class_counts(self) -> Tensor:
        """How many rows to train on have each class, as of `TableRows`."""
        present = torch.tensor([self.part.labels[name] for name in self.names])
        return torch.stack([self.part.rows - present, present]) if self.multi_label else present

    def pair_sets(
        self, processor: DiptychProcessor, augmentation: Augmentation | None, *, ids: bool, augment_from: int = 1
    ) -> tuple[PairStream, PairStream]:
        """The rows to train on and those to validate with, as of `TableRows`."""
        make: dict[str, Any] = {
            "columns": self.columns,
            "target": None if self.aligning else self._target,
            "processor": processor,
        }
        buffer, seed = self.config.shuffle_buffer, self.config.seed
        return (
            PairStream(
                self.table,
                self.part,
                augmentation=augmentation,
                augment_from=augment_from,
                ids=ids,
                seed=seed,
                buffer=buffer,
                **make,
            ),
            PairStream(self.held_table, self.held, ids=self.aligning, **make),
        )

    def _target(self, table: Table, number: int, row: Any) -> int | tuple[int, ...]:
        labels = self._labels(table, number, row)
        there = [self.names.index(label) for label in labels]
        return tuple(int(index in there) for index in range(len(self.names))) if self.multi_label else there[0]


class Survey:
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
        survey: Survey,
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


def _every(_: int) -> bool:
    return True


def _feature(table: Table, column: str) -> Any:
    return (getattr(table.rows, "features", None) or {}).get(column)


def _has_lists(table: Table, column: str) -> bool:
    """Whether a stream's label column holds lists: by its feature, else by the first row that says something."""
    feature = _feature(table, column)
    if feature is not None and getattr(feature, "dtype", "") not in ("string", "large_string"):
        return is_list(feature)
    first = (table.first or {}).get(column)
    if first is None:
        rows = (row.get(column) for row in islice(table.rows, 1000) if isinstance(row, Mapping))
        first = next((value for value in rows if value), None)
    return as_list(first) is not None
