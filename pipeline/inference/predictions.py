"""The prediction of one row, and how it stands beside the row's own columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class _OnRequest(TypedDict, total=False):
    abstained: bool | None
    label_set: list[str] | None


class Prediction(_OnRequest):
    """The prediction of one row.

    `row` is its number, from 0; `status` one of `diptych.pipeline.data.rows.STATUSES` and `reason` what
    is wrong in words; `label` the likeliest class and `score` its score, `scores` every class's, in
    the model's order. Of a multi-label model `label` is the list of all classes whose score reaches
    their threshold, in the model's order and empty if none does (JSON in CSV), and `score` the highest
    of all scores. `image_contribution` and `text_contribution` are what each modality did for the answer: its Shapley
    value for the log-odds of the label, 0 for an absent modality, above 0 where it speaks for the label. Both sum to
    the log-odds with both less those with neither. Of a multi-label model they are by label, for the labels of the
    row; None if they were not asked for. The five last are None in a row without a prediction.

    On request come `abstained`, whether the score is too low to answer, and `label_set`, the classes of the conformal
    set, the likeliest first: see `ClassifyOptions`.
    """

    row: int
    status: str
    reason: str
    label: str | list[str] | None
    score: float | None
    scores: dict[str, float] | None
    image_contribution: float | dict[str, float] | None
    text_contribution: float | dict[str, float] | None


COLUMNS = [name for name in Prediction.__annotations__ if name not in _OnRequest.__annotations__]
"""The columns of every prediction."""
NO_PREDICTION = dict.fromkeys(("label", "score", "scores", "image_contribution", "text_contribution"))
"""The columns of a prediction that a row without one has."""


def output_row(row: Any, prediction: Prediction) -> dict[str, Any]:
    """A row's own columns, then its prediction's. Image bytes are dropped, their path stays.

    A column whose name the prediction needs becomes `input_<name>`, with one more `input_` in front for each column
    that has that name already: predictions can be classified again and again, and lose nothing. What is no row has no
    columns.
    """
    merged: dict[str, Any] = {}
    own = row if isinstance(row, Mapping) else {}
    for name, value in own.items():
        if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
            value = value["path"]
        elif isinstance(value, (bytes, bytearray)) or hasattr(value, "getbands") or getattr(value, "ndim", 0) > 1:
            continue
        if name in prediction:
            name = f"input_{name}"
            while name in own:
                name = f"input_{name}"
        merged[name] = value
    return {**merged, **prediction}


def output_columns(names: Iterable[str], requested: Iterable[str] = ()) -> list[str]:
    """The columns of what comes out of a table with columns `names`, with those on request."""
    nothing: Any = dict.fromkeys([*COLUMNS, *requested])
    return list(output_row(dict.fromkeys(names), nothing))
