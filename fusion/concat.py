"""Two late fusions to compare with: both see one pooled vector per half, no regions, no words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.tokens import Tokens
from .fused import Fused
from .gate import modality_gate


class ConcatFusion(nn.Module):
    """The model this project starts from: concatenate, then attend to a sequence of length one.

    Each half's mean token passes Linear, LayerNorm and Dropout; both are concatenated, and the
    concatenation, as a sequence of one token, attends to itself and is added to the result. A
    softmax over one key is the constant 1: nothing is weighed, the attention is a linear layer.

    Args:
        dim: Width of the tokens; the features are 2 * dim wide.
        heads: Heads of the attention; must divide 2 * dim.
        dropout: In training.
        gated: Whether modality weights are learned, which multiply the halves; with equal weights this is
            the model as it was written.
        fixed_norm: As for `CrossModalFusion`.
    """

    def __init__(
        self, dim: int, *, heads: int = 8, dropout: float = 0.1, gated: bool = False, fixed_norm: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or 2 * dim % heads:
            raise ValueError(f"heads is {heads}; it must be at least 1 and divide twice the hidden size, {2 * dim}")
        self.out_dim = 2 * dim
        self.gate = modality_gate(dim, gated)
        self.image = nn.Sequential(
            nn.Linear(dim, dim), nn.LayerNorm(dim, elementwise_affine=not fixed_norm), nn.Dropout(dropout)
        )
        self.text = nn.Sequential(
            nn.Linear(dim, dim), nn.LayerNorm(dim, elementwise_affine=not fixed_norm), nn.Dropout(dropout)
        )
        self.attention = _OneToken(2 * dim, heads, dropout=dropout, batch_first=True)

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Features (batch, 2 * dim) of region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Args: see `CrossModalFusion.forward`; the one attention map is `joint` (batch, 1, heads, 1, 1).
        """
        weights = self.gate(image, text) if modality_weights is None else modality_weights
        both = _weighed(self.image(image.mean()), self.text(text.mean()), weights, image, text)  # (batch, 2 * dim)
        seen, maps = self.attention(both)
        attentions = {"joint": maps.unsqueeze(1)} if return_attentions else {}
        return Fused(both + seen, weights, attentions)


class _OneToken(nn.MultiheadAttention):
    """`nn.MultiheadAttention` of a sequence of one token to itself.

    The softmax over one key is 1; what is left are a linear map, dropout and another linear map.
    """

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """States (batch, dim), and the map (batch, heads, 1, 1)."""
        maps = F.dropout(states.new_ones(len(states), self.num_heads, 1, 1), self.dropout, self.training)
        width = states.shape[1]
        value = F.linear(states, self.in_proj_weight[-width:], self.in_proj_bias[-width:])
        heads = value.unflatten(1, (self.num_heads, -1)) * maps.squeeze(-1)  # (batch, heads, head_dim)
        return self.out_proj(heads.flatten(1)), maps


class MLPFusion(nn.Module):
    """The honest late fusion: a small network over both pooled vectors.

    Args:
        dim: Width of the tokens, of the hidden layer and of the features.
        dropout: In training.
        gated: Whether modality weights are learned, which multiply the halves.
        fixed_norm: As for `CrossModalFusion`.
    """

    def __init__(self, dim: int, *, dropout: float, gated: bool = True, fixed_norm: bool = False) -> None:
        super().__init__()
        self.out_dim = dim
        self.gate = modality_gate(dim, gated)
        self.norm_image = nn.LayerNorm(dim, elementwise_affine=not fixed_norm)
        self.norm_text = nn.LayerNorm(dim, elementwise_affine=not fixed_norm)
        self.network = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout)
        )

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Features (batch, dim) of region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Args: see `CrossModalFusion.forward`; there is no attention here, and no map.
        """
        weights = self.gate(image, text) if modality_weights is None else modality_weights
        pooled = _weighed(self.norm_image(image.mean()), self.norm_text(text.mean()), weights, image, text)
        features: Tensor = self.network(pooled)
        return Fused(features, weights)


def _weighed(image_vector: Tensor, text_vector: Tensor, weights: Tensor, image: Tokens, text: Tokens) -> Tensor:
    """Both vectors (batch, dim) times twice their weights, concatenated: unchanged at equal weights.

    In a row that lacks a half there is nothing to weigh: its null token's vector, which has to be able
    to say that there is nothing here, and the other half come in as they are.
    """
    scale = torch.where((image.present & text.present).unsqueeze(1), 2 * weights, 1.0)  # (batch, 2)
    return torch.cat([image_vector * scale[:, :1], text_vector * scale[:, 1:]], dim=-1)
