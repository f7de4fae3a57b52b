"""The layers of the fusions, written as one reads them."""

from __future__ import annotations

import math

import torch
from diptych.fusion.attention import Attention
from torch import Tensor, nn


def attend_by_hand(
    attention: Attention, queries: Tensor, keys: Tensor, bias: list[list[float]] | None = None
) -> tuple[Tensor, Tensor]:
    """What one row's `queries` (queries, dim) see of its real `keys` (keys, dim), score by score.

    `bias[i][j]` is added to the score that query i gives key j; at -inf it isn't seen.

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
            if bias is not None:
                scores = [score + bias[i][j] for j, score in enumerate(scores)]
            total = sum(score.exp() for score in scores)
            for j, score in enumerate(scores):
                weights[head, i, j] = score.exp() / total
                seen[i, own] += weights[head, i, j] * value[j, own]
    return attention.out(seen), weights


def norm_by_hand(layer: nn.LayerNorm, states: Tensor) -> Tensor:
    """Layer normalisation of (..., dim)."""
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def feed_by_hand(network: nn.Sequential, states: Tensor) -> Tensor:
    """`attention.feed_forward` of (..., dim), without dropout: norm, linear, GELU, linear."""
    first, second = network[1], network[4]
    hidden = norm_by_hand(network[0], states) @ first.weight.T + first.bias
    activated = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return activated @ second.weight.T + second.bias
