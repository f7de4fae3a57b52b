"""From logits to scores, and back to words: in one place for every way in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...encoders.tokens import widen
from .calibration import calibrated
from .config import DEFAULT_THRESHOLD, DiptychConfig


def scores(logits: Tensor, config: DiptychConfig, modalities: Tensor | None = None) -> Tensor:
    """Scores (batch, classes) between 0 and 1 from raw logits (batch, classes), calibrated if the model is.

    Each row sums to 1, but of a multi-label model, where each class has a score of its own.

    Args:
        logits: (batch, classes).
        config: Of the model.
        modalities: (batch,), what each row has, as `modalities_of` gives it; all have both if not given.

    Raises:
        ValueError: There are not as many logits as classes.
    """
    if logits.shape[-1] != config.num_labels:
        raise ValueError(f"there are {logits.shape[-1]} logits a row for {config.num_labels} labels")
    logits = widen(logits)
    if config.calibration:
        both = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        logits = calibrated(logits, config, both if modalities is None else modalities)
    return logits.sigmoid() if config.multi_label else logits.softmax(dim=-1)


def chosen(row: Sequence[float], config: DiptychConfig) -> str | list[str]:
    """The label of one row's scores: the likeliest; of a multi-label model all that reach their thresholds, if any.

    Several come in the model's order. A class without a threshold of its own has `DEFAULT_THRESHOLD`.
    """
    if not config.multi_label:
        return config.labels[max(range(len(row)), key=row.__getitem__)]
    thresholds = config.thresholds or [DEFAULT_THRESHOLD] * len(row)
    return [name for name, score, least in zip(config.labels, row, thresholds, strict=True) if score >= least]
