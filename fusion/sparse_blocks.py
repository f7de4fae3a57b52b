"""Sparse attention on CPU: blocks of queries over the keys around each, in one fused call for many of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = 256  # tokens computed at once, about; twice that where nothing is copied

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]  # query, key, value and mask of one fused call


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    """Fused attention of (batch, tokens, heads, dim)."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2)


def attend_in_blocks(
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
        return attend(*inputs, scale, dropout), None
    query, key, value, mask = inputs
    if query.device.type == "cpu" and dropout == 0.0:
        # What `scaled_dot_product_attention` calls here, but it does not return the logarithms of the softmax's
        # sums. With them the backward pass needs neither a graph of each part nor its forward pass again.
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, logs = flash(*(states.transpose(1, 2) for states in (query, key, value)), attn_mask=mask, scale=scale)
        return out.transpose(1, 2), logs
    leaves = query, key, value = tuple(states.detach().requires_grad_() for states in (query, key, value))
    with torch.enable_grad():
        seen = attend(query, key, value, mask, scale, dropout)
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
