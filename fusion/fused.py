"""`Fused`: what every fusion gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Fused:
    """What a fusion makes of the tokens of both halves.

    Attributes:
        features: (batch, out_dim), from which one linear layer takes the logits.
        modality_weights: (batch, 2), image first, that it used.
        attentions: By name, weights (batch, layers, heads, queries, keys); empty unless asked for.
    """

    features: Tensor
    modality_weights: Tensor
    attentions: dict[str, Tensor] = field(default_factory=dict)
