"""Calibrating a model on validation rows, and how well its scores are calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.calibration import MODALITIES, nonconformity
from ..model.config import DiptychConfig
from ..runtime.choices import SET_SCORES

BINS = 15
"""Of the expected calibration error: of equal mass, each with as many rows."""
MOST_ROWS = 2_000
"""So many calibration rows are kept with a model, for its thresholds and sets."""
FEW = 30
"""With fewer rows of a kind nothing is calibrated."""


def fit_temperature(logits: Tensor, labels: Tensor, *, multi_label: bool = False) -> list[float]:
    """Temperatures that minimise the negative log-likelihood: one, or of a multi-label model one for each class.

    Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, 2017): the order of the scores stays.

    Args:
        logits: (rows, classes), raw.
        labels: (rows,), class indices; (rows, classes) of a multi-label model.
        multi_label: Whether each class has a score of its own.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def best(loss: Any) -> float:
        found = minimize_scalar(loss, bounds=(-3.0, 4.0), method="bounded", options={"xatol": 1e-4})
        return round(float(np.exp(found.x)), 5) if found.fun < loss(0.0) else 1.0

    if not multi_label:
        return [best(lambda log: float(F.cross_entropy(logits / np.exp(log), labels)))]
    found = []
    for column, truth in zip(logits.T, labels.double().T, strict=True):
        separable = bool(truth.min() == truth.max())  # one kind alone: any certainty would look right
        loss = lambda log, column=column, truth=truth: float(  # noqa: E731
            F.binary_cross_entropy_with_logits(column / np.exp(log), truth)
        )
        found.append(1.0 if separable else best(loss))
    return found


def calibrate(
    logits: dict[str, Tensor], labels: dict[str, Tensor], config: DiptychConfig, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """What is saved with a model: temperatures, and what thresholds and sets are chosen by, for each of `MODALITIES`.

    Args:
        logits: (rows, classes), raw, by modality.
        labels: Of the same rows.
        config: Of the model.
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
        scores = (raw / temperature[0]).softmax(dim=1)
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(raw))[:MOST_ROWS]).tolist()
        draws = rng.random(len(chosen))
        best = scores.max(dim=1)
        calibration[name] |= {
            "score": [round(float(best.values[i]), 5) for i in chosen],
            "right": [int(best.indices[i] == truth[i]) for i in chosen],
        }
        for kind in SET_SCORES:
            values = (
                nonconformity(scores[i].tolist(), kind, float(draw))[int(truth[i])]
                for i, draw in zip(chosen, draws, strict=True)
            )
            calibration[name][kind] = [round(value, 5) for value in values]
    return calibration


def calibration_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Negative log-likelihood, expected calibration error and Brier score of scores (rows, classes).

    Of a multi-label model, whose `labels` are (rows, classes), each class of each row counts as a row of its own.
    """
    scores = scores.double()
    if labels.dim() == 2:
        scores, labels = torch.stack([1 - scores, scores], dim=-1).flatten(0, 1), labels.flatten().long()
    own = scores.gather(1, labels[:, None])[:, 0].clamp(min=1e-12)
    truth = F.one_hot(labels, scores.shape[1])
    best = scores.max(dim=1)
    return {
        "nll": float(-own.log().mean()),
        "ece": expected_calibration_error(best.values.numpy(), (best.indices == labels).numpy()),
        "brier": float((scores - truth).square().sum(dim=1).mean()),
    }


def expected_calibration_error(confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """Mean distance between confidence and accuracy over bins of equal mass (Naeini et al., 2015), from 0 to 1."""
    return float(sum(count * abs(mean - hits) for count, mean, hits in _bins(confidence, right)) / max(1, len(right)))


def _bins(confidence: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> list[tuple[int, float, float]]:
    """Rows, mean confidence and accuracy of each bin."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [(len(part), float(confidence[part].mean()), float(right[part].mean())) for part in parts]


def draw_reliability(scores: dict[str, tuple[Tensor, Tensor]], labels: dict[str, Tensor], path: Path) -> None:
    """Write a reliability diagram (PNG): accuracy by confidence, before and after, for each kind of rows.

    Args:
        scores: Before and after calibration, (rows, classes) each, by modality.
        labels: (rows,), class indices, by modality; (rows, classes) of a multi-label model.
        path: Of the picture.
    """
    from matplotlib.figure import Figure

    titles = {"both": "image and text", "text": "text only", "image": "image only"}
    figure = Figure(figsize=(4 * len(scores), 4.2), layout="constrained", dpi=120)
    for axes, (name, pair) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#9aa3ad", linewidth=1, linestyle="--")
        for values, label, colour in zip(pair, ("before", "after"), ("#9a5b1e", "#1e60c8"), strict=True):
            truth = labels[name]
            if truth.dim() == 2:
                values, truth = torch.stack([1 - values, values], -1).flatten(0, 1), truth.flatten().long()
            best = values.max(dim=1)
            right = (best.indices == truth).numpy()
            bins = _bins(best.values.double().numpy(), right)
            error = expected_calibration_error(best.values.double().numpy(), right)
            axes.plot(
                [mean for _, mean, _ in bins],
                [hits for _, _, hits in bins],
                marker="o",
                markersize=4,
                linewidth=1.5,
                color=colour,
                label=f"{label}: ECE {error:.3f}",
            )
        axes.set(title=f"{titles[name]}, {len(truth):,} rows", xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(frameon=False, loc="upper left")
        axes.set_aspect("equal")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.axes[0].set_ylabel("accuracy")
    figure.savefig(path)
