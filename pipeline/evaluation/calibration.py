"""Calibrating a model on validation rows, and how well its scores are calibrated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.calibration import MODALITIES, in_order_of, nonconformity, rounded
from ..model.config import DiptychConfig
from ..runtime.choices import SET_SCORES

BINS = 15
"""Of the expected calibration error: of equal mass, each with as many rows."""
MOST_ROWS = 2_000
"""So many calibration rows are kept with a model, for its thresholds and sets."""
_RIDGE = 30
"""Rows that scales and shifts of classes are held to none by: an error of 0.13 in each counts half a nat."""
_FOLDS = 5
FEW = 30
"""With fewer rows of a kind nothing is calibrated."""
FEW_FOR_CLASSES = 200
"""With fewer, or fewer than 10 for each class, classes are not scaled one by one."""


def fit_temperature(logits: Tensor, labels: Tensor, *, multi_label: bool = False) -> list[float]:
    """Temperatures that minimise the negative log-likelihood: one, or of a multi-label model one for each class.

    Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, 2017): the order of the scores stays. It
    is 1 where another would gain less than a number that is fitted to these rows does by chance (Akaike, 1974). Rows
    that are all right would be the likelier the sharper the scores: what sharpens them must also bear one more row like
    these, whose label is any class (as in Platt, Probabilistic Outputs for Support Vector Machines, 1999).

    Args:
        logits: (rows, classes), raw.
        labels: (rows,), class indices; (rows, classes) of a multi-label model.
        multi_label: Whether each class has a score of its own.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def best(loss: Callable[[float], float], any_class: Callable[[float], float]) -> float:
        def sharper(log: float) -> float:
            return loss(log) + any_class(log) / len(logits)

        judged, found = loss, minimize_scalar(loss, bounds=(-3.0, 4.0), **how)
        if found.x < 0:
            judged, found = sharper, minimize_scalar(sharper, bounds=(-3.0, 0.0), **how)
        return round(float(np.exp(found.x)), 5) if len(logits) * (judged(0.0) - found.fun) > 1 else 1.0

    how: dict[str, Any] = {"method": "bounded", "options": {"xatol": 1e-4}}
    if not multi_label:
        return [
            best(
                lambda log: float(F.cross_entropy(logits / np.exp(log), labels)),
                lambda log: -float((logits / np.exp(log)).log_softmax(dim=1).mean()),
            )
        ]
    found = []
    for column, truth in zip(logits.T, labels.double().T, strict=True):
        separable = bool(truth.min() == truth.max())  # one kind alone: any certainty would look right

        def loss(log: float, truth: Tensor = truth, column: Tensor = column) -> float:
            return float(F.binary_cross_entropy_with_logits(column / np.exp(log), truth))

        found.append(1.0 if separable else best(loss, partial(loss, truth=torch.full_like(truth, 0.5))))
    return found


def fit_vector(logits: Tensor, labels: Tensor, *, seed: int = 0) -> tuple[list[float], list[float]] | None:
    """Scale and shift of each class, where they lower the negative log-likelihood of rows that they are not fitted to.

    None where rows are few, or where cross-validation does not show it with 95 % confidence.

    Args:
        logits: (rows, classes), divided by the temperature.
        labels: (rows,), class indices.
        seed: Of the rows that are taken where there are more than `MOST_ROWS`, and of the folds.
    """
    if len(labels) < max(FEW_FOR_CLASSES, 10 * logits.shape[1]):
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels))[:MOST_ROWS])
    logits, labels = logits[order].double(), labels[order]
    gains = []
    for fold in torch.arange(len(labels)).tensor_split(_FOLDS):
        others = torch.ones(len(labels), dtype=torch.bool).index_fill(0, fold, value=False)
        scale, shift = _fit_classes(logits[others], labels[others])
        changed = in_order_of(logits[fold], logits[fold] * scale + shift)
        before, after = (F.cross_entropy(some, labels[fold], reduction="none") for some in (logits[fold], changed))
        gains.append(before - after)
    gain = torch.cat(gains)
    if gain.mean() < 1.645 * gain.std() / len(gain) ** 0.5:
        return None
    scale, shift = _fit_classes(logits, labels)
    return [round(value, 5) for value in scale.tolist()], [round(value, 5) for value in shift.tolist()]


