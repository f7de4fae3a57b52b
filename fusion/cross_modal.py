"""Cross-modal attention: image regions look at words and words at image regions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens
from .attention import Attention, AttentionPool, feed_forward
from .fused import Fused
from .gate import attention_gates, modality_gate
from .packing import Packing


class CrossModalFusion(nn.Module):
    """Blocks of attention in both directions (after ViLBERT, Lu et al., 2019), weighed row by row.

    With w = (w_image, w_text) the row's modality weights:

        text  += w_image * attend(text -> image)
        image += w_text  * attend(image -> text)
        z      = w_image * norm(pool(image)) + w_text * norm(pool(text))

    At w_image = 0 nothing of the image reaches z, at w_text = 0 nothing of the text.

    Args:
        dim: Width of the tokens, and of the features that come out.
        layers: Number of blocks.
        heads: Heads of each attention; must divide `dim`.
        hidden: Width of the feed-forward layers.
        dropout: On attention weights, feed-forward layers and features, in training.
        gated: Whether modality weights are learned; else they are equal, unless they are given.
        fixed_norm: Whether what a weight multiplies is normed without a learned scale first, `attend` too, so that no
            parameter before the multiplication can undo it.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
        gated: bool = True,
        fixed_norm: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = dim
        self.gate = modality_gate(dim, gated)
        self.blocks = nn.ModuleList(
            CrossModalBlock(dim, heads=heads, hidden=hidden, dropout=dropout, fixed_norm=fixed_norm)
            for _ in range(layers)
        )
        self.pool_image = AttentionPool(dim, heads=heads)
        self.pool_text = AttentionPool(dim, heads=heads)
        self.norm_image = nn.LayerNorm(dim, elementwise_affine=not fixed_norm)
        self.norm_text = nn.LayerNorm(dim, elementwise_affine=not fixed_norm)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Fuse region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Args:
            image: Region tokens; a row without an image holds its null token.
            text: Word tokens; likewise.
            modality_weights: (batch, 2), to be used in place of the gate's own.
            return_attentions: Whether to give the maps `image_to_text` (batch, layers, heads,
                regions, words) and `text_to_image` (batch, layers, heads, words, regions).
        """
        weights = self.gate(image, text) if modality_weights is None else modality_weights  # (batch, 2)
        gates = attention_gates(weights, image, text)
        image_maps, text_maps = [], []
        for block in self.blocks:
            image, text, image_map, text_map = block(image, text, gates, return_attentions)
            image_maps.append(image_map)
            text_maps.append(text_map)
        image_summary = self.norm_image(self.pool_image(image.states, image.mask))  # (batch, dim)
        text_summary = self.norm_text(self.pool_text(text.states, text.mask))  # (batch, dim)
        features = weights[:, :1] * image_summary + weights[:, 1:] * text_summary
        attentions = {}
        if return_attentions:
            attentions = {"image_to_text": torch.stack(image_maps, 1), "text_to_image": torch.stack(text_maps, 1)}
        return Fused(self.dropout(features), weights, attentions)


class CrossModalBlock(nn.Module):
    """One exchange: each half attends to the other as it was before the block; then a feed-forward layer.

    Args: see `CrossModalFusion`.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float, fixed_norm: bool = False) -> None:
        super().__init__()
        self.norm_exchanged = nn.LayerNorm(dim, elementwise_affine=False) if fixed_norm else nn.Identity()
        self.norm_image = nn.LayerNorm(dim)
        self.norm_text = nn.LayerNorm(dim)
        self.image_to_text = Attention(dim, heads=heads, dropout=dropout)
        self.text_to_image = Attention(dim, heads=heads, dropout=dropout)
        self.image_feed_forward = feed_forward(dim, hidden, dropout)
        self.text_feed_forward = feed_forward(dim, hidden, dropout)

    def forward(
        self, image: Tokens, text: Tokens, gates: tuple[Tensor, Tensor], return_maps: bool = False
    ) -> tuple[Tokens, Tokens, Tensor | None, Tensor | None]:
        """Both halves after the exchange, same shapes, and the two maps if asked for.

        Args:
            image: (batch, regions, dim).
            text: (batch, words, dim).
            gates: How strongly the image and the text are let in, (batch, 1, 1) each.
            return_maps: Whether to give the weights (batch, heads, queries, keys).
        """
        of_regions, of_words = Packing(image.mask), Packing(text.mask)
        image_states, text_states = of_regions.pack(image.states), of_words.pack(text.states)
        text_gate = of_regions.pack(gates[1].expand(-1, image.mask.shape[1], 1))
        image_gate = of_words.pack(gates[0].expand(-1, text.mask.shape[1], 1))
        regions, words = self.norm_image(image_states), self.norm_text(text_states)
        of_image, text_map = self.text_to_image(
            words, regions, image.mask, packing=(of_words, of_regions), return_weights=return_maps
        )
        of_text, image_map = self.image_to_text(
            regions, words, text.mask, packing=(of_regions, of_words), return_weights=return_maps
        )
        text_states = text_states + image_gate * self.norm_exchanged(of_image)
        image_states = image_states + text_gate * self.norm_exchanged(of_text)
        with of_words.draws():
            text_states = of_words.pad(text_states + self.text_feed_forward(text_states))
        with of_regions.draws():
            image_states = of_regions.pad(image_states + self.image_feed_forward(image_states))
        return replace(image, states=image_states), replace(text, states=text_states), image_map, text_map
