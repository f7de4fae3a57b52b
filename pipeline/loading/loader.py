"""From tables to batches of tensors, with augmentation in training."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..model.processor import DiptychProcessor
from ..runtime.seeds import draw_seed
from .dataset import Example, PairDataset
from .plan import Plan

if TYPE_CHECKING:
    pass


class Collate:
    """Batch examples for a model.

    Args:
        processor: Of the model.
        data: Where the examples come from, if it has features in place of a half.
    """

    def __init__(self, processor: DiptychProcessor, data: PairDataset | None = None) -> None:
        self.processor = processor
        self.image_features = None if data is None else data.image_features
        self.text_features = None if data is None else data.text_features

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
            batch |= self.processor.tokenize([e.text for e in examples])
        for name in ("label", "image_id", "text_id"):
            numbers = [getattr(e, name) for e in examples]
            if None not in numbers:
                batch[f"{name}s"] = torch.tensor(numbers)
        batch["rows"] = rows
        batch["problems"] = [(e.row, e.status, e.reason) for e in examples if e.status != "ok"]
        return batch


class Batches:
    """A process's batches of each epoch, as its plan shares them out, on its device.

    Args:
        data: The rows of all processes.
        plan: Of these rows.
        collate: From a list of examples to a batch.
        device: Where the tensors go.
        seed: Of the order, which follows from it and the epoch alone; None leaves the rows as they are.
        workers: Processes that read and prepare rows; 0 reads in this one, as it is where all features are known.
    """

    def __init__(
        self,
        data: PairDataset,
        plan: Plan,
        collate: Collate,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        workers: int = 0,
    ) -> None:
        self.data, self.plan, self.collate, self.device = data, plan, collate, torch.device(device)
        self.shares = _Shares(plan, seed)
        if data.image_features is not None and data.text_features is not None:
            workers = 0  # to read them takes less than to hand them over
        self.loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=self.shares,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_the_main_process,
            pin_memory=self.device.type == "cuda",
        )

    @classmethod
    def once(cls, data: PairDataset, collate: Collate, accelerator: Accelerator, *, batch_size: int) -> Batches:
        """To go through the rows once, in their order, so many at a time on each device."""
        process, processes = accelerator.process_index, accelerator.num_processes
        plan = Plan(len(data), batch_size * processes, process=process, processes=processes)
        return cls(data, plan, collate, device=accelerator.device)

    def __len__(self) -> int:
        """Passes forward of an epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.epoch()

    def epoch(self, epoch: int = 1, *, skip: int = 0) -> Iterator[dict[str, Any]]:
        """The batches of an epoch but for the first `skip`, which are not read; what `Collate` gives, on the device."""
        self.begin(epoch, skip)
        for batch in self.loader:
            if "error" in batch:
                raise ValueError(batch["error"])
            if not batch["rows"]:  # tensors of no rows, of the shapes that they would have
                batch = {name: value[:0] for name, value in self.first().items()}
            yield {
                name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
                for name, value in batch.items()
            }

    def begin(self, epoch: int, skip: int) -> None:
        """Say where the next reading starts."""
        self.shares.epoch, self.shares.skip = epoch, skip

    def first(self) -> dict[str, Any]:
        """A batch of one row."""
        return self.collate([self.data[0]])


class _Shares(Sampler[list[tuple[int, int]]]):
    """Of each pass forward what one process has, as (epoch, index) for `PairDataset`."""

    def __init__(self, plan: Plan, seed: int | None) -> None:
        self.plan, self.seed, self.epoch, self.skip = plan, seed, 1, 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = range(self.plan.rows) if self.seed is None else order(self.plan.rows, seed=self.seed, epoch=self.epoch)
        for passed in islice(self.plan.passes(rows), self.skip, None):
            yield [(self.epoch, index) for index in self.plan.own(passed)]


def order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """The order of so many rows in an epoch: it follows from the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(draw_seed(seed, "order", epoch))
    return torch.randperm(rows, generator=generator).tolist()


def leave_signals_to_the_main_process(_: int) -> None:
    """For the processes of a loader: a signal to the whole group must not take them from under a run that saves."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
