"""What the tests of the fusions share: every fusion, random tokens, and the layers written as one reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from diptych.encoders import NullTokens, Tokens
from diptych.fusion import BilinearFusion, ConcatFusion, CrossModalFusion, MLPFusion, SelfAttentionFusion
from diptych.fusion.attention import Attention
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

BLOCKS: dict[str, Any] = {"layers": 2, "heads": 2, "hidden": 12, "dropout": 0.1}
PATTERNS: dict[str, dict[str, Any]] = {
    "dense": {},
    "sliding-window": {"window": 5},
    "global": {"global_tokens": (0, 2)},
    "sliding-window+global": {"window": 1, "global_tokens": (0, 2)},
}
FUSIONS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "cross-modal": (CrossModalFusion, BLOCKS),
    "bilinear": (BilinearFusion, {"glimpses": 2, "rank": 6, "heads": 2, "hidden": 12, "dropout": 0.1}),
    "concat": (ConcatFusion, {}),
    "mlp": (MLPFusion, {"dropout": 0.1}),
} | {
    f"self-attention {pattern}": (SelfAttentionFusion, BLOCKS | {"pattern": pattern} | own)
    for pattern, own in PATTERNS.items()
}


def make_fusion(kind: str, dim: int, *, seed: int = 0, **options: Any) -> Any:
    """One of `FUSIONS`, in evaluation, with random weights none of which is at its start; gated if not said."""
    torch.manual_seed(seed)
    fusion, usual = FUSIONS[kind]
    return shake(fusion(dim, **(usual | {"gated": True} | options))).eval()


def random_tokens(lengths: list[int], tokens: int, dim: int, *, present: list[bool] | None = None) -> Tokens:
    """Random states of which the first `lengths[row]` of a row are real; padding is random too."""
    mask = torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)
    there = torch.ones(len(lengths), dtype=torch.bool) if present is None else torch.tensor(present)
    return Tokens(torch.randn(len(lengths), tokens, dim), mask, there)


UNEVEN_WEIGHTS = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
"""Modality weights for `uneven_halves`; the third row shuts out an image that is there."""


def uneven_halves(dim: int, seed: int = 1) -> tuple[Tokens, Tokens]:
    """Five rows of up to 3 regions and 4 words: two are padded, the last two lack one half, which holds its null."""
    torch.manual_seed(seed)
    image = random_tokens([3, 2, 3, 3, 3], 3, dim, present=[True, True, True, False, True])
    text = random_tokens([4, 1, 2, 3, 4], 4, dim, present=[True, True, True, True, False])
    with torch.no_grad():
        return shake(NullTokens(dim))(image, text)


def rows_of(tokens: Tokens, order: Sequence[int]) -> Tokens:
    """These rows, in this order."""
    chosen = list(order)
    return Tokens(tokens.states[chosen], tokens.mask[chosen], tokens.present[chosen])


def refill(tokens: Tokens, what: float) -> Tokens:
    """Other numbers in the padded places."""
    return replace(tokens, states=torch.where(tokens.mask.unsqueeze(-1), tokens.states, what))


def lengthen(tokens: Tokens, more: int, what: float) -> Tokens:
    """More padding, that holds `what`."""
    states = nn.functional.pad(tokens.states, (0, 0, 0, more), value=what)
    return replace(tokens, states=states, mask=nn.functional.pad(tokens.mask, (0, more)))


def doubled(tokens: Tokens) -> Tokens:
    """The same in float64."""
    return replace(tokens, states=tokens.states.double())


def forced(image: float, text: float, batch: int = 3) -> Tensor:
    """The same modality weights for each row."""
    return torch.tensor([[image, text]] * batch)


def shake(module: Module) -> Module:
    """Move every parameter off its starting value: no norm is the identity, no bias and no score is 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


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
