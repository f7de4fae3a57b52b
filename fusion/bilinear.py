"""Bilinear attention: one map over all pairs of a region and a word, and what such pairs say together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens
from .attention import AttentionPool, feed_forward
from .fused import Fused
from .gate import attention_gates, modality_gate


class BilinearFusion(nn.Module):
    """Low-rank bilinear attention with several glimpses (Kim et al., Bilinear Attention Networks, 2018).

    Each glimpse weighs every pair of a region and a word by one softmax over all of them, and pools
    the product of both by these weights; the next glimpse sees the words with what the ones before it
    found added to them (the paper's residual). With w = (w_image, w_text) the row's modality weights:

        z = w_image * w_text * norm(pairs) + w_image * norm(pool(image)) + w_text * norm(pool(text))

    followed by one feed-forward layer, as the paper's classifier has.

    Args:
        dim: Width of the tokens, and of the features that come out.
        glimpses: Number of maps.
        rank: Width of the space in which regions and words are multiplied.
        heads: Heads of the attention that pools each half; must divide `dim`.
        hidden: Width of the feed-forward layer.
        dropout: On the maps, the feed-forward layer and the features, in training.
        gated: Whether modality weights are learned; else they are equal, unless they are given.
        fixed_norm: As for `CrossModalFusion`.
    """

    def __init__(
        self,
        dim: int,
        *,
        glimpses: int,
        rank: int,
        heads: int,
        hidden: int,
        dropout: float,
        gated: bool = True,
        fixed_norm: bool = False,
    ) -> None:
        super().__init__()
        if glimpses < 1:
            raise ValueError(f"glimpses is {glimpses}; it must be at least 1")
        self.out_dim = dim
        self.gate = modality_gate(dim, gated)
        self.attention = BilinearAttention(dim, glimpses=glimpses, rank=rank)
        self.pooled_regions = nn.ModuleList(nn.Linear(dim, rank) for _ in range(glimpses))
        self.pooled_words = nn.ModuleList(nn.Linear(dim, rank) for _ in range(glimpses))
        self.out = nn.ModuleList(nn.Linear(rank, dim) for _ in range(glimpses))
        self.before_regions, self.before_words = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.pool_image, self.pool_text = AttentionPool(dim, heads=heads), AttentionPool(dim, heads=heads)
        self.norm_pairs, self.norm_image, self.norm_text = (
            nn.LayerNorm(dim, elementwise_affine=not fixed_norm) for _ in range(3)
        )
        self.feed_forward = feed_forward(dim, hidden, dropout)
        self.map_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Fuse region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Args:
            image, text, modality_weights: As of `CrossModalFusion.forward`.
            return_attentions: Whether to give the map `pairs` (batch, 1, glimpses, regions, words);
                each glimpse sums to 1 over all pairs of a region and a word.
        """
        weights = self.gate(image, text) if modality_weights is None else modality_weights  # (batch, 2)
        regions, words = self.before_regions(image.states), self.before_words(text.states)
        maps = self.attention(regions, words, image.mask, text.mask)  # (batch, glimpses, regions, words)
        dropped = self.map_dropout(maps)
        found = torch.zeros_like(words[:, 0])  # (batch, dim)
        for glimpse, (region_layer, word_layer, out) in enumerate(
            zip(self.pooled_regions, self.pooled_words, self.out, strict=True)
        ):
            by_word = dropped[:, glimpse].transpose(1, 2) @ region_layer(regions)  # (batch, words, rank)
            pooled = (by_word * word_layer(words + found.unsqueeze(1))).sum(dim=1)  # (batch, rank)
            found = found + out(pooled)
        image_gate, text_gate = (gate.squeeze(-1) for gate in attention_gates(weights, image, text))  # (batch, 1)
        features = (
            image_gate * text_gate * self.norm_pairs(found)
            + weights[:, :1] * self.norm_image(self.pool_image(image.states, image.mask))
            + weights[:, 1:] * self.norm_text(self.pool_text(text.states, text.mask))
        )  # (batch, dim)
        features = self.dropout(features + self.feed_forward(features))
        return Fused(features, weights, {"pairs": maps.unsqueeze(1)} if return_attentions else {})


class BilinearAttention(nn.Module):
    """A softmax over all pairs of a region and a word, once for each glimpse.

    The score of a pair is p . (relu(U region) * relu(V word)), with one p for each glimpse.

    Args: see `BilinearFusion`.
    """

    def __init__(self, dim: int, *, glimpses: int, rank: int) -> None:
        super().__init__()
        self.regions = nn.Linear(dim, rank)
        self.words = nn.Linear(dim, rank)
        self.glimpses = nn.Parameter(torch.randn(glimpses, rank))

    def forward(self, regions: Tensor, words: Tensor, region_mask: Tensor, word_mask: Tensor) -> Tensor:
        """Maps (batch, glimpses, regions, words); pairs with padding get exactly 0.

        Args:
            regions: (batch, regions, dim).
            words: (batch, words, dim).
            region_mask: (batch, regions), True = real; at least one in each row.
            word_mask: (batch, words), likewise.
        """
        left, right = self.regions(regions).relu(), self.words(words).relu()
        by_glimpse = left.unsqueeze(1) * self.glimpses[:, None, :]  # (batch, glimpses, regions, rank)
        scores = by_glimpse @ right.unsqueeze(1).transpose(-1, -2) / math.sqrt(right.shape[-1])
        real = region_mask.unsqueeze(-1) & word_mask.unsqueeze(1)  # (batch, regions, words)
        scores = scores.masked_fill(~real.unsqueeze(1), float("-inf"))
        return scores.flatten(2).softmax(dim=-1).unflatten(2, scores.shape[2:])
