"""`ImageTextClassifier`: predictions for one pair, many, a table, a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.options import Reading
from ..data.rows import Columns, UnreadableRow
from ..data.values import is_nothing
from ..model.config import warn_of_left_out
from ..model.folder import load_model
from ..model.model import DiptychModel, require_classes
from ..model.processor import DiptychProcessor
from ..runtime.files import reason
from ..runtime.options import sort_options
from .encoding import InferenceEncoders
from .options import ClassifyOptions
from .predictions import Prediction, output_columns, output_row
from .predictor import Predictor

if TYPE_CHECKING:
    from ..data.tables import Table
    from ..explain.explanation import Explanation  # what reads tables loads datasets and pandas: a pair needs neither
    from .rank import Ranked

_NOT_GIVEN: Any = object()

_OTHER_NAMES = {
    "image": ("image", "img", "photo", "picture", "image_path", "img_path", "image_file", "image_url"),
    "text": ("text", "caption", "sentence", "title", "description", "headline"),
}
"""What a modality of a pair is called by mistake; other names are those of anything."""

if hasattr(os, "register_at_fork"):  # threads are not forked: whoever counts on them waits forever
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


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
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model = model.eval().to(self.device)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:  # the second: torch was built without it
            raise ValueError(f"device is {str(device)!r}, which cannot be used here ({reason(error)})") from error
        self.processor = processor
        self.encoders = InferenceEncoders()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> ImageTextClassifier:
        """Load a run's folder, a model's folder or a Hub id.

        Args:
            name_or_folder: Where the model is.
            device: Where to compute; a GPU if there is one.
            revision: A branch, tag or commit of the Hub's model.
            token: To a private one.

        Raises:
            ValueError: There is no usable model of ours; the message says what is there.
        """
        model, processor = load_model(name_or_folder, revision=revision, token=token)
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
        self, pairs: Any = _NOT_GIVEN, text: Any = _NOT_GIVEN, *, image: Any = _NOT_GIVEN, **options: Any
    ) -> Any:
        """Classify; what comes out has the order and the form of what goes in.

        Args:
            pairs: One pair, a dict with `image` and `text` (either may be absent): one prediction.
                A list of them: a list. A generator: a generator. A DataFrame or a
                `datasets.Dataset`: the same, with the prediction's columns added (a column of such
                a name becomes `input_<name>`); its image and text columns are found as in training.
                A `datasets.IterableDataset`: a generator of such rows. With `text`: the image.
            text: In place of `pairs`, or after the image: one pair's text, or a list with one for each image.
            image: In place of `pairs`: one pair's image, or a list with one for each text.
            options: Fields of `ClassifyOptions`; of a table also of `Reading`, such as `image_column`.

        Raises:
            BadRow: At the first bad row, if asked to.
            ValueError: `pairs` is nothing that can be classified, or an option is out of its range.
        """
        reading = {spec.name: options.pop(spec.name) for spec in fields(Reading) if spec.name in options}
        (chosen,) = sort_options(options, ClassifyOptions)
        if text is not _NOT_GIVEN and pairs is not _NOT_GIVEN and image is _NOT_GIVEN:
            pairs, image = _NOT_GIVEN, pairs
        modalities = {"image": image, "text": text}
        modalities = {name: value for name, value in modalities.items() if value is not _NOT_GIVEN}
        if (pairs is _NOT_GIVEN) is (not modalities):
            raise ValueError("give pairs, or an image, a text or both: classify(IMAGE, TEXT), classify(text=TEXT)")
        if modalities:
            pairs = _paired(modalities)
        if _of_datasets(pairs) or _is_frame(pairs):
            return self._table(pairs, Reading(**reading), chosen)
        if isinstance(pairs, Mapping) and "text" in pairs:  # perhaps a batch of `datasets`
            both = {name: pairs[name] for name in ("image", "text") if name in pairs}
            pairs = _paired(both) if all(map(_is_list, both.values())) else pairs
        if reading:
            raise ValueError(f"{', '.join(reading)} is for tables; pairs have 'image' and 'text'")
        if isinstance(pairs, Mapping):
            return next(self._stream([pairs], chosen))
        if isinstance(pairs, Sequence) and not isinstance(pairs, (str, bytes)):
            if pairs:  # a wrong call shows in its first pair; a wrong one among others gets a status
                first = _as_row(pairs[0])
                if isinstance(first, UnreadableRow):
                    raise ValueError(first.reason)
            return list(self._stream(pairs, chosen))
        if isinstance(pairs, Iterator):
            return self._stream(pairs, chosen)
        raise ValueError(
            f"a {type(pairs).__name__} cannot be classified: give a dict with 'image' and 'text', a list, generator, "
            "DataFrame or datasets.Dataset of them, or an image and a text: classify(IMAGE, TEXT)"
        )

    def _table(self, data: Any, reading: Reading, options: ClassifyOptions) -> Any:
        """The same kind of dataset or DataFrame with the prediction's columns added."""
        import datasets

        from ..data.read import require_some, settle
        from ..data.tables import load_tables

        if isinstance(data, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            raise ValueError(f"the data has the splits {', '.join(data)}: give one of them, data[{next(iter(data))!r}]")
        streaming = isinstance(data, datasets.IterableDataset)
        rows: Any = []
        if streaming or len(data):
            (table,) = load_tables(data, streaming=streaming).values()
            columns, table = settle(table, reading, need_label=False, known=self.model.config.columns)
            require_some(table, columns)
            rows = self.table_stream(table, columns, options, prompt=streaming)
        if streaming:
            return rows
        rows = list(rows)
        names = list(data.columns) if _is_frame(data) else data.column_names
        empty: dict[str, list[Any]] = {name: [] for name in output_columns(map(str, names), options.requested)}
        if isinstance(data, datasets.Dataset):
            return datasets.Dataset.from_list(rows) if rows else datasets.Dataset.from_dict(empty)
        own = dict(zip(names, empty, strict=False))  # the caller's columns come back as they are, whatever their type
        if not hasattr(data, "index"):  # of polars
            found = type(data)(rows or empty)
            return found.with_columns(data[name].alias(new) for name, new in own.items() if new in found.columns)
        frame = type(data)(rows or empty, index=data.index)
        for name, new in own.items():
            if new in frame:
                frame[new] = data[name].array
        return frame.rename(columns={str(name): name for name in names})

    def table_stream(
        self, table: Table, columns: Columns, options: ClassifyOptions | None = None, *, prompt: bool = False
    ) -> Iterator[dict[str, Any]]:
        """A table's rows with the columns of their predictions, one after another, in order.

        Args:
            table: Its rows are read once.
            columns: Which columns to read.
            options: How to classify.
            prompt: As for `stream`.

        Raises:
            BadRow: As `stream` does.
        """
        kept, rows = tee(table.rows)  # the second reader is a window or two ahead
        for prediction in self._stream(rows, options or ClassifyOptions(), columns, table.folder, prompt):
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

    def explain(
        self,
        *,
        image: Any = None,
        text: str | None = None,
        against: str | None = None,
        method: str = "integrated-gradients",
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> Explanation:
        """Why a pair is classified as it is; see `diptych.pipeline.explain.explain.explain`.

            classify.explain(image="shirt.jpg", text="a navy shirt", out="why/")

        Args:
            image: Anything that stands for an image; None for none.
            text: A sentence; None for none.
            against: A class to compare the predicted one with.
            method: `integrated-gradients`, `attention` or `occlusion`.
            out: Folder for a page (HTML) and a picture (PNG).
            overwrite: Replace those of an earlier explanation.

        Raises:
            ValueError: There is nothing to explain, or no such class or method, or `out` holds an explanation.
        """
        from ..explain.explain import explain
        from ..explain.page import save_explanation

        explanation = explain(self.model, self.processor, image=image, text=text, against=against, method=method)
        if out is not None:
            save_explanation(explanation, out, overwrite=overwrite)
        return explanation

    def stream(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        columns: Columns | None = None,
        folder: Path | None = None,
        prompt: bool | None = None,
        **options: Any,
    ) -> Iterator[Prediction]:
        """Predictions of rows, one after another, in order.

        Args:
            rows: By column name.
            columns: Which columns to read; `image` and `text` if not given.
            folder: Where relative image paths start.
            prompt: Whether no row may wait for more than its batch, because the next rows may be long in
                coming; else rows are read some batches at a time (no more than 64 MB of them), and batched by
                the lengths of their texts. By default so for an iterator, and only for one.
            options: Fields of `ClassifyOptions`; of a table also of `Reading`, such as `image_column`.

        Raises:
            BadRow: At the first bad row, after the predictions of those before it, if asked to.
            ValueError: An option is out of its range, or the model has no classes.
        """
        return self._stream(rows, sort_options(options, ClassifyOptions)[0], columns, folder, prompt)

    def _stream(
        self,
        rows: Iterable[Mapping[str, Any]],
        options: ClassifyOptions,
        columns: Columns | None = None,
        folder: Path | None = None,
        prompt: bool | None = None,
    ) -> Iterator[Prediction]:
        require_classes(self.model)
        if self.device.type == "cuda" and torch.cuda._is_in_bad_fork():
            raise ValueError("this process was forked after a GPU was used, which CUDA cannot: start it by spawn")
        prompt = isinstance(rows, Iterator) if prompt is None else prompt
        if columns is None:
            left_out = self.model.config.left_out
            image, text = (None if name in left_out else name for name in ("image", "text"))
            columns = Columns(image, text)
            rows = _named_alike(rows, left_out)
            for name in left_out:
                rows = _leaving_out(rows, name)
        predictor = Predictor(self.model, self.processor, self.encoders, options, columns, folder)
        return predictor.stream(map(_as_row, rows), prompt=prompt)


def _leaving_out(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows, and a warning if one has what the model was trained without."""
    told = False
    for row in rows:
        if not told and isinstance(row, Mapping) and not is_nothing(row.get(name)):
            told = True
            warn_of_left_out(name)
        yield row


def _named_alike(rows: Iterable[Any], left_out: set[str]) -> Iterator[Any]:
    """The rows, of which the first has a modality by its name, and none by another.

    Raises:
        ValueError: It has not: the call is wrong, and not the row.
    """
    for number, pair in enumerate(rows):
        if number == 0 and isinstance(pair, Mapping):
            if not {"image", "text"} & set(pair):
                names = ", ".join(map(repr, pair)) or "nothing"
                raise ValueError(f"a pair has 'image', 'text' or both; this one has {names}")
            for name, others in _OTHER_NAMES.items():
                meant = [key for key in pair if str(key).lower() in others and not is_nothing(pair[key])]
                if name not in {*pair} | left_out and meant:
                    raise ValueError(
                        f"the pair has no {name!r}, but {meant[0]!r}, which is not read: call it {name!r}, or leave "
                        "it out"
                    )
        yield pair


def _is_frame(value: Any) -> bool:
    """True of a DataFrame, of pandas or polars, without importing either."""
    return hasattr(value, "to_dict") and hasattr(value, "columns")


def _of_datasets(value: Any) -> bool:
    """True of the tables of the package `datasets`, without importing it; a column of one is a list."""
    names = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    return any(kind.__name__ in names and kind.__module__.startswith("datasets.") for kind in type(value).__mro__)


def _paired(modalities: dict[str, Any]) -> Any:
    """One pair of an image and a text, or a list of pairs of lists of them."""
    lengths = {name: len(value) if _is_list(value) else None for name, value in modalities.items()}
    if len(set(lengths.values())) > 1:
        counts = " and ".join(
            f"one {name}" if length is None else f"a list of {length} {name}s" for name, length in lengths.items()
        )
        raise ValueError(f"there is {counts}; give one of each, or as many of each")
    if None in lengths.values():
        return modalities
    return [dict(zip(modalities, values, strict=True)) for values in zip(*modalities.values(), strict=True)]


def _is_list(value: Any) -> bool:
    """Whether this is several images or texts: a list, an array of names, or a column of pandas or `datasets`."""
    kinds = ("Column", "Series")
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1 or type(value).__name__ in kinds


def _as_row(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, Sequence) and not isinstance(row, (str, bytes)) and len(row) == 2:
        return {"image": row[0], "text": row[1]}
    return UnreadableRow(f"a {type(row).__name__} is no pair: give a dict with 'image' and 'text', or (image, text)")
