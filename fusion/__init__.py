"""Fusion: from the `Tokens` of both halves to one feature vector. Imports `encoders.tokens` of ours, nothing else."""

from .concat import ConcatFusion, MLPFusion
from .cross_modal import CrossModalFusion
from .fused import Fused
from .gate import balance_loss, unimodal_loss

__all__ = ["ConcatFusion", "CrossModalFusion", "Fused", "MLPFusion", "balance_loss", "unimodal_loss"]
