"""From logits to scores, and back to words: in one place for every way in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...encoders.tokens import widen
from .config import DEFAULT_THRESHOLD, DiptychConfig


def scores(logits: Tensor, config: DiptychConfig) -> Tensor:
    """Scores (batch, classes) between 0 and 1 from raw logits (batch, classes).

    Each row sums to 1, but of a multi-label model, where each class has a score of its own.
    """
    if logits.shape[-1] != config.num_labels:
        raise ValueError(f"there are {logits.shape[-1]} logits a row for {config.num_labels} labels")
    return widen(logits).sigmoid() if config.multi_label else widen(logits).softmax(dim=-1)


def chosen(row: Sequence[float], config: DiptychConfig) -> str | list[str]:
    """The label of one row's scores: the likeliest; of a multi-label model all that reach their thresholds, if any.

    Several come in the model's order. A class without a threshold of its own has `DEFAULT_THRESHOLD`.
    """
    if not config.multi_label:
        return config.labels[max(range(len(row)), key=row.__getitem__)]
    thresholds = config.thresholds or [DEFAULT_THRESHOLD] * len(row)
    return [name for name, score, least in zip(config.labels, row, thresholds, strict=True) if score >= least]
