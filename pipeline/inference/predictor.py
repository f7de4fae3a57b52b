"""Prepared rows become predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..runtime.cpus import usable_cpus


def _spread(features: Tensor, present: list[bool]) -> Tensor:
    """Features of all rows from those of the rows that are there, 0 in the others."""
    if all(present):
        return features
    spread = features.new_zeros(len(present), *features.shape[1:])
    spread[torch.tensor(present, device=features.device)] = features
    return spread


@contextlib.contextmanager
def _threads(device: torch.device, workers: int | None) -> Iterator[ThreadPoolExecutor | None]:
    """Threads to prepare rows, which end with the block; None if there are to be none."""
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, usable_cpus())
    if not workers:
        yield None
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="diptych")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
