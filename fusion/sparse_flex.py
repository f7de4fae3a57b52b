"""Sparse attention on CUDA: what `fusion.sparse` does, by FlexAttention (Dong et al., 2024)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:  # importing it takes most of a second: only where it is used
    from torch.nn.attention.flex_attention import BlockMask

FLEX_BLOCK = 128  # tokens a side of the squares that FlexAttention skips or computes


def flex_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    window: int | None,
    is_global: Tensor | None,
    group: Tensor | None,
    key_bias: Tensor | None,
    compiled: bool = True,
) -> Tensor:
    """`sparse_attention` by FlexAttention (Dong et al., 2024); anything may stand in padded places.

    Args: see `sparse_attention`; `compiled` False runs anywhere, forms the matrix, and is for tests.
    """
    batch, _, tokens, _ = query.shape
    mask = query.new_ones(batch, tokens, dtype=torch.bool) if mask is None else mask
    fill = -tokens % FLEX_BLOCK  # to whole blocks
    query, key, value = (F.pad(states, (0, 0, 0, fill)) for states in (query, key, value))
    real = F.pad(mask, (0, fill))
    chosen = torch.zeros_like(real) if is_global is None else F.pad(is_global & mask, (0, fill))
    rank = real.cumsum(dim=1)
    reach = window or 0

    def visible(row: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        near = (rank[row, i] - rank[row, j]).abs() <= reach
        pair = near | chosen[row, i] | chosen[row, j]
        return (i == j) | (pair & real[row, i] & real[row, j])  # padding sees itself: no empty softmax

    score_mod = None
    if group is not None and key_bias is not None:
        groups, bias = F.pad(group, (0, fill)), F.pad(key_bias, (0, fill))

        def score_mod(score: Tensor, row: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return torch.where(groups[row, i] == groups[row, j], score, score + bias[row, j])

    attend = _flex_attention(compiled)
    out = attend(query, key, value, score_mod=score_mod, block_mask=_block_mask(visible, real, chosen, rank, reach))
    return out[:, :, :tokens]


def _block_mask(visible: Callable[..., Tensor], real: Tensor, chosen: Tensor, rank: Tensor, reach: int) -> BlockMask:
    """The squares of FLEX_BLOCK tokens that may hold a visible pair, from the blocks' ranks alone.

    `create_block_mask` would evaluate every pair.
    """
    from torch.nn.attention.flex_attention import BlockMask

    far = 4 * real.shape[1]  # farther than any window that matters
    reach = min(reach, real.shape[1])
    lowest = rank.masked_fill(~real, far).unflatten(1, (-1, FLEX_BLOCK)).amin(dim=2)  # (batch, blocks)
    highest = rank.masked_fill(~real, -far).unflatten(1, (-1, FLEX_BLOCK)).amax(dim=2)
    ahead = lowest.unsqueeze(1) - highest.unsqueeze(2) <= reach  # (batch, query blocks, key blocks)
    some, special = (flags.unflatten(1, (-1, FLEX_BLOCK)).any(dim=2) for flags in (real, chosen))
    pairs = ahead & ahead.transpose(1, 2)
    pairs |= (special.unsqueeze(2) & some.unsqueeze(1)) | (some.unsqueeze(2) & special.unsqueeze(1))
    pairs |= torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    count = pairs.sum(dim=-1, dtype=torch.int32).unsqueeze(1)
    order = pairs.int().argsort(dim=-1, descending=True, stable=True).int().unsqueeze(1)
    return BlockMask.from_kv_blocks(count, order, BLOCK_SIZE=FLEX_BLOCK, mask_mod=visible)


@functools.cache
def _flex_attention(compiled: bool) -> Any:
    """Compiled once, at its first use; uncompiled it forms the whole matrix."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention
