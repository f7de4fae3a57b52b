"""Fusion: from the `Tokens` of both halves to one feature vector. Imports `encoders.tokens` of ours, nothing else."""

from .alignment import Alignment
from .bilinear import BilinearFusion
from .concat import ConcatFusion, MLPFusion
from .cross_modal import CrossModalFusion
from .experts import Experts, Opinions, WordScores
from .fused import Fused
from .self_attention import PATTERNS, SelfAttentionFusion, check_pattern

__all__ = [
    "PATTERNS",
    "Alignment",
    "BilinearFusion",
    "ConcatFusion",
    "CrossModalFusion",
    "Experts",
    "Fused",
    "MLPFusion",
    "Opinions",
    "WordScores",
    "SelfAttentionFusion",
    "check_pattern",
]
