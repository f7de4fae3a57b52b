"""Sparse self-attention: a sliding window and global tokens, exact, at a cost linear in the length."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:  # importing it takes most of a second: only where it is used
    from torch.nn.attention.flex_attention import BlockMask

FLEX_BLOCK = 128  # tokens a side of the squares that FlexAttention skips or computes


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
        attend = functools.partial(_attend, scale=head_dim**-0.5, dropout=dropout)
        if _is_short(tokens, window):
            real = query.new_ones(batch, tokens, dtype=torch.bool) if mask is None else mask
            visible = visible_pairs(real, window=window, is_global=is_global)
            visible = visible | torch.eye(tokens, dtype=torch.bool, device=visible.device)  # no empty softmax
            out = attend(query, key, value, visible.unsqueeze(1))
        else:
            out = _rows(query, key, value, mask, window or 0, is_global, attend)
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


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, dropout: float) -> Tensor:
    """Fused attention of (batch, tokens, heads, dim)."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2)


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


def _rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    window: int,
    is_global: Tensor | None,
    attend: Callable[..., Tensor],
) -> Tensor:
    """Row by row over its real tokens, packed; (batch, tokens, heads, dim) in and out."""
    batch, tokens = query.shape[:2]
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))  # (batch * tokens, heads, dim)
    lengths, real = [tokens] * batch, None
    if mask is not None and not bool(mask.all()):
        lengths, real = mask.sum(dim=1).tolist(), mask.flatten().nonzero().squeeze(1)
        query, key, value = (states.index_select(0, real) for states in (query, key, value))
    global_rows: list[Tensor | None] = [None] * batch
    if is_global is not None:
        flat = is_global.flatten() if real is None else is_global.flatten()[real]
        global_rows = list(flat.split(lengths))
    # One row needs no split, whose backward would copy.
    split = [[states] if batch == 1 else states.split(lengths) for states in (query, key, value)]
    outs = []
    for q, k, v, chosen in zip(*split, global_rows, strict=True):  # (real tokens, heads, dim) each
        if chosen is None or not bool(chosen.any()):
            outs.append(_Window.apply(q, k, v, k[:0], v[:0], None, window, attend))
            continue
        places = chosen.nonzero().squeeze(1)
        out = _Window.apply(q, k, v, k.index_select(0, places), v.index_select(0, places), chosen, window, attend)
        to_all = attend(q.index_select(0, places).unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), None)
        outs.append(out.index_copy_(0, places, to_all.squeeze(0)))
    out = outs[0] if batch == 1 else torch.cat(outs)
    if real is not None:
        out = out.new_zeros(batch * tokens, *out.shape[1:]).index_copy(0, real, out)
    return out.unflatten(0, (batch, tokens))


class _Window(torch.autograd.Function):
    """One row's window, and its global keys, in blocks of queries over the keys around each.

    A function of its own since plain autograd would, for the keys of overlapping blocks, fill and add
    arrays several times the row's size; here they are as large as one chunk of about 512 tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        global_key: Tensor,
        global_value: Tensor,
        is_global: Tensor | None,
        window: int,
        attend: Callable[..., Tensor],
    ) -> Tensor:
        """(tokens, heads, dim) from as much, and (global tokens, heads, dim)."""
        training = any(ctx.needs_input_grad)
        # Small blocks waste less on pairs out of the window, larger ones repeat fewer keys' gradients.
        # Global keys are copied to every block: there fewer, larger blocks are faster.
        tokens, chosen = len(query), len(global_key)
        block = 32 * max(1, window // (32 if chosen else 64 if training else 128))
        size, chunk = block + 2 * window, block * max(4, 512 // block)
        offset = torch.arange(size, device=query.device) - window - torch.arange(block, device=query.device)[:, None]
        near = offset.abs() <= window  # (block, size)
        inner = query.new_zeros(block, chosen + size)  # of every block far from the ends and from global keys
        inner[:, chosen:].masked_fill_(~near, float("-inf"))
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        ctx.parts, ctx.sizes = [], (block, window, chosen)
        for low in range(0, tokens, chunk):
            high = min(tokens, low + chunk)
            start, end = max(0, low - window), min(tokens, high + window)
            blocks = -(-(high - low) // block)
            before, after = start - (low - window), low + blocks * block + window - end
            mask = inner.expand(blocks, 1, -1, -1)
            if before or after or (is_global is not None and bool(is_global[start:end].any())):
                once = query.new_ones(end - start, dtype=torch.bool) if is_global is None else ~is_global[start:end]
                once = F.pad(once, (before, after)).unfold(0, size, block)  # a global key has its own column
                visible = once.unsqueeze(1) & near | (offset == 0)  # padding sees itself: no empty softmax
                mask = F.pad(visible, (chosen, 0), value=True).unsqueeze(1)  # (blocks, 1, block, chosen + size)
            queries = _pad(query[low:high], 0, blocks * block - (high - low)).unflatten(0, (blocks, block))
            keys = _around(key[start:end], before, after, size, block, global_key)
            values = _around(value[start:end], before, after, size, block, global_value)
            leaves = [states.detach().requires_grad_(training) for states in (queries, keys, values)]
            with torch.set_grad_enabled(training):
                seen = attend(*leaves, mask).flatten(0, 1)[: high - low]
            out[low:high] = seen.detach()
            if training:
                ctx.parts.append((low, high, leaves, seen))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Through each chunk's own graph; what the blocks say of one key is added up."""
        block, window, chosen = ctx.sizes
        to_query = torch.empty_like(grad, memory_format=torch.contiguous_format)
        room = -(-len(grad) // block) * block + 2 * window  # padded at both ends
        to_keys = [grad.new_zeros(room, *grad.shape[1:]) for _ in range(2)]
        to_globals = [grad.new_zeros(chosen, *grad.shape[1:]) for _ in range(2)]
        for low, high, leaves, seen in ctx.parts:
            queries, *others = torch.autograd.grad(seen, leaves, grad[low:high], retain_graph=True)
            to_query[low:high] = queries.flatten(0, 1)[: high - low]
            for to_key, to_global, part in zip(to_keys, to_globals, others, strict=True):
                to_global += part[:, :chosen].sum(dim=0)
                for first in range(0, block + 2 * window, block):
                    piece = part[:, chosen + first : chosen + first + block]  # (blocks, up to block, heads, dim)
                    place = to_key[low + first :].unfold(0, piece.shape[1], block)[: len(piece)].movedim(-1, 1)
                    place += piece
        return to_query, *(to_key[window : window + len(grad)] for to_key in to_keys), *to_globals, None, None, None


def _pad(states: Tensor, before: int, after: int) -> Tensor:
    """Zeros before and after the tokens of (tokens, heads, dim); no copy where there are none."""
    return F.pad(states, (0, 0, 0, 0, before, after)) if before or after else states


def _around(states: Tensor, before: int, after: int, size: int, block: int, chosen: Tensor) -> Tensor:
    """The `chosen` tokens and the `size` around each block: (blocks, chosen + size, heads, dim)."""
    around = _pad(states, before, after).unfold(0, size, block).movedim(-1, 1)  # a view: nothing is copied
    return torch.cat([chosen.expand(len(around), -1, -1, -1), around], dim=1) if len(chosen) else around


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