def _fit_classes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of each class, (classes,) each."""
    numbers = torch.zeros(2, logits.shape[1], dtype=logits.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits * numbers[0].exp() + numbers[1], labels)
        value = value + _RIDGE * numbers.square().sum() / len(labels)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    log_scale, shift = numbers.detach()
    return log_scale.exp(), shift


def calibrate(
    logits: dict[str, Tensor], labels: dict[str, Tensor], config: DiptychConfig, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """What is saved with a model for each of `MODALITIES`: temperature, scales, what thresholds and sets are chosen by.

    Args:
        logits: (rows, classes), raw, by modality.
        labels: Of the same rows.
        seed: Of the rows that are kept where there are more than `MOST_ROWS`, and of the adaptive sets' draws.
    """
    calibration: dict[str, dict[str, Any]] = {}
    for name in MODALITIES:
        if name not in logits or len(logits[name]) < FEW:
            continue
        raw, truth = logits[name].float(), labels[name]
        temperature = fit_temperature(raw, truth, multi_label=config.multi_label)
        calibration[name] = {"temperature": temperature, "rows": len(raw)}
        if config.multi_label:
            continue
        scaled = raw / temperature[0]
        vector = fit_vector(scaled, truth, seed=seed)
        if vector is not None:
            calibration[name] |= dict(zip(("scale", "shift"), vector, strict=True))
            scale, shift = map(torch.tensor, vector)
            scaled = in_order_of(raw, scaled * scale + shift)
        scores = scaled.softmax(dim=1)
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(raw))[:MOST_ROWS]).tolist()
        draws = rng.random(len(chosen))
        best = scores.max(dim=1)
        calibration[name] |= {
            "score": [rounded(float(best.values[i])) for i in chosen],
            "right": [int(best.indices[i] == truth[i]) for i in chosen],
        }
        for kind in SET_SCORES:
            calibration[name][kind] = [
                nonconformity(scores[i].tolist(), kind, float(draw))[int(truth[i])]
                for i, draw in zip(chosen, draws, strict=True)
            ]
    return calibration


def calibration_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Negative log-likelihood, expected calibration error and Brier score of scores (rows, classes).

    Of a multi-label model, whose `labels` are (rows, classes), each class of each row counts as a row of its own.
    """
    confidence, right = confidences(scores, labels)
    scores, labels = one_label_a_row(scores.double(), labels)
    own = scores.gather(1, labels[:, None])[:, 0].clamp(min=1e-12)
    truth = F.one_hot(labels, scores.shape[1])
    return {
        "nll": abs(float(own.log().mean())),
        "ece": expected_calibration_error(confidence, right),
        "brier": float((scores - truth).square().sum(dim=1).mean()),
    }


def expected_calibration_error(confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """Mean distance between confidence and accuracy over bins of equal mass (Naeini et al., 2015), from 0 to 1."""
    return float(
        sum(count * abs(mean - hits) for count, mean, hits in mass_bins(confidence, right)) / max(1, len(right))
    )


def confidences(scores: Tensor, labels: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The highest score of each row, and whether its class is right; arguments as of `calibration_metrics`."""
    scores, labels = one_label_a_row(scores, labels)
    best = scores.double().max(dim=1)
    return best.values.numpy(), (best.indices == labels).numpy()


def one_label_a_row(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and class indices of rows; of a multi-label model of each class of each row, without and with it."""
    if labels.dim() == 1:
        return scores, labels
    return torch.stack([1 - scores, scores], dim=-1).flatten(0, 1), labels.flatten().long()


def mass_bins(confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> list[tuple[int, float, float]]:
    """Rows, mean confidence and accuracy of each of `BINS` bins with as many rows."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [(len(part), float(confidence[part].mean()), float(right[part].mean())) for part in parts]
