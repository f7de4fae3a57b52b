"""Confidence that holds on the user's own data: calibrated scores, thresholds that keep a promise, conformal sets.

A model is calibrated on labelled rows that it was not trained on, for each way in which a row can come: with both
modalities, the text only, the image only. A missing modality has another confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..runtime.choices import SET_SCORES

if TYPE_CHECKING:
    from .config import DiptychConfig

MODALITIES = ("both", "text", "image")
"""What a row can have."""
RISK = 0.05
"""How often, over draws of the calibration rows, a promised precision may fail."""
_PLACES = 5
_START = 0.1  # share of the calibration rows with which the strictest threshold that is tested answers
_STEPS = 18  # thresholds that are tested at most


def modalities_of(image_present: Tensor, text_present: Tensor) -> Tensor:
    """Index into `MODALITIES` of each row, (batch,), from what it has, (batch,) each; 0 where it has nothing."""
    return torch.where(image_present & text_present, 0, torch.where(text_present, 1, torch.where(image_present, 2, 0)))


def temperatures(config: DiptychConfig, modalities: Tensor) -> Tensor:
    """What logits are divided by, (batch, 1), or (batch, classes) of a multi-label model; 1 where nothing is known.

    Args:
        config: Of the model.
        modalities: (batch,), as `modalities_of` gives them.
    """
    table = config.calibration or {}
    rows = [torch.tensor(table[name]["temperature"]).reshape(-1) if name in table else None for name in MODALITIES]
    width = max((len(row) for row in rows if row is not None), default=1)
    ones = torch.ones(width)
    filled = torch.stack([ones if row is None else row.expand(width) for row in rows])
    return filled.to(modalities.device)[modalities]


def calibrated(logits: Tensor, config: DiptychConfig, modalities: Tensor) -> Tensor:
    """Logits (batch, classes) of calibrated scores, in the order of the raw ones.

    They are divided by a temperature. Where a model has scales and shifts of its classes, these follow (vector scaling:
    Guo et al., 2017), and the outcome is dealt out in the order of the raw logits, so that the label stays (Rahimi et
    al., Intra Order-Preserving Functions, 2020).

    Args:
        logits: (batch, classes), raw.
        config: Of a calibrated model.
        modalities: (batch,), as `modalities_of` gives them.
    """
    scaled = logits / temperatures(config, modalities)
    table = config.calibration or {}
    if not any("scale" in row for row in table.values()):
        return scaled
    ones, zeros = [1.0] * config.num_labels, [0.0] * config.num_labels
    rows = [(table.get(name, {}).get("scale", ones), table.get(name, {}).get("shift", zeros)) for name in MODALITIES]
    scale, shift = torch.tensor(rows).to(logits)[modalities].unbind(dim=1)  # (batch, classes) each
    return in_order_of(logits, scaled * scale + shift)


def in_order_of(logits: Tensor, values: Tensor) -> Tensor:
    """The values (batch, classes) of each row dealt out anew: the highest goes to the highest logit, and so on."""
    order = logits.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(values).scatter(1, order, values.sort(dim=1, descending=True).values)


def rounded(score: float) -> float:
    """A score as thresholds and sets see it, of calibration rows and of new ones alike.

    Of a model that is nearly sure of most rows many are equal then, and all of them fall on one side.
    """
    return round(score, _PLACES)


def rows_known(config: DiptychConfig, modality: str) -> dict[str, Any]:
    """The calibration of rows with these modalities.

    Raises:
        ValueError: There is none; the message says what to do.
    """
    found = (config.calibration or {}).get(modality)
    if found is None or not found.get("score"):
        which = {"both": "both modalities", "text": "a text only", "image": "an image only"}[modality]
        raise ValueError(
            f"the model is not calibrated for rows with {which}, so that no threshold can be chosen: train it with "
            "this version and labels, with --calibration"
        )
    return dict(found)


def least_rows(precision: float) -> int:
    """So many calibration rows are the least that can promise a precision: with all of them right."""
    return math.ceil(math.log(RISK) / math.log(precision))


def precision_threshold(config: DiptychConfig, modality: str, precision: float) -> float:
    """The lowest `rounded` score from which answers are right with this precision, but for a risk of `RISK`.

    Thresholds are tested from the strictest down, each by a one-sided Clopper-Pearson bound, and testing stops at the
    first that fails (fixed-sequence testing: Angelopoulos et al., Learn then Test, 2021). Which are tested follows
    from the scores alone, not from who was right.

    Returns:
        The threshold; infinity where not even the strictest can promise it.

    Raises:
        ValueError: The model is not calibrated, or on too few rows.
    """
    from scipy.stats import beta

    known = rows_known(config, modality)
    count, least = len(known["score"]), least_rows(precision)
    if count < least:
        raise ValueError(
            f"a precision of {precision} takes at least {least} calibration rows, and the model has {count}: train it "
            "with more validation rows, or ask for less"
        )
    order = sorted(range(count), key=lambda index: -known["score"][index])
    right = [0]
    for index in order:
        right.append(right[-1] + bool(known["right"][index]))
    start = max(least, math.ceil(_START * count))
    step = max(1, (count - start) // _STEPS)
    threshold = math.inf
    for answered in [*range(start, count, step), count]:
        hits = right[answered]
        bound = beta.ppf(RISK, hits, answered - hits + 1) if hits else 0.0
        if bound < precision:
            break
        threshold = known["score"][order[answered - 1]]
    return float(threshold)


def coverage_threshold(config: DiptychConfig, modality: str, coverage: float) -> float:
    """The `rounded` score that this share of the calibration rows reaches.

    Raises:
        ValueError: The model is not calibrated.
    """
    score = sorted(rows_known(config, modality)["score"], reverse=True)
    return float(score[max(0, math.ceil(coverage * len(score)) - 1)])


def set_limit(config: DiptychConfig, modality: str, level: float, kind: str = SET_SCORES[0]) -> float:
    """The conformal quantile: classes whose nonconformity is at most this are in the set.

    Split conformal prediction (Vovk et al., 2005): the sets hold the true class of a new row with probability `level`.
    The nonconformity is 1 - score of the true class (least ambiguous: Sadinle et al., 2019), or the mass of the
    classes down to it (adaptive: Romano et al., 2020).

    Raises:
        ValueError: The model is not calibrated, or on too few rows.
    """
    values = sorted(rows_known(config, modality)[kind])
    place = math.ceil((len(values) + 1) * level)
    if place > len(values):
        raise ValueError(
            f"sets at {level} take at least {math.ceil(level / (1 - level))} calibration rows, and the model has "
            f"{len(values)}: train it with more validation rows, or ask for less"
        )
    return float(values[place - 1])


def label_set(row: Sequence[float], limit: float, kind: str = SET_SCORES[0], draw: float = 1.0) -> list[int]:
    """Classes of one row's set, the likeliest first.

    Args:
        row: The scores of all classes.
        limit: As `set_limit` gives it.
        kind: One of `SET_SCORES`.
        draw: Of the adaptive score, from 0 to 1: how much of a class's own mass counts.
    """
    order = sorted(range(len(row)), key=lambda index: -row[index])
    values = nonconformity(row, kind, draw)
    return [index for index in order if values[index] <= limit]


def nonconformity(row: Sequence[float], kind: str, draw: float) -> list[float]:
    """How little each class of one row conforms, `rounded`; arguments as of `label_set`."""
    if kind == SET_SCORES[0]:
        return [rounded(1 - score) for score in row]
    values, before = [0.0] * len(row), 0.0
    for index in sorted(range(len(row)), key=lambda index: -row[index]):
        values[index] = rounded(before + draw * row[index])
        before += row[index]
    return values
