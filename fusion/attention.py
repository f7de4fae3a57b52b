"""Multi-head attention of one sequence of tokens to another, and pooling by attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .packing import Packing


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al., 2017), over the real keys.

    Args:
        dim: Width of queries, keys and the output; `heads` must divide it.
        heads: Number of heads.
        dropout: On the attention weights, in training.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads is {heads}; it must be at least 1 and divide the hidden size, {dim}")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        key_mask: Tensor,
        *,
        packing: tuple[Packing, Packing] | None = None,
        score_bias: Tensor | None = None,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from `queries` to `keys`.

        Args:
            queries: (batch, queries, dim).
            keys: (batch, keys, dim).
            key_mask: (batch, keys), True = a real key; at least one in each row.
            packing: By which queries and keys are packed, if they are; what comes out is packed as the queries.
            score_bias: (batch, queries, keys), added to the scores of every head; -inf hides a key
                from a query, which must be left with at least one.
            return_weights: Whether to give the attention weights as well (slower).

        Returns:
            (batch, queries, dim), and the weights (batch, heads, queries, keys): each row sums to
            1 over the keys, padded keys get exactly 0. None unless asked for.
        """
        query, key, value = self.query(queries), self.key(keys), self.value(keys)
        if packing is not None:
            query, key, value = packing[0].pad(query), packing[1].pad(key), packing[1].pad(value)
        query, key, value = self._split(query), self._split(key), self._split(value)
        mask = key_mask[:, None, None, :]  # the same for every head and query
        if score_bias is not None:
            mask = score_bias.unsqueeze(1).masked_fill(~mask, float("-inf"))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if return_weights:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (batch, heads, queries, keys)
            scores = scores.masked_fill(~mask, float("-inf")) if score_bias is None else scores + mask
            weights = scores.softmax(dim=-1)
            seen = F.dropout(weights, dropout) @ value
        else:
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        seen = seen.transpose(1, 2).flatten(2)  # (batch, queries, dim)
        return self.out(seen if packing is None else packing[0].pack(seen)), weights

    def _split(self, states: Tensor) -> Tensor:
        """(batch, tokens, dim) to (batch, heads, tokens, dim / heads)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AttentionPool(nn.Module):
    """One vector for a sequence: a learned query attends to its real tokens.

    Args:
        dim: Width of the tokens.
        heads: Number of heads.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(dim) * 0.02)
        self.attention = Attention(dim, heads=heads)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(batch, dim) from (batch, tokens, dim) and the mask (batch, tokens) of its real tokens.

        What `self.attention` gives for that query; but as all tokens meet the same one, its key matrix is taken to
        the query and its value matrix to the pooled states, so that neither passes over every token.
        """
        attention = self.attention
        query = attention.query(self.query.unsqueeze(0)).unflatten(1, (attention.heads, -1))[0]  # (heads, head_dim)
        key, key_bias = (part.unflatten(0, (attention.heads, -1)) for part in _parameters(attention.key))
        value, value_bias = _parameters(attention.value)
        value = value.unflatten(0, (attention.heads, -1))  # (heads, head_dim, dim), as key
        query = query / math.sqrt(query.shape[-1])
        asked = (query.unsqueeze(1) @ key).squeeze(1)  # (heads, dim)
        bias = (query * key_bias).sum(-1)  # (heads,)
        scores = states @ asked.T + bias  # (batch, tokens, heads)
        weights = scores.masked_fill(~mask.unsqueeze(-1), float("-inf")).softmax(dim=1)
        seen = weights.transpose(1, 2) @ states  # (batch, heads, dim)
        pooled = (value @ seen.permute(1, 2, 0)).permute(2, 0, 1).flatten(1) + value_bias  # (batch, dim)
        return attention.out(pooled)


def _parameters(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer, also of one that torch has quantized, whose are methods."""
    weight, bias = linear.weight, linear.bias
    return (weight, bias) if isinstance(weight, Tensor) else (weight().dequantize(), bias())


def feed_forward(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """The two-layer network that follows attention in a transformer block; its input is normed first."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, dim),
        nn.Dropout(dropout),
    )
