"""What a run trains for: how it is measured, by which metric its best epoch is chosen, whether it needs labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from ..evaluation.evaluate import measure
from ..evaluation.retrieval import measure_ranking
from ..model.model import DiptychModel
from ..runtime.seeds import draw_seed

RARE = 0.1
"""A class with less than this part of its even share of the rows is rare."""
ENOUGH_TO_CALIBRATE = 1_000
"""Validation rows from which on half of them calibrate and the other half choose the epoch."""
ENOUGH = 10
"""Validation rows of each class from which on macro-F1 is more than chance."""


@dataclass(frozen=True)
class Objective:
    """What a run trains for.

    Attributes:
        needs_labels: Whether it learns from labels.
        measure: Metrics of a model on batches of validation rows, as `evaluation.measure`.
        metrics: By which the best epoch can be chosen.
        table: Metrics that the table of epochs shows.
        select: The one that chooses the best epoch.
        chooses: Of a validation row's number, whether it chooses the epoch, where others calibrate.
        rows: How many validation rows choose it; 0 if that is not known.
    """

    needs_labels: bool
    measure: Callable[..., dict[str, Any]]
    metrics: tuple[str, ...]
    table: tuple[str, ...]
    select: str
    chooses: Callable[[int], bool] | None = None
    rows: int = 0

    def score(self, epoch: dict[str, Any]) -> tuple[float, float]:
        """By what epochs are compared, more is better: the metric `select`, then the loss."""
        return epoch_score(epoch, self.select)

    def best(self, history: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The best epoch; None if there is none.

        That is the last one within a standard error of the highest value (Breiman et al., CART, 1984), which of few
        rows is chance: as the learning rate falls, the last epochs are the better ones. By the loss, or of rows whose
        number is not known, it is the highest, of equal ones the first.
        """
        top = max(history, key=self.score, default=None)
        if top is None or self.select == "loss" or not self.rows or top[self.select] is None:
            return top
        share = top[self.select]
        least = share - math.sqrt(max(0.0, share * (1 - share)) / self.rows)
        return next(epoch for epoch in reversed(history) if (epoch[self.select] or 0.0) >= least)

    def prepare(self, model: DiptychModel, alignment_weight: float | None) -> None:
        """Give a model the layers that the objective needs, and freeze those that it does not read.

        Args:
            model: Changed in place.
            alignment_weight: Of the contrastive loss; None leaves it as it is, and to align at least 1.
        """
        if alignment_weight is None and not self.needs_labels:
            alignment_weight = model.config.alignment_weight or 1.0
        if alignment_weight is not None:
            model.set_alignment(alignment_weight)
        if not self.needs_labels:
            for unread in (model.fusion, model.null_tokens):
                unread.requires_grad_(False)


CLASSIFY = Objective(
    needs_labels=True,
    measure=measure,
    metrics=("accuracy", "macro_f1", "auroc", "loss"),
    table=("loss", "accuracy", "macro_f1", "auroc"),
    select="accuracy",
)
MULTI_LABEL = Objective(
    needs_labels=True,
    measure=partial(measure, choose_thresholds=True),
    metrics=("mean_average_precision", "micro_f1", "macro_f1", "loss"),
    table=("loss", "micro_f1", "macro_f1", "mean_average_precision"),
    select="mean_average_precision",  # unlike F1 it needs no thresholds, which are chosen on the rows that it judges
)
ALIGN = Objective(
    needs_labels=False,
    measure=measure_ranking,
    metrics=("image_to_text_recall_at_10",),
    table=("image_to_text_recall_at_10", "text_to_image_recall_at_10"),
    select="image_to_text_recall_at_10",
)


def epoch_score(epoch: dict[str, Any], metric: str) -> tuple[float, float]:
    """By what epochs are compared, more is better: the metric, then the loss; one that cannot be had is worst."""
    value, loss = epoch[metric], epoch.get("loss", epoch["train_loss"])
    return (float("-inf") if value is None else -value if metric == "loss" else value), -loss


def choose_metric(
    objective: Objective, asked: str | None, training: Tensor | None, validation: Tensor | None
) -> tuple[Objective, str]:
    """The objective with the metric that chooses its best epoch, and why it is that one.

    Args:
        training: Rows to train on of each class, (classes,); None if they have no labels, or several.
        validation: Rows to validate with of each class.

    Raises:
        ValueError: The objective does not give the metric that was asked for.
    """
    if asked is not None:
        if asked not in objective.metrics:
            raise ValueError(f"select is {asked!r}, which is not measured here; choose {', '.join(objective.metrics)}")
        return replace(objective, select=asked), "as asked"
    if training is None or validation is None:
        return objective, "by default"
    occurring = training > 0
    rare = int(training[occurring].min()), int(training.sum()) / max(1, int(occurring.sum()))
    if rare[0] >= RARE * rare[1]:
        return objective, "by default"
    fewest = int(validation[occurring].min())
    metric = "macro_f1" if fewest >= ENOUGH else "loss"
    why = f"as the rarest class has {_rows(rare[0], 'training')} where an even share is {rare[1]:.0f}"
    if fewest:
        why += f", and every class at least {_rows(fewest, 'validation')}"
    return replace(objective, select=metric), why


def _rows(count: int, kind: str) -> str:
    return f"{count} {kind} row{'' if count == 1 else 's'}"


def chooses_epoch(seed: int, row: int) -> bool:
    """Whether a validation row chooses the epoch, where there are `ENOUGH_TO_CALIBRATE`; the others calibrate."""
    return draw_seed(seed, "calibration", row) % 2 == 0


def out_of_patience(history: list[dict[str, Any]], objective: Objective, patience: int | None, start: int) -> bool:
    """Whether `patience` epochs have passed without a better one, not counting those before the epoch `start`."""
    if patience is None:
        return False
    best = max(history, key=objective.score)["epoch"]
    passed: int = history[-1]["epoch"] - max(best, start - 1)  # of a long run not every epoch is measured
    return passed >= patience


def table_row(epoch: dict[str, Any], objective: Objective, *, heading: bool) -> str:
    """One line of the table of epochs, under its heading the first time; it fits 80 columns."""
    cells = {"epoch": str(epoch["epoch"])}
    cells |= {_SHORT.get(column, column): cell(epoch[column]) for column in ("train_loss", *objective.table)}
    cells["seconds"] = f"{epoch['seconds']:.1f}"
    widths = [max(8, len(name)) for name in cells]
    lines = [cells, cells.values()] if heading else [cells.values()]
    return "\n".join("  ".join(text.rjust(size) for text, size in zip(line, widths, strict=True)) for line in lines)


_SHORT = {
    "train_loss": "train",
    "mean_average_precision": "mAP",
    "image_to_text_recall_at_10": "image-text R@10",
    "text_to_image_recall_at_10": "text-image R@10",
}


def cell(value: float | None) -> str:
    """A metric for people: four decimals, or a dash if it could not be had."""
    return "-" if value is None else f"{value:.4f}"
