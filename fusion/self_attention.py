"""Self-attention over one joint sequence: a summary token, the image's regions, the text's words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens
from .attention import Attention, feed_forward
from .fused import Fused
from .gate import modality_gate
from .sparse import sparse_attention, visible_pairs

PATTERNS = ("dense", "sliding-window", "global", "sliding-window+global")


class SelfAttentionFusion(nn.Module):
    """A transformer over [summary, regions, words] (a multimodal bitransformer, Kiela et al., 2019).

    The features are the summary token's. The row's modality weights stand in the scores: to a query
    outside a modality (the summary's and the other half's), log w of that modality is added to the
    scores of its keys, so that at w = 0 nobody outside sees it.

    Args:
        dim: Width of the tokens, and of the features that come out.
        layers: Number of blocks.
        heads: Heads of each attention; must divide `dim`.
        hidden: Width of the feed-forward layers.
        dropout: On attention weights, feed-forward layers and features, in training.
        gated: Whether modality weights are learned; else they are equal.
        pattern: Which keys a query sees, one of `PATTERNS`: all; those at most `window` real tokens away;
            the global ones, which see all themselves; or both. A token always sees itself.
        window: Tokens on each side of a sliding window. Without global tokens the summary token hears of
            what is farther away from layer to layer only: of the words not at all, if the regions are more
            than `window` times `layers`.
        global_tokens: Positions of the global tokens among a row's real tokens; 0 is the summary
            token, then come its regions and its words. A row that ends before a position has no such
            global token.

    Raises:
        ValueError: `pattern` or `window` is out of its range.
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
        pattern: str = "dense",
        window: int = 128,
        global_tokens: tuple[int, ...] = (0,),
    ) -> None:
        super().__init__()
        check_pattern(pattern, window, global_tokens)
        self.out_dim = dim
        self.gate = modality_gate(dim, gated)
        self.window = window if "sliding-window" in pattern else None
        self.global_tokens = tuple(global_tokens) if "global" in pattern else ()
        self.summary = nn.Parameter(torch.randn(dim) * 0.02)
        self.modality = nn.Parameter(torch.randn(2, dim) * 0.02)  # what is added to regions, to words
        self.position_scale = nn.Parameter(torch.tensor(0.1))
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, image: Tokens, text: Tokens, *, modality_weights: Tensor | None = None, return_attentions: bool = False
    ) -> Fused:
        """Fuse region tokens (batch, regions, dim) and word tokens (batch, words, dim).

        Args:
            image, text, modality_weights: As of `CrossModalFusion.forward`.
            return_attentions: Whether to give the map `joint` (batch, layers, heads, tokens, tokens)
                over tokens = 1 + regions + words. It is dense whatever the pattern: 0 where nothing is seen.

        Raises:
            ValueError: There are more global tokens than the sequence has tokens.
        """
        weights = self.gate(image, text) if modality_weights is None else modality_weights  # (batch, 2)
        batch, regions, dim = image.states.shape
        words = text.states.shape[1]
        tokens = 1 + regions + words
        if len(self.global_tokens) > tokens:
            raise ValueError(
                f"global_tokens names {len(self.global_tokens)} positions; the sequence has {tokens} tokens, "
                "and it can name at most as many"
            )
        # Regions carry the code of their place already, words what BERT knows of theirs; this one tells
        # the order of words apart from what they say.
        places = self.position_scale * sine_code(words, dim).to(text.states)
        states = torch.cat(
            [
                self.summary.to(image.states).expand(batch, 1, dim),
                image.states + self.modality[0],
                text.states + self.modality[1] + places,
            ],
            dim=1,
        )  # (batch, tokens, dim)
        mask = torch.cat([torch.ones_like(image.mask[:, :1]), image.mask, text.mask], dim=1)  # (batch, tokens)
        group = torch.zeros(tokens, dtype=torch.long, device=mask.device)
        group[1:] = 1
        group[1 + regions :] = 2
        view = View(
            mask, group.expand(batch, -1), self._key_bias(weights, image, text), self.window, self._globals(mask)
        )
        maps = []
        for block in self.blocks:
            states, seen = block(states, view, return_attentions)
            maps.append(seen)
        features = self.dropout(self.norm(states[:, 0]))
        return Fused(features, weights, {"joint": torch.stack(maps, 1)} if return_attentions else {})

    def _key_bias(self, weights: Tensor, image: Tokens, text: Tokens) -> Tensor:
        """Log w of each token's modality, (batch, tokens); 0 for the summary and for null tokens."""
        present = torch.stack([image.present, text.present], dim=1)
        shut = present & (weights <= 0)
        # the floor keeps the gradient of log w finite; where w is 0 nothing is to flow at all
        logs = torch.where(present, weights, 1.0).clamp(min=1e-30).log().masked_fill(shut, float("-inf"))
        parts = [logs.new_zeros(len(logs), 1)]
        parts += [logs[:, i : i + 1].expand(-1, t.states.shape[1]) for i, t in enumerate((image, text))]
        return torch.cat(parts, dim=1)

    def _globals(self, mask: Tensor) -> Tensor | None:
        """Which tokens are global, (batch, tokens); None if the pattern has none."""
        if not self.global_tokens:
            return None
        rank = mask.long().cumsum(dim=1) - 1  # the how-manieth real token of its row
        chosen = torch.tensor(self.global_tokens, device=mask.device)
        return mask & torch.isin(rank, chosen)


