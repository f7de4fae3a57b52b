"""From examples to batches of tensors, of one process, epoch by epoch."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.rows import with_problem
from ..model.processor import DiptychProcessor
from ..runtime.seeds import draw_seed
from ..runtime.signals import SIGNALS
from ..runtime.workers import Piped, from_pipe, too_little_shared
from .plan import Plan

if TYPE_CHECKING:
    from ..feature_cache.encode import HalfFeatures


@dataclass(frozen=True)
class Example:
    """One row, ready to be batched: pixel values (3, height, width) or None, text or None, class index or None.

    A modality whose features are known is None here; `Collate` gets them by the row's number.

    Of a multi-label row the label is a tuple: for each class 1 if it is there, else 0.

    `image_id` and `text_id` are hashes of the contents, None unless asked for.
    """

    row: int
    pixel_values: Tensor | None
    text: str | None
    label: int | tuple[int, ...] | None
    status: str
    reason: str
    image_id: int | None = None
    text_id: int | None = None


class PairSource(Protocol):
    """Rows that a run learns from or is measured by: a table's, or a stream's."""

    def __len__(self) -> int:
        """How many rows an epoch has."""

    def fingerprint(self) -> str:
        """What tells these rows from others."""

    def row_ids(self) -> Tensor | None:
        """Ids of its rows, (rows, 3), as `diptych.pipeline.data.digest.row_ids` gives them; None of a stream."""

    def batches(
        self, plan: Plan, *, device: torch.device | str = "cpu", shuffle: bool = False, workers: int = 0
    ) -> Batches:
        """A process's batches of each epoch.

        Args:
            shuffle: Whether the rows come in another order in each epoch, which follows from the seed alone.
            workers: Processes that read and prepare rows; 0 reads in this one.
        """


@dataclass(eq=False)
class Collate:
    """Batch examples for a model; features stand in for their images or texts where these are known."""

    processor: DiptychProcessor
    image_features: HalfFeatures | None = None
    text_features: HalfFeatures | None = None

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        """The model's tensors, `rows`, their numbers, and `problems`: (row, status, reason) of rows that are not `ok`.

        With `labels`, `image_ids` and `text_ids`, (batch,) each, where the examples have them. Of no examples there
        are no tensors: nothing tells their shapes.
        """
        if not examples:
            return {"rows": [], "problems": []}
        batch: dict[str, Any] = {}
        rows = [e.row for e in examples]
        if self.image_features is not None:
            batch |= self.image_features.batch(rows)
        else:
            batch |= self.processor.image_processor([e.pixel_values for e in examples])
        if self.text_features is not None:
            batch |= self.text_features.batch(rows)
        else:
            try:
                batch |= self.processor.tokenize([e.text for e in examples])
            except Exception:
                examples = self._tokenized(examples)
                batch |= self.processor.tokenize([e.text for e in examples])
        for name in ("label", "image_id", "text_id"):
            numbers = [getattr(e, name) for e in examples]
            if None not in numbers:
                batch[f"{name}s"] = torch.tensor(numbers)
        batch["rows"] = rows
        batch["problems"] = [(e.row, e.status, e.reason) for e in examples if e.status != "ok"]
        return batch

    def _tokenized(self, examples: list[Example]) -> list[Example]:
        """The same, those without a text on whose text the tokenizer fails: their status says so."""
        found = self.processor.pieces_or_problems([e.text or "" for e in examples])
        return [self._without_text(e, here) if len(here) == 2 else e for e, here in zip(examples, found, strict=True)]

    def _without_text(self, example: Example, problem: tuple[str, str]) -> Example:
        images = self.image_features
        lost = example.pixel_values is None if images is None else example.row in images.problems
        status, reason = with_problem(example.status, example.reason, problem, none_left=lost)
        return replace(example, text=None, status=status, reason=reason)


class Batches:
    """A process's batches of each epoch, as its plan shares them out, on its device.

    Args:
        dataset: Examples by number, or batches one after another.
        begin: Called with an epoch and how many of its micro-batches are skipped, before the dataset is read.
        first: A batch of one row.
        workers: Processes that read and prepare rows; 0 reads in this one.
        **loading: Of torch's `DataLoader`, how batches are made.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset[Any],
        *,
        begin: Callable[[int, int], None],
        first: Callable[[], dict[str, Any]],
        device: torch.device | str = "cpu",
        workers: int = 0,
        **loading: Any,
    ) -> None:
        self.plan, self.begin, self.first, self.device = plan, begin, first, torch.device(device)
        why = too_little_shared(workers, first(), plan.micro_batch_size // plan.processes) if workers else None
        if why is not None:
            logging.getLogger(__name__).warning("batches of workers go through pipes, more slowly: %s", why)
            loading["collate_fn"] = Piped(loading.get("collate_fn"))
        self.loader: DataLoader[Any] = DataLoader(
            dataset,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_the_main_process,
            pin_memory=self.device.type == "cuda",
            **loading,
        )

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.epoch()

    def epoch(self, epoch: int = 1, *, skip: int = 0) -> Iterator[dict[str, Any]]:
        """The batches of an epoch but for the first `skip`, which are not read; what `Collate` gives, on the device."""
        self.begin(epoch, skip)
        for batch in map(from_pipe, self.loader):
            if "error" in batch:
                raise ValueError(batch["error"])
            if not batch["rows"]:  # tensors of no rows, of the shapes that they would have
                batch = {name: value[:0] for name, value in self.first().items()}
            yield {
                name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
                for name, value in batch.items()
            }


class Shares(Sampler[list[tuple[int, int]]]):
    """Of each micro-batch what one process has, as (epoch, index).

    Args:
        seed: Of their order; None leaves them as they are.
    """

    def __init__(self, plan: Plan, seed: int | None) -> None:
        self.plan, self.seed, self.epoch, self.skip = plan, seed, 1, 0

    def begin(self, epoch: int, skip: int) -> None:
        """Choose the epoch, and how many of its micro-batches are skipped."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = range(self.plan.rows) if self.seed is None else order(self.plan.rows, seed=self.seed, epoch=self.epoch)
        for micro_batch in islice(self.plan.micro_batches(rows), self.skip, None):
            yield [(self.epoch, index) for index in self.plan.own(micro_batch)]


def batches_once(data: PairSource, accelerator: Accelerator, *, batch_size: int) -> Batches:
    """Batches that go through the rows once, in their order, so many at a time on each device."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    process, processes = accelerator.process_index, accelerator.num_processes
    plan = Plan(len(data), batch_size * processes, process=process, processes=processes)
    return data.batches(plan, device=accelerator.device)


def order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """The order of so many rows in an epoch: it follows from the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(draw_seed(seed, "order", epoch))
    return torch.randperm(rows, generator=generator).tolist()


def leave_signals_to_the_main_process(_: int) -> None:
    """For the processes of a loader: a signal to the whole group must not take them from under a run that saves."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
