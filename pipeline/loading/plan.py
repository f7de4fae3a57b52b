"""How the rows of an epoch become optimizer steps, and which of them each process has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One plan for all processes: a step is of the same rows however many share it.

    The rows come in an order that all know. `batch_size` of them make an optimizer step, in `accumulate` micro-batches
    one after another; of each every process has a stretch. The last step of an epoch may have fewer rows, and a
    process then none; nothing is repeated to fill it.

    Attributes:
        rows: Of an epoch.
        batch_size: Rows of a step, all processes and micro-batches together.
        accumulate: Micro-batches of a step.
        process: Which of the processes this is, from 0.
        processes: How many there are.

    Raises:
        ValueError: A step cannot be shared evenly.
    """

    rows: int
    batch_size: int
    accumulate: int = 1
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        share = self.accumulate * self.processes
        if self.batch_size % share:
            raise ValueError(
                f"batch_size is {self.batch_size}; it must be a multiple of {share} "
                f"({self.processes} processes x {self.accumulate} micro-batches)"
            )

    @property
    def micro_batch_size(self) -> int:
        """Rows of a micro-batch, all processes together."""
        return self.batch_size // self.accumulate

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-self.rows // self.batch_size)

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return -(-self.rows // self.micro_batch_size)

    def share(self, number: int) -> float:
        """What part of its step's rows the micro-batch `number` of an epoch has, from 0; of one step they sum to 1."""
        step = number // self.accumulate * self.batch_size
        rows = min(self.rows, (number + 1) * self.micro_batch_size) - number * self.micro_batch_size
        return rows / (min(self.rows, step + self.batch_size) - step)

    def ends_step(self, number: int) -> bool:
        """Whether the micro-batch `number` is the last of its step."""
        return (number + 1) % self.accumulate == 0 or number + 1 == len(self)

    def micro_batches(self, rows: Iterable[T]) -> Iterator[list[T]]:
        """The rows of each micro-batch, of all processes together."""
        left = iter(rows)
        while micro_batch := list(islice(left, self.micro_batch_size)):
            yield micro_batch

    def own(self, micro_batch: list[T]) -> list[T]:
        """Those rows of a micro-batch that this process has."""
        first, end = (len(micro_batch) * process // self.processes for process in (self.process, self.process + 1))
        return micro_batch[first:end]


def gather_parts(parts: list[dict[str, Tensor]], rows: list[int], accelerator: Accelerator) -> dict[str, Tensor]:
    """What all processes have found for their rows, joined, in the order of the rows; each row once.

    Args:
        parts: Of each batch, by name, tensors whose first dimension is its rows.
        rows: The numbers of all these rows.
        accelerator: Of the run; all its processes take part.

    Raises:
        ValueError: No process has any row.
    """
    found = {name: torch.cat([part[name].cpu() for part in parts]) for name in (parts[0] if parts else ())}
    everyone = [(found, rows)] if accelerator.num_processes == 1 else gather_object([(found, rows)])
    everyone = [one for one in everyone if one[0]]
    numbers = torch.tensor([row for _, some in everyone for row in some])
    if not len(numbers):
        raise ValueError("there are no rows to measure")
    order = numbers.argsort()
    return {name: torch.cat([one[name] for one, _ in everyone])[order] for name in everyone[0][0]}
