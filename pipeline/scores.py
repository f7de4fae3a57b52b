"""From logits to scores, and back to words: in one place for every way in."""

from __future__ import annotations

from torch import Tensor

from .config import DiptychConfig


def scores(logits: Tensor, config: DiptychConfig) -> Tensor:
    """Scores (batch, classes) between 0 and 1 from raw logits (batch, classes); each row sums to 1."""
    if logits.shape[-1] != config.num_labels:
        raise ValueError(f"there are {logits.shape[-1]} logits a row for {config.num_labels} labels")
    return logits.float().softmax(dim=-1)
