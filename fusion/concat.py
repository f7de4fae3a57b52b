"""Two late fusions to compare with: both see one pooled vector per half, no regions, no words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens
from .fused import Fused


class ConcatFusion(nn.Module):
    """The model this project starts from: concatenate, then attend to a sequence of length one.

    Each half's mean token passes Linear, LayerNorm and Dropout; both are concatenated, and the
    concatenation, as a sequence of one token, attends to itself and is added to the result. A
    softmax over one key is the constant 1: nothing is weighed, the attention is a linear layer.

    Args:
        dim: Width of the tokens; the features are 2 * dim wide.
        heads: Heads of the attention; must divide 2 * dim.
        dropout: In training.
    """

    def __init__(self, dim: int, *, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if heads < 1 or 2 * dim % heads:
            raise ValueError(f"heads is {heads}; it must be at least 1 and divide twice the hidden size, {2 * dim}")
        self.out_dim = 2 * dim
        self.image = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Dropout(dropout))
        self.text = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Dropout(dropout))
        self.attention = nn.MultiheadAttention(2 * dim, heads, dropout=dropout, batch_first=True)

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Features (batch, 2 * dim) of region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Raises:
            ValueError: `modality_weights` are given; this fusion has none.
        """
        _refuse(modality_weights, "concat")
        both = torch.cat([self.image(image.mean()), self.text(text.mean())], dim=-1)  # (batch, 2 * dim)
        one = both.unsqueeze(1)  # a sequence of one token
        seen, weights = self.attention(one, one, one, need_weights=return_attentions, average_attn_weights=False)
        attentions = {"joint": weights.unsqueeze(1)} if return_attentions else {}
        return Fused(both + seen.squeeze(1), attentions=attentions)


class MLPFusion(nn.Module):
    """The honest late fusion: a small network over both pooled vectors.

    Args:
        dim: Width of the tokens, of the hidden layer and of the features.
        dropout: In training.
    """

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.out_dim = dim
        self.norm_image = nn.LayerNorm(dim)
        self.norm_text = nn.LayerNorm(dim)
        self.network = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout)
        )

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Features (batch, dim) of region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Raises:
            ValueError: `modality_weights` are given; this fusion has none.
        """
        _refuse(modality_weights, "mlp")
        pooled = torch.cat([self.norm_image(image.mean()), self.norm_text(text.mean())], dim=-1)  # (batch, 2 * dim)
        features: Tensor = self.network(pooled)
        return Fused(features)


def _refuse(modality_weights: Tensor | None, fusion: str) -> None:
    if modality_weights is not None:
        raise ValueError(f"the {fusion} fusion has no modality weights to replace")
