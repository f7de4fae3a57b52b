"""What a configuration says of the fusion and of the experts, built."""

from __future__ import annotations

from typing import Any

from ...fusion import (
    BilinearFusion,
    ConcatFusion,
    CrossModalFusion,
    Experts,
    MLPFusion,
    SelfAttentionFusion,
)
from .config import DiptychConfig

Fusion = CrossModalFusion | SelfAttentionFusion | BilinearFusion | ConcatFusion | MLPFusion


def build_fusion(config: DiptychConfig) -> Fusion:
    """The fusion that `config` names."""
    dim, heads, hidden = config.hidden_size, config.fusion_heads, config.fusion_hidden_size or 0
    fixed = bool(config.experts)  # they give the weights; models without them have a gate of their own
    common: dict[str, Any] = {"dropout": config.dropout, "gated": bool(config.modality_gate) and not fixed}
    norms = {"fixed_norm": fixed}
    if config.fusion == "concat":
        return ConcatFusion(dim, heads=heads, **common, **norms)
    if config.fusion == "mlp":
        return MLPFusion(dim, **common, **norms)
    common |= {"heads": heads, "hidden": hidden}
    if config.fusion == "bilinear":
        return BilinearFusion(dim, glimpses=config.glimpses, rank=hidden, **common, **norms)
    common |= {"layers": config.fusion_layers}
    if config.fusion == "self-attention":
        tokens = tuple(config.global_tokens)
        return SelfAttentionFusion(dim, pattern=config.pattern, window=config.window, global_tokens=tokens, **common)
    return CrossModalFusion(dim, **common, **norms)


def build_experts(config: DiptychConfig) -> Experts:
    """The experts of `config`; that of the words has a score for each word piece of the text encoder."""
    return Experts(
        config.hidden_size,
        config.num_labels,
        heads=config.fusion_heads,
        dropout=config.dropout,
        vocabulary=0 if config.pool_words else config.text_config.vocab_size,
        multi_label=config.multi_label,
    )
