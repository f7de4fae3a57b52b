"""`ImageTextClassifier`: predictions for one pair, many, a table, a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .build import load_model
from .model import DiptychModel, require_classes
from .predictions import Prediction, output_columns, output_row
from .processor import DiptychProcessor
from .rows import BadRow, Columns, Pair, UnreadableRow, read_pair
from .scores import chosen, scores

if TYPE_CHECKING:  # what reads tables loads datasets and pandas: a pair needs neither
    from .data import Table
    from .rank import Ranked

ON_BAD_ROW = ("mask", "skip", "error")
_NOT_GIVEN: Any = object()


class ImageTextClassifier:
    """A model and its processor, ready to classify.

        classify = ImageTextClassifier.from_pretrained("runs/products")
        classify({"image": "shirt.jpg", "text": "Turtle Check Men Navy Blue Shirt"})
        classify(text="Turtle Check Men Navy Blue Shirt")

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

    def __call__(
        self,
        pairs: Any = _NOT_GIVEN,
        *,
        image: Any = _NOT_GIVEN,
        text: Any = _NOT_GIVEN,
        batch_size: int = 32,
        on_bad_row: str = "mask",
    ) -> Any:
        """Classify; what comes out has the order and the form of what goes in.

        Args:
            pairs: One pair, a dict with `image` and `text` (either may be absent): one prediction.
                A list of them: a list. A generator: a generator. A DataFrame or a
                `datasets.Dataset`: the same, with the prediction's columns added (a column of such
                a name becomes `input_<name>`); its image and text columns are found as in training.
                A `datasets.IterableDataset`: a generator of such rows.
            image: In place of `pairs`: one pair's image, or what there is of it.
            text: Likewise its text.
            batch_size: Rows per forward pass.
            on_bad_row: `mask` classifies a row with the half that is there, `skip` gives it no
                prediction, `error` raises at the first. A text that is cut is not bad.

        Raises:
            BadRow: At the first bad row, if asked to.
            ValueError: `pairs` is nothing that can be classified.
        """
        options: dict[str, Any] = {"batch_size": batch_size, "on_bad_row": on_bad_row}
        halves = {"image": image, "text": text}
        halves = {name: half for name, half in halves.items() if half is not _NOT_GIVEN}
        if (pairs is _NOT_GIVEN) is (not halves):
            raise ValueError("give pairs, or image=..., text=... or both of one pair")
        if halves:
            pairs = halves
        if _of_datasets(pairs):
            return self._dataset(pairs, options)
        if isinstance(pairs, Mapping):
            _require_a_half(pairs)
            return next(self.stream([pairs], **options))
        if hasattr(pairs, "to_dict") and hasattr(pairs, "columns"):  # a DataFrame, without importing pandas
            from .data import Table

            rows = pairs.to_dict("records")
            if not rows:
                return type(pairs)([], index=pairs.index, columns=output_columns(pairs.columns))
            table = Table(rows, None, "the DataFrame", rows[0])
            return type(pairs)(list(self.table_stream(table, pair_columns(table), **options)), index=pairs.index)
        if isinstance(pairs, Sequence) and not isinstance(pairs, (str, bytes)):
            if pairs:  # a wrong call is told by its first pair; a wrong one among others gets a status
                first = _as_row(pairs[0])
                if isinstance(first, UnreadableRow):
                    raise ValueError(first.reason)
                _require_a_half(first)
            return list(self.stream(pairs, **options))
        if isinstance(pairs, Iterator):
            return self.stream(pairs, **options)
        raise ValueError(
            f"a {type(pairs).__name__} cannot be classified: give a dict with 'image' and 'text', or a list, "
            "generator, DataFrame or datasets.Dataset of them"
        )

    def _dataset(self, data: Any, options: dict[str, Any]) -> Any:
        """The same kind of dataset with the prediction's columns added, for an object of the package `datasets`."""
        import datasets

        from .data import load_tables

        if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            raise ValueError(f"the data has the splits {', '.join(data)}: give one of them, data[{next(iter(data))!r}]")
        table = load_tables(data)["train"]
        found = self.table_stream(table, pair_columns(table), **options)
        if isinstance(data, datasets.IterableDataset):
            return found
        empty: dict[str, list[Any]] = {name: [] for name in output_columns(data.column_names)}
        return datasets.Dataset.from_list(list(found)) if len(data) else datasets.Dataset.from_dict(empty)

    def table_stream(
        self, table: Table, columns: Columns, *, batch_size: int = 32, on_bad_row: str = "mask"
    ) -> Iterator[dict[str, Any]]:
        """A table's rows with the columns of their predictions, one after another, in order.

        Raises:
            BadRow: As `stream` does.
        """
        kept, rows = tee(table.rows)  # the second reader is at most a batch ahead
        for prediction in self.stream(
            rows, columns=columns, folder=table.folder, batch_size=batch_size, on_bad_row=on_bad_row
        ):
            yield output_row(next(kept), prediction)

    def rank(
        self,
        *,
        image: Any = None,
        text: str | None = None,
        texts: Sequence[Any] | None = None,
        images: Sequence[Any] | None = None,
        top: int | None = None,
    ) -> list[Ranked]:
        """Rank `texts` for an `image` or `images` for a `text`, best first; see `diptych.pipeline.rank.rank`.

            classify.rank(image="shirt.jpg", texts=["a navy shirt", "a red dress"])

        Raises:
            ValueError: The model was trained without alignment, or there is nothing to rank.
        """
        from .rank import rank

        return rank(self.model, self.processor, image=image, text=text, texts=texts, images=images, top=top)

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
        require_classes(self.model)
        columns = columns or Columns("image", "text")
        enough = self.processor.image_processor.needed_size
        numbered = enumerate(rows)
        for chunk in _chunks(numbered, batch_size):
            pairs = [read_pair(number, _as_row(row), columns, folder, at_least=enough) for number, row in chunk]
            bad = next((p for p in pairs if p.bad), None) if on_bad_row == "error" else None
            yield from self._predict(pairs[: pairs.index(bad)] if bad else pairs, skip=on_bad_row == "skip")
            if bad:
                raise BadRow(f"row {bad.row}: {bad.reason} ({bad.status})")

    def _predict(self, pairs: list[Pair], *, skip: bool) -> list[Prediction]:
        """Predictions of one batch; rows that get none keep their place."""
        usable = [p for p in pairs if not p.bad or (not skip and (p.image is not None or p.text is not None))]
        whole: set[int] = set()
        found: dict[int, dict[str, Any]] = {}
        if usable:
            batch = self.processor([p.image for p in usable], [p.text for p in usable]).to(self.device)
            with torch.inference_mode():
                output = self.model(**batch)
            rows = scores(output.logits, self.model.config).tolist()
            weights = (
                [(None, None)] * len(usable) if output.modality_weights is None else output.modality_weights.tolist()
            )
            words = batch["attention_mask"].sum(dim=1).tolist()
            whole = {pair.row for pair, count in zip(usable, words, strict=True) if count < self.processor.max_length}
            for pair, row, (image_weight, text_weight) in zip(usable, rows, weights, strict=True):
                found[pair.row] = {
                    "label": chosen(row, self.model.config),
                    "score": max(row),
                    "scores": dict(zip(self.labels, row, strict=True)),
                    "image_weight": image_weight,
                    "text_weight": text_weight,
                }
        pairs = self._with_cut_texts(pairs, whole)
        nothing = dict.fromkeys(("label", "score", "scores", "image_weight", "text_weight"))
        return [
            Prediction(row=p.row, status=p.status, reason=p.reason, **found.get(p.row, nothing))  # type: ignore[typeddict-item]
            for p in pairs
        ]

    def _with_cut_texts(self, pairs: list[Pair], whole: set[int]) -> list[Pair]:
        """The same pairs, with a word on each text that is longer than what is read.

        Args:
            pairs: One batch.
            whole: Numbers of rows known to be shorter: only the others are counted.
        """
        long = [p for p in pairs if p.text is not None and p.row not in whole]
        lengths = dict(zip((p.row for p in long), self.processor.lengths([str(p.text) for p in long]), strict=True))
        limit = self.processor.max_length

        def said(length: int) -> tuple[str, str]:
            return "text_truncated", f"the text has {length} word pieces, of which the first {limit} are read"

        return [
            replace(p, problems=(*p.problems, said(lengths[p.row]))) if lengths.get(p.row, 0) > limit else p
            for p in pairs
        ]


def pair_columns(table: Table) -> Columns:
    """The columns to classify by, as in training; a table with an `image` or a `text` alone lacks the other half.

    Raises:
        ValueError: Neither can be told.
    """
    from .columns import find_columns

    try:
        return find_columns(table, need_label=False)
    except ValueError:
        if {"image", "text"} & set(getattr(table.rows, "features", None) or table.first or ()):
            return Columns("image", "text")
        raise


def _of_datasets(value: Any) -> bool:
    """True of the tables of the package `datasets`, without importing it; a column of one is a list."""
    names = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    return any(kind.__name__ in names and kind.__module__.startswith("datasets.") for kind in type(value).__mro__)


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
    return UnreadableRow(f"a {type(row).__name__} is no pair: give a dict with 'image' and 'text', or (image, text)")
