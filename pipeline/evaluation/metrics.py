"""Metrics of predictions: classes, one or several a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, roc_auc_score

from ..model.config import DEFAULT_THRESHOLD


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


def multi_label_metrics(
    scores: NDArray[np.floating], labels: NDArray[np.integer], thresholds: NDArray[np.floating]
) -> dict[str, float | None]:
    """Micro-F1, macro-F1, mean average precision and mean binary cross-entropy of rows with several labels.

    Args:
        scores: (rows, classes), each between 0 and 1.
        labels: (rows, classes), 1 where a class is there.
        thresholds: (classes,), scores from which a class is there.

    Returns:
        Each between 0 and 1 but the loss, in nats per row and class. `macro_f1` averages over the classes
        that occur among labels or predictions, `mean_average_precision`, which needs no thresholds, over
        those that occur among the labels; None where none does.

    Raises:
        ValueError: There are no rows.
    """
    if not len(labels):
        raise ValueError("there are no rows to measure")
    predicted = scores >= thresholds
    here = labels.any(axis=0)
    either = here | predicted.any(axis=0)
    f1 = f1_score(labels, predicted, average=None, zero_division=0.0) if labels.shape[1] > 1 else None
    if f1 is None:  # scikit-learn takes a single class for one label a row
        f1 = np.array([f1_score(labels[:, 0], predicted[:, 0], zero_division=0.0)])
    precisions = [average_precision_score(labels[:, c], scores[:, c]) for c in np.flatnonzero(here)]
    kept = scores.astype(np.float64).clip(1e-12, 1 - 1e-12)
    return {
        "micro_f1": float(f1_score(labels.ravel(), predicted.ravel(), zero_division=0.0)),
        "macro_f1": float(f1[either].mean()) if either.any() else 0.0,
        "mean_average_precision": float(np.mean(precisions)) if precisions else None,
        "loss": float(-np.where(labels > 0, np.log(kept), np.log(1 - kept)).mean()),
    }


def best_thresholds(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> list[float]:
    """For each class the score from which on calling it there gives the highest F1; 0.5 for a class that never is.

    It lies in the middle between the lowest score that is taken and the highest that is not, so that the
    last digits of a score decide nothing; of equally good ones it is the one nearest 0.5.

    Args:
        scores: (rows, classes), each between 0 and 1.
        labels: (rows, classes), 1 where a class is there.
    """
    found = []
    for column, truth in zip(scores.T.astype(np.float64), labels.T > 0, strict=True):
        if not truth.any():
            found.append(DEFAULT_THRESHOLD)
            continue
        order = np.argsort(-column, kind="stable")
        ranked, hits = column[order], np.cumsum(truth[order])
        last = np.append(ranked[1:] < ranked[:-1], True)  # only between different scores can a threshold lie
        f1 = (2 * hits / (np.arange(1, len(hits) + 1) + truth.sum()))[last]
        middle = ((ranked + np.append(ranked[1:], 0.0)) / 2)[last]
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        found.append(float(middle[best[np.abs(middle[best] - DEFAULT_THRESHOLD).argmin()]]))
    return found
