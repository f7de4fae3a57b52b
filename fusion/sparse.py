"""Sparse self-attention: a sliding window and global tokens, exact, at a cost linear in the length."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:  # importing it takes most of a second: only where it is used
    from torch.nn.attention.flex_attention import BlockMask

CHUNK = 256  # tokens computed at once on CPU, about; twice that where nothing is copied
FLEX_BLOCK = 128  # tokens a side of the squares that FlexAttention skips or computes

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # query, key, value and mask of one fused call


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
            out = _attend(query, key, value, visible.unsqueeze(1), scale, dropout)
        else:
            out = _rows(query, key, value, mask, window or 0, is_global, scale, dropout)
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


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
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
    scale: float,
    dropout: float,
) -> Tensor:
    """All rows, their real tokens packed one after another; (batch, tokens, heads, dim) in and out."""
    batch, tokens = query.shape[:2]
    packed = [states.flatten(0, 1) for states in (query, key, value)]  # (batch * tokens, heads, dim)
    chosen = packed[0].new_zeros(batch * tokens, dtype=torch.bool) if is_global is None else is_global.flatten()
    lengths, real = [tokens] * batch, None
    if mask is not None and not bool(mask.all()):
        lengths, real = mask.sum(dim=1).tolist(), mask.flatten().nonzero().squeeze(1)
        packed = [states.index_select(0, real) for states in packed]
        chosen = chosen[real]
    out: Tensor = _Packed.apply(*packed, chosen, lengths, window, scale, dropout)
    if real is not None:
        out = out.new_zeros(batch * tokens, *out.shape[1:]).index_copy(0, real, out)
    return out.unflatten(0, (batch, tokens))


class _Packed(torch.autograd.Function):
    """Attention of packed rows, part by part.

    A function of its own since plain autograd would, for the keys of overlapping blocks, keep, fill and
    add arrays several times the rows' size. Here they are as large as one part's, and what is kept for the
    backward pass is what one dense call keeps.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        is_global: Tensor,
        lengths: list[int],
        window: int,
        scale: float,
        dropout: float,
    ) -> Tensor:
        """(tokens, heads, dim) from as much; `is_global` is (tokens), `lengths` are the rows'."""
        training = any(ctx.needs_input_grad)
        three = [_last_dense(states) for states in (query, key, value)]
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        ctx.parts, ctx.kept = list(_parts(is_global, lengths, window, training)), []
        for part in ctx.parts:
            seen, kept = _attend_and_keep(part.inputs(*three), scale, dropout, training)
            part.put(out, seen)
            ctx.kept.append(kept)
        ctx.save_for_backward(*three, out)
        ctx.window, ctx.scale = window, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Through each part; what the parts say of one token is added up."""
        *three, out = ctx.saved_tensors
        grad = _last_dense(grad)
        to_query = torch.empty_like(out)  # the chunks write all of it, global queries add to it
        # The first and last blocks of a row have keys beyond it; what is added to those is 0.
        to_keys = [out.new_zeros(len(out) + 3 * ctx.window + 32, *out.shape[1:]) for _ in range(2)]
        for part, kept in zip(ctx.parts, ctx.kept, strict=True):
            for piece in part.pieces(kept):
                inputs = piece.inputs(*three)
                part_grads = _attend_back(piece.own(grad), piece.queries(out), inputs, kept, ctx.scale)
                piece.add(part_grads, to_query, to_keys)
                del inputs, part_grads  # or they would stand beside the next piece's
        return to_query, *(to_key[ctx.window :][: len(out)] for to_key in to_keys), None, None, None, None, None


def _parts(is_global: Tensor, lengths: list[int], window: int, training: bool) -> Iterator[_Chunk | _Globals]:
    """Of each row the chunks, then the global queries, whose output replaces what the chunks wrote there."""
    start = 0
    for length in lengths:
        end = start + length
        chosen = is_global[start:end].nonzero().squeeze(1) + start
        # Small blocks waste less on pairs out of the window, larger ones repeat fewer keys' gradients.
        # Global keys are copied to every block: there fewer, larger blocks are faster.
        block = 32 * max(1, window // (32 if len(chosen) else 64 if training else 128))
        step = block * max(2, (CHUNK if training or len(chosen) else 2 * CHUNK) // block)
        for low in range(start, end, step):
            yield _Chunk(start, end, chosen, window, low, min(end, low + step), block)
        if len(chosen):
            yield _Globals(start, end, chosen, window)
        start = end


@dataclass(frozen=True)
class _Globals:
    """The global queries of one row of several packed ones, over its tokens from `start` to `end`."""

    start: int
    end: int
    chosen: Tensor  # where its global tokens stand
    window: int

    def pieces(self, kept: Any) -> list[_Globals]:
        """Parts for the backward pass: given the logarithms of its sums, a softmax's falls apart by keys."""
        if isinstance(kept, tuple):
            return [self]
        lows = range(self.start, self.end, CHUNK)
        return [replace(self, start=low, end=min(self.end, low + CHUNK)) for low in lows]

    def inputs(self, query: Tensor, key: Tensor, value: Tensor) -> Inputs:
        """Queries, keys and values, (1, tokens, heads, dim), and no mask."""
        row = slice(self.start, self.end)
        return self.queries(query), key[row].unsqueeze(0), value[row].unsqueeze(0), None

    def queries(self, states: Tensor) -> Tensor:
        """What stands where the queries stand, in their shape."""
        return states[self.chosen].unsqueeze(0)

    def own(self, grad: Tensor) -> Tensor:
        """The gradient of what this part says of the output, in the queries' shape."""
        return self.queries(grad)

    def put(self, out: Tensor, seen: Tensor) -> None:
        """Write the output of the queries where they stand."""
        out[self.chosen] = seen.squeeze(0)

    def add(self, parts: list[Tensor], to_query: Tensor, to_keys: list[Tensor]) -> None:
        """Add the gradients of the inputs to those of all tokens; keys' begin `window` later."""
        to_query[self.chosen] += parts[0].squeeze(0)
        for to_key, part in zip(to_keys, parts[1:], strict=True):
            to_key[self.window + self.start : self.window + self.end] += part.squeeze(0)


