"""`ImageTextClassifier`: predictions for one pair, many, a table, a stream."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.columns import pair_columns
from ..data.rows import BadRow, Columns, UnreadableRow
from ..model.folder import load_model
from ..model.model import DiptychModel, require_classes
from ..model.processor import DiptychProcessor
from ..model.scores import chosen, scores
from .encoding import InferenceEncoders, RecentFeatures
from .predictions import Prediction, output_columns, output_row
from .predictor import _spread, _threads
from .prefetch import BATCHES, BatchSize, ahead, windows
from .reading import Reader, Row

if TYPE_CHECKING:  # what reads tables loads datasets and pandas: a pair needs neither
    from ..data.tables import Table
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
        self.encoders = InferenceEncoders()

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
        from ..model.folder import save_model

        save_model(self.model, self.processor, Path(folder))

    def __call__(
        self,
        pairs: Any = _NOT_GIVEN,
        *,
        image: Any = _NOT_GIVEN,
        text: Any = _NOT_GIVEN,
        batch_size: int | None = None,
        on_bad_row: str = "mask",
        workers: int | None = None,
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
            batch_size: Rows per forward pass; 32 if not given, and on a GPU as many as its memory takes, found
                by trial.
            on_bad_row: `mask` classifies a row with the half that is there, `skip` gives it no
                prediction, `error` raises at the first. A text that is cut is not bad.
            workers: Threads that read and scale images ahead of the model, at most a few batches. By default none
                on a CPU, which the model needs itself; on a GPU one for each CPU, at most 8.

        Raises:
            BadRow: At the first bad row, if asked to.
            ValueError: `pairs` is nothing that can be classified.
        """
        options: dict[str, Any] = {"batch_size": batch_size, "on_bad_row": on_bad_row, "workers": workers}
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
            from ..data.tables import Table

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

        from ..data.tables import load_tables

        if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            raise ValueError(f"the data has the splits {', '.join(data)}: give one of them, data[{next(iter(data))!r}]")
        table = load_tables(data)["train"]
        streaming = isinstance(data, datasets.IterableDataset)
        found = self.table_stream(table, pair_columns(table), prompt=streaming, **options)
        if streaming:
            return found
        empty: dict[str, list[Any]] = {name: [] for name in output_columns(data.column_names)}
        return datasets.Dataset.from_list(list(found)) if len(data) else datasets.Dataset.from_dict(empty)

    def table_stream(
        self, table: Table, columns: Columns, *, prompt: bool = False, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """A table's rows with the columns of their predictions, one after another, in order.

        Args:
            table: Its rows are read once.
            columns: Which columns to read.
            prompt: As for `stream`.
            options: `batch_size`, `on_bad_row` and `workers`, as for calling.

        Raises:
            BadRow: As `stream` does.
        """
        kept, rows = tee(table.rows)  # the second reader is a window or two ahead
        for prediction in self.stream(rows, columns=columns, folder=table.folder, prompt=prompt, **options):
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
        """Rank `texts` for an `image` or `images` for a `text`, best first; see `diptych.pipeline.inference.rank.rank`.

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
        batch_size: int | None = None,
        on_bad_row: str = "mask",
        workers: int | None = None,
        prompt: bool | None = None,
    ) -> Iterator[Prediction]:
        """Predictions of rows, one after another, in order.

        Args:
            rows: By column name.
            columns: Which columns to read; `image` and `text` if not given.
            folder: Where relative image paths start.
            batch_size: As for calling.
            on_bad_row: As for calling.
            workers: As for calling.
            prompt: Whether no row may wait for more than its batch, because the next rows may be long in
                coming; else rows are read some batches at a time (no more than 64 MB of them), and batched by
                the lengths of their texts. By default so for an iterator, and only for one.

        Raises:
            BadRow: At the first bad row, after the predictions of those before it, if asked to.
        """
        if on_bad_row not in ON_BAD_ROW:
            raise ValueError(f"on_bad_row is {on_bad_row!r}; choose one of {', '.join(ON_BAD_ROW)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if workers is not None and workers < 0:
            raise ValueError(f"workers is {workers}; it must be at least 0")
        require_classes(self.model)
        prompt = isinstance(rows, Iterator) if prompt is None else prompt
        size = BatchSize(batch_size, self.device)
        images, texts = RecentFeatures(), RecentFeatures()
        reader = Reader(self.processor, columns or Columns("image", "text"), folder, self.encoders, images)
        read = windows(map(_as_row, rows), lambda: size.rows if prompt else size.rows * BATCHES)
        with _threads(self.device, workers) as pool:
            planned = ahead(pool, lambda window: reader.plan(window, size.rows), read, lambda: 0 if prompt else 1)
            done: dict[int, Row] = {}
            expected, end = 0, sys.maxsize
            for run in planned if prompt else [chain.from_iterable(planned)]:
                batch: list[Row] = []
                for row in ahead(pool, reader.prepare, run, lambda: 2 * size.rows):
                    batch.append(row)
                    if not row.ends:
                        continue
                    if on_bad_row == "error":  # those behind it need no prediction
                        end = min([end, *(one.number for one in batch if one.bad)])
                    self._predict([one for one in batch if one.number < end], reader, texts, size, on_bad_row != "skip")
                    done |= {one.number: one for one in batch}
                    batch = []
                    while expected in done:  # in order, whatever the order of the batches
                        one = done.pop(expected)
                        if expected == end:
                            raise BadRow(f"row {one.number}: {one.reason} ({one.status})")
                        yield Prediction(row=one.number, status=one.status, reason=one.reason, **one.found)  # type: ignore[typeddict-item]
                        expected += 1

    def _predict(
        self, batch: list[Row], reader: Reader, texts: RecentFeatures, size: BatchSize, one_half: bool
    ) -> None:
        """Predict the rows of a batch that can be used; those with `one_half` only if that is enough."""
        self.encoders.follow(self.model)
        for row in batch:
            if row.features is not None and row.generation != self.encoders.generation:
                reader.prepare(row)  # the weights have changed since its features were found

        def predict(rows: list[Row]) -> None:
            for row, found in zip(rows, self._forward(rows, reader.kept, texts), strict=True):
                row.found = found

        usable = [row for row in batch if not row.bad or (one_half and (row.has_image or row.text is not None))]
        if usable:
            size.run(predict, usable)
        for row in batch:  # which may wait for others before it
            row.source = row.pixels = row.features = None

    def _forward(self, rows: list[Row], images: RecentFeatures, texts: RecentFeatures) -> list[dict[str, Any]]:
        """The columns of the predictions of rows that can be used."""
        with torch.inference_mode():
            words, mask = self._text_features(rows, texts)
            output = self.model(
                image_features=self._image_features(rows, images),
                text_features=words,
                attention_mask=mask,
                image_present=torch.tensor([row.has_image for row in rows], device=self.device),
                text_present=torch.tensor([row.text is not None for row in rows], device=self.device),
            )
        by_row = scores(output.logits, self.model.config).tolist()
        weights = [(None, None)] * len(rows) if output.modality_weights is None else output.modality_weights.tolist()
        return [
            {
                "label": chosen(row, self.model.config),
                "score": max(row),
                "scores": dict(zip(self.labels, row, strict=True)),
                "image_weight": image_weight,
                "text_weight": text_weight,
            }
            for row, (image_weight, text_weight) in zip(by_row, weights, strict=True)
        ]

    def _image_features(self, rows: list[Row], kept: RecentFeatures) -> Tensor:
        """Features (batch, width, rows, columns) of the images; 0 in rows without one, which are not encoded."""
        there = [row for row in rows if row.has_image]
        if not there:
            return torch.zeros(len(rows), self.model.image_encoder.width, 1, 1, device=self.device)

        def encode(indices: list[int]) -> Tensor:
            pixels = [pixels for index in indices if (pixels := there[index].pixels) is not None]
            return self.encoders.encode_images(self.processor.image_processor.pixel_values(pixels, self.device))

        found = kept.encode_once(
            [(self.encoders.generation, row.key) for row in there], [row.features for row in there], encode
        )
        features = found if isinstance(found, Tensor) else torch.stack(found)
        return _spread(features, [row.has_image for row in rows])

    def _text_features(self, rows: list[Row], kept: RecentFeatures) -> tuple[Tensor, Tensor]:
        """Features (batch, words, width) of the texts, 0 in rows without one, and their mask (batch, words)."""
        there = [row for row in rows if row.text is not None]
        lengths = torch.tensor([len(row.pieces) for row in rows], device=self.device)
        words = max(1, *(len(row.pieces) for row in rows))
        mask = (torch.arange(words, device=self.device) < lengths.unsqueeze(1)).long()
        if not there:
            return torch.zeros(len(rows), 1, self.model.text_encoder.width, device=self.device), mask

        def encode(indices: list[int]) -> Tensor:
            batch = self.processor.padded([there[index].pieces for index in indices])
            return self.encoders.encode_texts(*(tensor.to(self.device) for tensor in batch.values()))

        keys = [(self.encoders.generation, *row.pieces) for row in there]
        found = kept.encode_once(keys, [None] * len(there), encode)
        if not isinstance(found, Tensor):  # each in the width of the batch that it was encoded in
            real = [features[: len(row.pieces)] for features, row in zip(found, there, strict=True)]
            found = nn.utils.rnn.pad_sequence(real, batch_first=True)
        return _spread(found, [row.text is not None for row in rows]), mask


def _of_datasets(value: Any) -> bool:
    """True of the tables of the package `datasets`, without importing it; a column of one is a list."""
    names = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    return any(kind.__name__ in names and kind.__module__.startswith("datasets.") for kind in type(value).__mro__)


def _require_a_half(pair: Mapping[str, Any]) -> None:
    if not {"image", "text"} & set(pair):
        raise ValueError(f"a pair has 'image', 'text' or both; this one has {', '.join(map(repr, pair)) or 'nothing'}")


def _as_row(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, Sequence) and not isinstance(row, (str, bytes)) and len(row) == 2:
        return {"image": row[0], "text": row[1]}
    return UnreadableRow(f"a {type(row).__name__} is no pair: give a dict with 'image' and 'text', or (image, text)")
