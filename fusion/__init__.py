"""Fusion: from the `Tokens` of both halves to one feature vector. Imports `encoders.tokens` of ours, nothing else."""

from .alignment import Alignment
from .bilinear import BilinearFusion
from .concat import ConcatFusion, MLPFusion
from .cross_modal import CrossModalFusion
from .fused import Fused
from .gate import balance_loss
from .self_attention import PATTERNS, SelfAttentionFusion, check_pattern

__all__ = [
    "PATTERNS",
    "Alignment",
    "BilinearFusion",
    "ConcatFusion",
    "CrossModalFusion",
    "Fused",
    "MLPFusion",
    "SelfAttentionFusion",
    "balance_loss",
    "check_pattern",
]
