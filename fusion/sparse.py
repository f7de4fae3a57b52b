"""Sparse self-attention: a sliding window and global tokens, exact, at a cost linear in the length."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .sparse_blocks import attend, attend_in_blocks
from .sparse_flex import flex_sparse_attention


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    window: int | None,
    is_global: Tensor | None = None,
    group: Tensor | None = None,
    key_bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention over the pairs of `visible_pairs` (Beltagy et al., Longformer, 2020).

    On CPU the window is computed in blocks of queries over `scaled_dot_product_attention`, on CUDA by
    FlexAttention; neither forms a tokens x tokens matrix, unless a row is but a few windows long.

    Args:
        query: (batch, heads, tokens, head_dim).
        key: As `query`.
        value: As `query`.
        mask: (batch, tokens), True = real; real tokens may stand anywhere. None: all are real.
        window: How many real tokens a token sees on each side; None = itself only.
        is_global: (batch, tokens), True for tokens that see all and are seen by all.
        group: (batch, tokens), integers from 0; goes with `key_bias`.
        key_bias: (batch, tokens), added to the scores that queries of another group give this key;
            may be -inf: nobody outside the group sees it then, and its gradient is 0.
        dropout: On the attention weights; 0 in evaluation.

    Returns:
        (batch, heads, tokens, head_dim), 0 in padded places.

    Raises:
        ValueError: A window below 1, a shape that does not fit, or one of `group` and `key_bias` alone.
    """
    batch, _, tokens, head_dim = query.shape
    _check(query, key=key, value=value)
    _check(query[:, 0, :, 0], mask=mask, is_global=is_global, group=group, key_bias=key_bias)
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; it must be at least 1 token, or None for no window")
    if (group is None) != (key_bias is None):
        raise ValueError("group and key_bias go together: give both or neither")
    # FlexAttention has no dropout, no float64 and no heads narrower than 16.
    if query.is_cuda and dropout == 0.0 and query.dtype != torch.float64 and head_dim >= 16:
        out = flex_sparse_attention(
            query, key, value, mask, window=window, is_global=is_global, group=group, key_bias=key_bias
        )
    else:
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # (batch, tokens, heads, dim)
        if group is not None and key_bias is not None:
            query, key, value = _with_bias(query, key, value, group, key_bias)
        scale = head_dim**-0.5
        if _is_short(tokens, window):
            real = query.new_ones(batch, tokens, dtype=torch.bool) if mask is None else mask
            visible = visible_pairs(real, window=window, is_global=is_global)
            visible = visible | torch.eye(tokens, dtype=torch.bool, device=visible.device)  # no empty softmax
            out = attend(query, key, value, visible.unsqueeze(1), scale, dropout)
        else:
            out = attend_in_blocks(query, key, value, mask, window or 0, is_global, scale, dropout)
        out = out.transpose(1, 2)[..., :head_dim]
    return out if mask is None else out.masked_fill(~mask[:, None, :, None], 0.0)


def visible_pairs(mask: Tensor, *, window: int | None, is_global: Tensor | None) -> Tensor:
    """Which token sees which, as one dense matrix: (batch, tokens, tokens), queries first.

    Two real tokens see each other where they are the same, at most `window` real tokens apart, or
    one of them is global. Padding sees nothing and is seen by nothing.

    Args:
        mask: (batch, tokens), True = real.
        window: In real tokens, on each side; None = no window.
        is_global: (batch, tokens), or None.
    """
    rank = mask.cumsum(dim=1)  # distances count real tokens
    visible = (rank.unsqueeze(2) - rank.unsqueeze(1)).abs() <= (window or 0)
    if is_global is not None:
        visible = visible | is_global.unsqueeze(2) | is_global.unsqueeze(1)
    return visible & mask.unsqueeze(2) & mask.unsqueeze(1)


def _is_short(tokens: int, window: int | None) -> bool:
    """Whether one fused dense call under a mask is no slower than blocks."""
    return tokens <= max(256, 4 * (window or 0))


def _check(like: Tensor, **fields: Tensor | None) -> None:
    """Refuse a field whose shape is not that of `like`."""
    for name, field in fields.items():
        if field is not None and field.shape != like.shape:
            raise ValueError(f"{name} has the shape {tuple(field.shape)}; it must be {tuple(like.shape)}")


def _with_bias(
    query: Tensor, key: Tensor, value: Tensor, group: Tensor, key_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the bias between groups as a part of the dot product, one more coordinate a group.

    The query has a 1 at its own group, the key its bias at every other: their product is the bias
    where the groups differ. The fused kernels would fall back to slow ones for a mask with gradients.
    """
    head_dim = query.shape[-1]
    # 0 * -inf is NaN. This is low enough for a weight of exactly 0, and `clamp` gives -inf the gradient 0.
    bias = key_bias.to(query.dtype).clamp(min=-3e4 if query.dtype == torch.float16 else -1e30)
    own = F.one_hot(group).to(query.dtype)  # (batch, tokens, groups)
    own = F.pad(own, (0, -own.shape[-1] % 8))  # an odd width is slower
    heads = (-1, -1, query.shape[2], -1)
    query = torch.cat([query, (own * head_dim**0.5).unsqueeze(2).expand(heads)], dim=-1)  # undoes the scale
    key = torch.cat([key, ((1 - own) * bias.unsqueeze(-1)).unsqueeze(2).expand(heads)], dim=-1)
    return query, key, F.pad(value, (0, own.shape[-1]))
