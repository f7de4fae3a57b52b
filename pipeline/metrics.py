"""Figures that say how good predictions are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score


def classification_metrics(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[str, float | None]:
    """Accuracy, macro-F1, AUROC and mean cross-entropy.

    Args:
        scores: (rows, classes), each row summing to 1.
        labels: (rows,), class indices.

    Returns:
        Each between 0 and 1 but the loss, in nats. `macro_f1` averages over the classes that occur
        among labels or predictions, `auroc` (one class against the rest) over those that occur among
        the labels; None where there are not two.

    Raises:
        ValueError: There are no rows.
    """
    if not len(labels):
        raise ValueError("there are no rows to measure")
    predicted = scores.argmax(axis=1)
    occurring = [label for label in np.unique(labels) if len(np.unique(labels)) > 1]
    areas = [roc_auc_score(labels == label, scores[:, label]) for label in occurring]
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0.0)),
        "auroc": float(np.mean(areas)) if areas else None,
        "loss": float(log_loss(labels, scores.clip(1e-12, 1.0), labels=np.arange(scores.shape[1])))
        if scores.shape[1] > 1
        else 0.0,
    }
