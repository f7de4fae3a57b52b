"""Pictures of what scores are worth: reliability diagrams, and accuracy by coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..model.calibration import rounded
from ..runtime.outputs import beside, see_that_it_is_ours, writable_folder
from .calibration import confidences, expected_calibration_error, mass_bins
from .worth import wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"both": "image and text", "text": "text only", "image": "image only"}
_COLOURS = {"both": "#1e60c8", "text": "#9a5b1e", "image": "#3a7d44"}
_GREY = "#9aa3ad"
_FEWEST = 20
"""Rows from which on a curve is drawn: the accuracy of fewer is mostly chance."""


def draw_reliability(scores: dict[str, tuple[Tensor, Tensor]], labels: dict[str, Tensor], path: Path) -> None:
    """Write a reliability diagram (PNG): accuracy by confidence, before and after, for each kind of rows.

    Bars are 95 % intervals of the accuracy of each bin after calibration.

    Args:
        scores: Before and after calibration, (rows, classes) each, by modality.
        labels: (rows,), class indices, by modality; (rows, classes) of a multi-label model.
    """
    figure = _figure(4 * len(scores), 4.2)
    for axes, (name, pair) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
        for values, label, colour in zip(pair, ("before", "after"), (_COLOURS["text"], _COLOURS["both"]), strict=True):
            confidence, right = confidences(values, labels[name])
            label = f"{label}: ECE {expected_calibration_error(confidence, right):.3f}"
            bins = mass_bins(confidence, right)
            means, hits = ([one[place] for one in bins] for place in (1, 2))
            if label.startswith("before"):
                axes.plot(means, hits, "o", color=colour, markersize=4, markerfacecolor="none", label=label)
                continue
            limits = [wilson(round(share * count), count) for count, _, share in bins]
            errors = [[max(0.0, hit - low) for hit, (low, _) in zip(hits, limits, strict=True)]]
            errors += [[max(0.0, high - hit) for hit, (_, high) in zip(hits, limits, strict=True)]]
            axes.errorbar(means, hits, yerr=errors, fmt="o", color=colour, markersize=4, elinewidth=0.8, label=label)
        axes.set(title=f"{TITLES[name]}, {len(labels[name]):,} rows", xlabel="confidence")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
        axes.legend(frameon=False, loc="upper left")
    figure.axes[0].set_ylabel("accuracy")
    _save(figure, path)


def draw_coverage(
    rows: Mapping[str, tuple[Tensor, Tensor]], thresholds: Mapping[str, Mapping[float, float]], path: Path
) -> bool:
    """Write a coverage-accuracy curve (PNG): the accuracy of those rows that have the highest scores.

    Args:
        rows: Scores (rows, classes) and class indices (rows,), by modality.
        thresholds: By modality, of each promised precision the score from which on it is answered.

    Returns:
        Whether it was: not of fewer than `_FEWEST` rows.
    """
    rows = {name: kept for name, kept in rows.items() if len(kept[1]) >= _FEWEST}
    if not rows:
        return False
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    lowest = 1.0
    for name, (scores, labels) in rows.items():
        confidence, right = confidences(scores, labels)
        order = np.argsort(-confidence, kind="stable")
        answered = np.arange(1, len(right) + 1)
        accuracy = right[order].cumsum() / answered
        ends = np.append(np.diff(confidence[order]) < 0, True) & (answered >= _FEWEST)  # rows of one score go together
        share = 100 * answered[ends] / len(right)
        low, high = np.array([wilson(round(a * n), n) for a, n in zip(accuracy[ends], answered[ends], strict=True)]).T
        label = f"{TITLES[name]}, {len(right):,} rows"
        axes.plot(share, accuracy[ends], color=_COLOURS[name], linewidth=1.5, label=label)
        axes.fill_between(share, low, high, color=_COLOURS[name], alpha=0.12, linewidth=0)
        lowest = min(lowest, float(low.min()))
        for promised, threshold in thresholds.get(name, {}).items():
            count = sum(rounded(float(score)) >= threshold for score in confidence)
            if count:
                place = 100 * count / len(right), accuracy[count - 1]
                axes.plot(*place, "o", color=_COLOURS[name], markersize=5)
                axes.annotate(f"{promised:g}", place, xytext=(0, 7), textcoords="offset points", ha="center", size=8)
    if any(thresholds.values()):
        axes.plot([], [], "o", color=_GREY, markersize=5, label="where --precision 0.9 and 0.95 answer")
    axes.set(xlabel="coverage: rows answered, %", ylabel="accuracy on these")
    axes.set(xlim=(0, 101), ylim=(max(0.0, lowest - 0.02), 1.005))
    axes.legend(frameon=False, loc="lower left")
    _save(figure, path)
    return True


def picture_place(folder: str | Path, name: str) -> Path:
    """Where in a folder, made if need be, a picture of ours is written, or replaced.

    Raises:
        ValueError: The folder cannot be written to, or holds something of that name that is not ours.
    """
    path = writable_folder(folder) / name
    see_that_it_is_ours(path)
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _save(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    with beside(path, wait=True) as new:
        figure.savefig(new, metadata={"Software": "Diptych"})
