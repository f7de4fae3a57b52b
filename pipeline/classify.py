"""`ImageTextClassifier`: predictions for one pair, many, a table, a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import datasets
import torch

from .build import load_model
from .columns import find_columns
from .data import Table, load_tables
from .model import DiptychModel
from .processor import DiptychProcessor
from .rows import BadRow, Columns, Pair, read_pair
from .scores import scores

ON_BAD_ROW = ("mask", "skip", "error")


class Prediction(TypedDict):
    """What is said of one row.

    `row` is its number, from 0; `status` one of `diptych.pipeline.rows.STATUSES` and `reason` what
    is wrong in words; `label` the likeliest class and `score` its score, `scores` every class's, in
    the model's order; `image_weight` and `text_weight` sum to 1, None where a model has none. The
    five last are None in a row without a prediction.
    """

    row: int
    status: str
    reason: str
    label: str | None
    score: float | None
    scores: dict[str, float] | None
    image_weight: float | None
    text_weight: float | None


class ImageTextClassifier:
    """A model and its processor, ready to classify.

        classify = ImageTextClassifier.from_pretrained("runs/products")
        classify({"image": "shirt.jpg", "text": "Turtle Check Men Navy Blue Shirt"})

    Args:
        model: In eval mode from here on.
        processor: The model's own.
        device: Where to compute; a GPU if there is one.
    """

    def __init__(
        self, model: DiptychModel, processor: DiptychProcessor, *, device: str | torch.device | None = None
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        self.processor = processor

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, device: str | None = None) -> ImageTextClassifier:
        """Load a run's folder, a model's folder or a Hub id.

        Raises:
            ValueError: There is no usable model of ours; the message says what is there.
        """
        model, processor = load_model(name_or_folder)
        return cls(model, processor, device=device)

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self.model.config.labels

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model and its processor as one folder, complete and movable."""
        from .build import save_model

        save_model(self.model, self.processor, Path(folder))

    def __call__(self, pairs: Any, *, batch_size: int = 32, on_bad_row: str = "mask") -> Any:
        """Classify; what comes out has the order and the form of what goes in.

        Args:
            pairs: One pair, a dict with `image` and `text` (either may be absent): one prediction.
                A list of them: a list. A generator: a generator. A DataFrame or a
                `datasets.Dataset`: the same, with the prediction's columns added (a column of such
                a name becomes `input_<name>`); its image and text columns are found as in training.
            batch_size: Rows per forward pass.
            on_bad_row: `mask` classifies a row with the half that is there, `skip` gives it no
                prediction, `error` raises at the first.

        Raises:
            BadRow: At the first bad row, if asked to.
            ValueError: `pairs` is nothing that can be classified.
        """
        if isinstance(pairs, Mapping):
            _require_a_half(pairs)
            return next(self.stream([pairs], batch_size=1, on_bad_row=on_bad_row))
        options: dict[str, Any] = {"batch_size": batch_size, "on_bad_row": on_bad_row}
        if isinstance(pairs, datasets.Dataset):
            table = load_tables(pairs)["train"]
            columns = _columns(table, table.rows.column_names)
            found = self.stream(table.rows, columns=columns, **options)
            return datasets.Dataset.from_list(
                [output_row(row, prediction) for row, prediction in zip(table.rows, found, strict=True)]
            )
        if hasattr(pairs, "to_dict") and hasattr(pairs, "columns"):  # a DataFrame, without importing pandas
            rows = pairs.to_dict("records")
            columns = Columns("image", "text")
            if rows:
                columns = _columns(Table(rows, None, "the DataFrame", rows[0]), list(rows[0]))
            found = self.stream(rows, columns=columns, **options)
            merged = [output_row(row, prediction) for row, prediction in zip(rows, found, strict=True)]
            return type(pairs)(merged, index=pairs.index)
        if isinstance(pairs, Sequence) and not isinstance(pairs, (str, bytes)):
            if pairs and isinstance(pairs[0], Mapping):
                _require_a_half(pairs[0])
            return list(self.stream(pairs, **options))
        if isinstance(pairs, Iterator):
            return self.stream(pairs, **options)
        raise ValueError(
            f"a {type(pairs).__name__} cannot be classified: give a dict with 'image' and 'text', or a list, "
            "generator, DataFrame or datasets.Dataset of them"
        )

    def stream(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        columns: Columns | None = None,
        folder: Path | None = None,
        batch_size: int = 32,
        on_bad_row: str = "mask",
    ) -> Iterator[Prediction]:
        """Predictions of rows, one after another, in order; no more than a batch is held.

        Args:
            rows: By column name.
            columns: Which columns to read; `image` and `text` if not given.
            folder: Where relative image paths start.
            batch_size: Rows per forward pass.
            on_bad_row: As for calling.

        Raises:
            BadRow: At the first bad row, after the predictions of those before it, if asked to.
        """
        if on_bad_row not in ON_BAD_ROW:
            raise ValueError(f"on_bad_row is {on_bad_row!r}; choose one of {', '.join(ON_BAD_ROW)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        columns = columns or Columns("image", "text")
        numbered = enumerate(rows)
        for chunk in _chunks(numbered, batch_size):
            pairs = [read_pair(number, _as_row(row), columns, folder) for number, row in chunk]
            bad = next((p for p in pairs if p.status != "ok"), None) if on_bad_row == "error" else None
            yield from self._predict(pairs[: pairs.index(bad)] if bad else pairs, skip=on_bad_row == "skip")
            if bad:
                raise BadRow(f"row {bad.row}: {bad.reason} ({bad.status})")

    def _predict(self, pairs: list[Pair], *, skip: bool) -> list[Prediction]:
        """Predictions of one batch; rows that get none keep their place."""
        usable = [p for p in pairs if p.status == "ok" or not (skip or p.status == "both_missing")]
        found: dict[int, dict[str, Any]] = {}
        if usable:
            batch = self.processor([p.image for p in usable], [p.text for p in usable]).to(self.device)
            with torch.inference_mode():
                output = self.model(**batch)
            rows = scores(output.logits, self.model.config).tolist()
            weights = (
                [(None, None)] * len(usable) if output.modality_weights is None else output.modality_weights.tolist()
            )
            for pair, row, (image_weight, text_weight) in zip(usable, rows, weights, strict=True):
                best = max(range(len(row)), key=row.__getitem__)
                found[pair.row] = {
                    "label": self.labels[best],
                    "score": row[best],
                    "scores": dict(zip(self.labels, row, strict=True)),
                    "image_weight": image_weight,
                    "text_weight": text_weight,
                }
        nothing = dict.fromkeys(("label", "score", "scores", "image_weight", "text_weight"))
        return [
            Prediction(row=p.row, status=p.status, reason=p.reason, **found.get(p.row, nothing))  # type: ignore[typeddict-item]
            for p in pairs
        ]


def output_row(row: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
    """A row's own columns, then its prediction's. Image bytes are dropped, their path stays.

    A column whose name the prediction needs becomes `input_<name>`.
    """
    merged: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
            value = value["path"]
        elif isinstance(value, (bytes, bytearray)) or hasattr(value, "getbands"):
            continue
        merged[f"input_{name}" if name in Prediction.__annotations__ else name] = value
    return {**merged, **prediction}


def _columns(table: Table, names: Sequence[str]) -> Columns:
    """The columns of a table in memory; one that has but an `image` or a `text` column lacks the other half."""
    try:
        return find_columns(table, need_label=False)
    except ValueError:
        if {"image", "text"} & set(names):
            return Columns("image", "text")
        raise


def _require_a_half(pair: Mapping[str, Any]) -> None:
    if not {"image", "text"} & set(pair):
        raise ValueError(f"a pair has 'image', 'text' or both; this one has {', '.join(map(repr, pair)) or 'nothing'}")


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; if the items end in an error, those before it still come."""
    while True:
        chunk: list[Any] = []
        error: Exception | None = None
        try:
            chunk.extend(islice(items, size))
        except Exception as caught:
            error = caught
        if chunk:
            yield chunk
        if error is not None:
            raise error
        if len(chunk) < size:
            return


def _as_row(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, Sequence) and not isinstance(row, (str, bytes)) and len(row) == 2:
        return {"image": row[0], "text": row[1]}
    raise ValueError(f"a {type(row).__name__} is no pair: give a dict with 'image' and 'text', or (image, text)")
