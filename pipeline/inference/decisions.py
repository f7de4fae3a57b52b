"""Who abstains, and which classes a set holds: by the rows on which a model was calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..model.calibration import (
    MODALITIES,
    coverage_threshold,
    label_set,
    precision_threshold,
    rounded,
    set_limit,
)
from ..model.config import DiptychConfig
from .options import ClassifyOptions


class Decisions:
    """What is decided by the scores of a row, by which modalities it has.

    A row of a kind on which the model is not calibrated, or that cannot keep the promise, abstains, and has no set.

    Args:
        options: With a precision or a coverage, sets, or both.

    Raises:
        ValueError: The model is not calibrated for rows with both modalities, or cannot keep the promise for them.
    """

    def __init__(self, config: DiptychConfig, options: ClassifyOptions) -> None:
        if config.multi_label:
            raise ValueError(
                "this model gives a row any number of labels: abstaining and sets are for models with one label a row"
            )
        self.config, self.options = config, options
        self.thresholds: dict[str, float] = {}
        self.limits: dict[str, float] = {}
        if options.precision is not None:
            self.thresholds = self._each(precision_threshold, math.inf, options.precision)
            if self.thresholds["both"] == math.inf:
                raise ValueError(
                    f"a precision of {options.precision} cannot be promised: on the calibration rows not even the "
                    "answers with the highest scores reach it. Ask for less, or for --coverage"
                )
        if options.coverage is not None:
            self.thresholds = self._each(coverage_threshold, math.inf, options.coverage)
        if options.sets is not None:
            self.limits = self._each(set_limit, math.nan, options.sets, options.set_score)

    def _each(self, of: Callable[..., float], otherwise: float, *promised: Any) -> dict[str, float]:
        """The number that `of` gives for each modality; that of both must be there."""
        numbers = {}
        for modality in MODALITIES:
            try:
                numbers[modality] = of(self.config, modality, *promised)
            except ValueError:
                if modality == "both":
                    raise
                numbers[modality] = otherwise
        return numbers

    def of(self, row: list[float], modality: str) -> dict[str, Any]:
        """The columns on request of a row with these scores and modalities."""
        columns: dict[str, Any] = {}
        if self.thresholds:
            columns["abstained"] = rounded(max(row)) < self.thresholds[modality]
        if self.limits:
            limit = self.limits[modality]
            classes = label_set(row, limit, self.options.set_score)
            columns["label_set"] = None if math.isnan(limit) else [self.config.labels[index] for index in classes]
        return columns
