"""What the tests of the fusions share: random tokens, and attention written as one reads it."""

from __future__ import annotations

from typing import TypeVar

import torch
from diptych.encoders import Tokens
from diptych.fusion.attention import Attention
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def random_tokens(lengths: list[int], tokens: int, dim: int, *, present: list[bool] | None = None) -> Tokens:
    """Random states of which the first `lengths[row]` of a row are real; padding is random too."""
    mask = torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)
    there = torch.ones(len(lengths), dtype=torch.bool) if present is None else torch.tensor(present)
    return Tokens(torch.randn(len(lengths), tokens, dim), mask, there)


def shake(module: Module) -> Module:
    """Move every parameter off its starting value: no norm is the identity, no bias and no score is 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def attend_by_hand(attention: Attention, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """What one row's `queries` (queries, dim) see of its real `keys` (keys, dim), score by score.

    Returns:
        (queries, dim), and the weights (heads, queries, keys).
    """
    size = queries.shape[1] // attention.heads
    query, key, value = attention.query(queries), attention.key(keys), attention.value(keys)
    weights = queries.new_zeros(attention.heads, len(queries), len(keys))
    seen = torch.zeros_like(queries)
    for head in range(attention.heads):
        own = slice(head * size, (head + 1) * size)
        for i in range(len(queries)):
            scores = [torch.dot(query[i, own], key[j, own]) / size**0.5 for j in range(len(keys))]
            total = sum(score.exp() for score in scores)
            for j, score in enumerate(scores):
                weights[head, i, j] = score.exp() / total
                seen[i, own] += weights[head, i, j] * value[j, own]
    return attention.out(seen), weights
