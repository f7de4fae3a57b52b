"""What chance decides in training, row by row: dropout, and which modality a row loses.

It follows from the seed, the epoch and the row: not from the process that has the row, from the rows beside it, or from
how far they are padded. So a batch is treated alike however many processes share it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_STARTS = 1 << 21
"""At so many places of a pool a row's draws may start, and as many may follow."""
_MATRIX = (131, 1031, 1)
"""How far the draws of one (head, query, key) lie from the next of each, whatever the padding."""
_active: ContextVar[RowDraws | None] = ContextVar("row_draws", default=None)


class RowDraws(TorchFunctionMode):
    """While it is entered, the dropout of whatever runs draws for each row by itself.

    A pool of random numbers belongs to the epoch. In each dropout a row reads it from a place of its own, which is a
    hash of the row and of how many dropouts came before. Two rows may come to read overlapping stretches, shifted
    against each other; each number alone is as random as any.

    Tensors whose first dimension is not that of the rows are left to torch's own generator.

    Args:
        seed: Of the run and the epoch.
        rows: The number of each row of the batch.
    """

    def __init__(self, seed: int, rows: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self.pool = _pool(seed, device)  # (2 * _STARTS,)
        self.keys = torch.tensor([_mixed(seed ^ row) for row in rows], dtype=torch.int64, device=device)  # (rows,)
        self.calls = 0
        self.places: tuple[Tensor, Tensor, int] | None = None

    def __enter__(self) -> RowDraws:
        self._token = _active.set(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _active.reset(self._token)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def uniform(self) -> Tensor:
        """A number from 0 to 1 for each row, (rows,)."""
        return self.pool.index_select(0, self._starts())

    def _starts(self) -> Tensor:
        self.calls += 1
        return (self.keys * _mixed(self.calls) >> 40) & (_STARTS - 1)  # (rows,)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return input
        starts, shape = self._starts(), input.shape[1:]
        strides = _MATRIX if len(shape) == 3 else tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        extent = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if self.places is not None and input.dim() == 2 and len(input) == len(self.places[0]):
            rows, positions, tokens = self.places
            starts = starts.index_select(0, rows) + positions * shape[0]  # (tokens,)
            extent = max(extent, tokens * shape[0])
        if len(starts) != len(input) or extent >= _STARTS:
            return F.dropout(input, p, training, inplace)
        windows = self.pool.as_strided((len(self.pool) - extent, *shape), (1, *strides))
        kept = windows.index_select(0, starts) >= p
        return input * kept / (1 - p)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The attention that the fused call computes, with its dropout drawn row by row."""
        if dropout_p == 0.0 or is_causal or enable_gqa or query.dim() != 4:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if is_bool else scores + attn_mask
        return self._dropout(scores.softmax(dim=-1), dropout_p).to(value.dtype) @ value


def row_uniform(count: int, device: torch.device) -> Tensor:
    """A number from 0 to 1 for each of `count` rows, (count,)."""
    draws = _active.get()
    return torch.rand(count, device=device) if draws is None or len(draws.keys) != count else draws.uniform()


@contextlib.contextmanager
def some_rows(present: Tensor, scope: int) -> Iterator[None]:
    """For what sees only the rows where `present` (rows,) is True.

    It counts its dropouts by itself, from `scope`: it may run in one process and not in another.
    """
    draws = _active.get()
    if draws is None or len(draws.keys) != len(present):
        yield
        return
    keys, calls = draws.keys, draws.calls
    draws.keys, draws.calls = keys[present], scope << 20
    try:
        yield
    finally:
        draws.keys, draws.calls = keys, calls


@contextlib.contextmanager
def packed_tokens(places: Tensor | None, tokens: int) -> Iterator[None]:
    """For functions of the real tokens of a batch without the padding between them, (real, dim).

    Args:
        places: (real,), where each token stands in the flattened (rows * tokens); None if they are not packed.
        tokens: Of a row, with padding.
    """
    draws = _active.get()
    if draws is None or places is None:
        yield
        return
    draws.places = (places // tokens, places % tokens, tokens)
    try:
        yield
    finally:
        draws.places = None


@lru_cache(maxsize=2)
def _pool(seed: int, device: torch.device) -> Tensor:
    """Numbers from 0 to 1, (2 * _STARTS,), the same on every device."""
    return torch.rand(2 * _STARTS, generator=torch.Generator().manual_seed(seed)).to(device)


def _mixed(number: int) -> int:
    """An odd number of 63 bits and a sign that looks random (the finaliser of SplitMix64; Steele et al., 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return ((number ^ (number >> 31)) | 1) - (1 << 63)