@dataclass(frozen=True)
class _Chunk:
    """The queries from `low` to `high` of one row, in blocks, over the global keys and those around each block."""

    start: int  # of the row
    end: int
    chosen: Tensor  # where its global tokens stand
    window: int
    low: int
    high: int
    block: int  # queries

    def pieces(self, kept: Any) -> list[_Chunk]:
        return [self]

    def inputs(self, query: Tensor, key: Tensor, value: Tensor) -> Inputs:
        """Queries (blocks, block, heads, dim), keys and values (blocks, keys, heads, dim) and their mask."""
        blocks, size = -(-(self.high - self.low) // self.block), self.block + 2 * self.window
        first, last = max(self.start, self.low - self.window), min(self.end, self.high + self.window)
        before, after = first - (self.low - self.window), self.low + blocks * self.block + self.window - last
        around = (_pad(states[first:last], before, after).unfold(0, size, self.block) for states in (key, value))
        keys, values = (states.movedim(-1, 1) for states in around)  # views: nothing is copied
        if len(self.chosen):
            keys, values = (
                torch.cat([states[self.chosen].expand(blocks, -1, -1, -1), around], dim=1)
                for states, around in ((key, keys), (value, values))
            )
        offset = torch.arange(size, device=query.device) - self.window
        offset = offset - torch.arange(self.block, device=query.device).unsqueeze(1)  # (block, size)
        once = query.new_ones(1, size, dtype=torch.bool)
        inside = self._inside(first, last)
        if before or after or len(inside):  # else one mask serves all blocks
            once = query.new_ones(last - first, dtype=torch.bool).index_fill(0, inside, False)
            once = F.pad(once, (before, after)).unfold(0, size, self.block)  # a global key has its own column
        visible = once.unsqueeze(1) & (offset.abs() <= self.window) | (offset == 0)  # padding sees itself
        visible = F.pad(visible, (len(self.chosen), 0), value=True).unsqueeze(1)
        mask = query.new_zeros(visible.shape).masked_fill_(~visible, float("-inf"))
        return self.queries(query), keys, values, mask.expand(blocks, -1, -1, -1)

    def queries(self, states: Tensor) -> Tensor:
        return self._blocks(states[self.low : self.high])

    def own(self, grad: Tensor) -> Tensor:
        inside = self._inside(self.low, self.high)  # of these the other part writes the output
        grad = grad[self.low : self.high]
        return self._blocks(grad.index_fill(0, inside, 0.0) if len(inside) else grad)

    def put(self, out: Tensor, seen: Tensor) -> None:
        out[self.low : self.high] = seen.flatten(0, 1)[: self.high - self.low]

    def add(self, parts: list[Tensor], to_query: Tensor, to_keys: list[Tensor]) -> None:
        to_query[self.low : self.high] = parts[0].flatten(0, 1)[: self.high - self.low]
        for to_key, part in zip(to_keys, parts[1:], strict=True):
            chosen, around = part[:, : len(self.chosen)], part[:, len(self.chosen) :]
            to_key.index_add_(0, self.window + self.chosen, chosen.sum(dim=0))
            for first in range(0, around.shape[1], self.block):  # no two of these pieces are of one key
                piece = around[:, first : first + self.block]  # (blocks, up to block, heads, dim)
                place = to_key[self.low + first :].unfold(0, piece.shape[1], self.block)[: len(piece)]
                place.movedim(-1, 1).add_(piece)

    def _blocks(self, states: Tensor) -> Tensor:
        """(blocks, block, heads, dim), filled with zeros."""
        return _pad(states, 0, -len(states) % self.block).unflatten(0, (-1, self.block))

    def _inside(self, first: int, last: int) -> Tensor:
        """Which of the tokens from `first` to `last` are global."""
        return self.chosen[(self.chosen >= first) & (self.chosen < last)] - first


def _attend_and_keep(inputs: Inputs, scale: float, dropout: float, training: bool) -> tuple[Tensor, Any]:
    """`_attend`, and what `_attend_back` needs besides the inputs and the output."""
    if not training:
        return _attend(*inputs, scale, dropout), None
    query, key, value, mask = inputs
    if query.device.type == "cpu" and dropout == 0.0:
        # What `scaled_dot_product_attention` calls here, but it does not return the logarithms of the softmax's
        # sums. With them the backward pass needs neither a graph of each part nor its forward pass again.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, logs = flash(*(states.transpose(1, 2) for states in (query, key, value)), attn_mask=mask, scale=scale)
        return out.transpose(1, 2), logs
    leaves = query, key, value = tuple(states.detach().requires_grad_() for states in (query, key, value))
    with torch.enable_grad():
        seen = _attend(query, key, value, mask, scale, dropout)
    return seen.detach(), (seen, leaves)


def _attend_back(grad: Tensor, out: Tensor, inputs: Inputs, kept: Any, scale: float) -> list[Tensor]:
    """The gradients of query, key and value."""
    if isinstance(kept, tuple):
        seen, leaves = kept
        return list(torch.autograd.grad(seen, leaves, grad, retain_graph=True))
    grad, query, key, value, out = (states.transpose(1, 2) for states in (grad, *inputs[:3], out))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grads = flash(grad, query, key, value, out, kept, 0.0, False, attn_mask=inputs[3], scale=scale)
    return [states.transpose(1, 2) for states in grads]


def _last_dense(states: Tensor) -> Tensor:
    """The same, with the numbers of one head side by side: the flash kernel does not look."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _pad(states: Tensor, before: int, after: int) -> Tensor:
    """Zeros before and after the tokens of (tokens, heads, dim); no copy where there are none."""
    return F.pad(states, (0, 0, 0, 0, before, after)) if before or after else states


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