@dataclass(eq=False)
class View:
    """Who sees whom in a joint sequence; the same for every layer.

    Attributes:
        mask: (batch, tokens), True = a real token.
        group: (batch, tokens), 0 for the summary token, 1 for the image, 2 for the text.
        key_bias: (batch, tokens), added to the scores that queries of another group give a token.
        window: Real tokens to each side, or None.
        is_global: (batch, tokens), or None. Without window and global tokens all see all.
    """

    mask: Tensor
    group: Tensor
    key_bias: Tensor
    window: int | None
    is_global: Tensor | None
    _score_bias: Tensor | None = None

    @property
    def dense(self) -> bool:
        """Whether all see all."""
        return self.window is None and self.is_global is None

    def score_bias(self) -> Tensor:
        """What is added to the score that a query gives a key, (batch, tokens, tokens): the dense form."""
        if self._score_bias is None:
            outside = self.group.unsqueeze(2) != self.group.unsqueeze(1)
            bias = torch.where(outside, self.key_bias.unsqueeze(1), 0.0)
            if not self.dense:
                seen = visible_pairs(self.mask, window=self.window, is_global=self.is_global)
                seen = seen | ~self.mask.unsqueeze(2)  # padded queries too need a key: they see every real one
                bias = bias.masked_fill(~seen, float("-inf"))
            self._score_bias = bias
        return self._score_bias


class SelfAttentionBlock(nn.Module):
    """Attention of a sequence to itself, then a feed-forward layer; both normed first.

    Args: see `SelfAttentionFusion`.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = JointAttention(dim, heads=heads, dropout=dropout)
        self.feed_forward = feed_forward(dim, hidden, dropout)

    def forward(self, states: Tensor, view: View, return_map: bool = False) -> tuple[Tensor, Tensor | None]:
        """States after the block, (batch, tokens, dim), and the map (batch, heads, tokens, tokens) if asked for."""
        seen, weights = self.attention.see(self.norm(states), view, return_weights=return_map)
        states = states + seen
        return states + self.feed_forward(states), weights


class JointAttention(Attention):
    """`Attention` of a sequence to itself, dense or sparse."""

    def see(self, states: Tensor, view: View, *, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """What each token sees, (batch, tokens, dim), and the weights (batch, heads, tokens, tokens) if asked for."""
        if view.dense or return_weights:
            return self(states, states, view.mask, score_bias=view.score_bias(), return_weights=return_weights)
        seen = sparse_attention(
            self._split(self.query(states)),
            self._split(self.key(states)),
            self._split(self.value(states)),
            view.mask,
            window=view.window,
            is_global=view.is_global,
            group=view.group,
            key_bias=view.key_bias,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out(seen.transpose(1, 2).flatten(2)), None


def check_pattern(pattern: str, window: int, global_tokens: tuple[int, ...]) -> None:
    """See that a sparse pattern can be.

    Raises:
        ValueError: It cannot; the message names the field, its value and what is allowed.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    if window < 1:
        raise ValueError(f"window is {window}; it must be at least 1 (tokens on each side)")
    positions = list(global_tokens)
    if not positions or min(positions) < 0 or len(set(positions)) < len(positions):
        raise ValueError(f"global_tokens is {positions}; give different positions from 0 (the summary token) up")


def sine_code(length: int, dim: int) -> Tensor:
    """Sines and cosines of each position (Vaswani et al., 2017), (length, dim)."""
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = torch.arange(length).unsqueeze(1) * frequencies  # (length, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]
