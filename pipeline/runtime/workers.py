"""How what a loader's workers prepare comes to the process that asked: in shared memory, or through pipes."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_AHEAD = 2
"""Batches that each worker prepares ahead: torch's default."""
_SHARED = Path("/dev/shm")


def too_little_shared(workers: int, batch: dict[str, Any], rows: int) -> str | None:
    """Why shared memory does not do for the batches of workers, which would wait for it for ever; None if it does.

    Args:
        batch: Of one row.
        rows: Of the batches to come.
    """
    tensors = [value for value in batch.values() if isinstance(value, Tensor)]
    needed = 2 * workers * _AHEAD * rows * sum(tensor.nbytes for tensor in tensors)
    room = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else needed
    if room < needed:
        return f"{_SHARED} has room for {room / 1e6:.0f} MB, and {needed / 1e6:.0f} MB may be needed"
    handles = 64 + 2 * workers * _AHEAD * len(tensors)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < handles:
        return f"a process may open {limit} files, and {handles} may be needed"
    return None


class Piped:
    """Batches whose tensors are arrays, which go through a pipe: copied once more, and held to no limit.

    Args:
        collate: What makes a batch in a worker; None if the dataset gives whole batches.
    """

    def __init__(self, collate: Callable[[Any], Any] | None) -> None:
        self.collate = collate

    def __call__(self, examples: Any) -> Any:
        """A batch, ready for the pipe."""
        batch = examples if self.collate is None else self.collate(examples)
        return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in batch.items()}


def from_pipe(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as it was before the pipe."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}
