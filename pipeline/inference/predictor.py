"""Prepared rows become predictions."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..data.rows import BadRow, Columns
from ..model.calibration import MODALITIES, modalities_of
from ..model.contributions import contributions
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..model.scores import chosen, scores
from ..runtime.cpus import usable_cpus
from .decisions import Decisions
from .encoding import InferenceEncoders, RecentFeatures
from .options import ClassifyOptions
from .predictions import NO_PREDICTION, Prediction
from .prefetch import BATCHES, BatchSize, ahead, windows
from .reading import Reader, Row


class Predictor:
    """Predicts the rows of one stream.

    Args:
        model: In eval mode.
        folder: Where relative image paths start.
    """

    def __init__(
        self,
        model: DiptychModel,
        processor: DiptychProcessor,
        encoders: InferenceEncoders,
        options: ClassifyOptions,
        columns: Columns,
        folder: Path | None,
    ) -> None:
        self.model, self.processor, self.encoders, self.options = model, processor, encoders, options
        self.device = model.device
        self.size = BatchSize(options.batch_size, self.device)
        self.images, self.texts = RecentFeatures(), RecentFeatures()
        self.decisions = Decisions(model.config, options) if options.requested else None
        self.reader = Reader(processor, columns, folder, encoders, self.images)

    def stream(self, rows: Iterable[Mapping[str, Any]], *, prompt: bool) -> Iterator[Prediction]:
        """Predictions of rows, in their order.

        Args:
            rows: By column name.
            prompt: Whether no row may wait for more than its batch; else batches are of texts of about one length.

        Raises:
            BadRow: At the first bad row, after the predictions of those before it, if that was chosen.
        """
        done: dict[int, Prediction] = {}
        expected, end = 0, sys.maxsize
        with _threads(self.device, self.options.workers) as pool:
            for batch in self._batches(rows, prompt, pool):
                if self.options.on_bad_row == "error":  # those behind it need no prediction
                    end = min([end, *(row.number for row in batch if row.bad)])
                done |= {one["row"]: one for one in self._predict(batch, end)}
                while expected in done:  # in order, whatever the order of the batches
                    prediction = done.pop(expected)
                    if expected == end:
                        raise BadRow(f"row {end}: {prediction['reason']} ({prediction['status']})")
                    yield prediction
                    expected += 1

    def _batches(
        self, rows: Iterable[Mapping[str, Any]], prompt: bool, pool: ThreadPoolExecutor | None
    ) -> Iterator[list[Row]]:
        """Rows whose images are read, batch by batch."""
        size = self.size
        read = windows(rows, lambda: size.rows if prompt else size.rows * BATCHES)
        planned = ahead(pool, lambda window: self.reader.plan(window, size.rows), read, lambda: 0 if prompt else 1)
        for run in planned if prompt else [chain.from_iterable(planned)]:
            batch: list[Row] = []
            for row in ahead(pool, self.reader.prepare, run, lambda: 2 * size.rows):
                batch.append(row)
                if row.ends:
                    yield batch
                    batch = []

    def _predict(self, batch: list[Row], end: int) -> list[Prediction]:
        """A prediction for each row; one without a label if it cannot be used or stands at `end` or behind."""
        self.encoders.follow(self.model)
        for row in batch:
            if (picture := row.picture) is None or picture.features is None:
                continue
            if picture.generation != self.encoders.generation:  # the weights have changed since
                self.reader.prepare(row)
        by_number: dict[int, dict[str, Any]] = {}
        nothing = NO_PREDICTION | dict.fromkeys(self.options.requested)

        def predict(some: list[Row]) -> None:
            by_number.update(zip((row.number for row in some), self._forward(some), strict=True))

        skips = self.options.on_bad_row == "skip"
        if usable := [row for row in batch if row.number < end and not row.empty and not (skips and row.bad)]:
            self.size.run(predict, usable)
        return [
            Prediction(row=row.number, status=row.status, reason=row.reason, **by_number.get(row.number, nothing))  # type: ignore[typeddict-item]
            for row in batch
        ]

    @torch.inference_mode()
    def _forward(self, rows: list[Row]) -> list[dict[str, Any]]:
        """The columns of the predictions of rows that can be used."""
        words, mask = self._text_features(rows)
        image, text = self.model.encode(
            {
                "image_features": self._image_features(rows),
                "text_features": words,
                "attention_mask": mask,
                "image_present": torch.tensor([row.picture is not None for row in rows], device=self.device),
                "text_present": torch.tensor([row.text is not None for row in rows], device=self.device),
            }
        )
        shares = None
        if self.options.contributions:
            output, shares = contributions(self.model, image, text)
        else:
            output = self.model.fuse(image, text)
        logits = cast(Tensor, output.logits)
        config = self.model.config
        modalities = modalities_of(image.present, text.present)
        by_row = scores(logits, config, modalities).tolist()
        columns_of_rows: list[dict[str, Any]] = [
            {
                "label": chosen(row, config),
                "score": max(row),
                "scores": dict(zip(config.labels, row, strict=True)),
                "image_contribution": None,
                "text_contribution": None,
            }
            for row in by_row
        ]
        if shares is not None:
            for columns, (of_image, of_text) in zip(columns_of_rows, shares.tolist(), strict=True):
                columns["image_contribution"] = self._by_label(columns["label"], of_image)
                columns["text_contribution"] = self._by_label(columns["label"], of_text)
        if self.decisions is not None:
            for columns, row, modality in zip(columns_of_rows, by_row, modalities.tolist(), strict=True):
                columns |= self.decisions.of(row, MODALITIES[modality])
        return columns_of_rows

    def _by_label(self, chosen: Any, share: Any) -> Any:
        """A contribution as it stands in a prediction: one number, or of a multi-label model one for each label."""
        if not self.model.config.multi_label:
            return share
        return {name: value for name, value in zip(self.model.config.labels, share, strict=True) if name in chosen}

    def _image_features(self, rows: list[Row]) -> Tensor:
        """Features (batch, width, rows, columns) of the images; 0 in rows without one, which are not encoded."""
        pictures = [row.picture for row in rows if row.picture is not None]
        if not pictures:
            return torch.zeros(len(rows), self.model.image_encoder.width, 1, 1, device=self.device)

        def encode(indices: list[int]) -> Tensor:
            pixels = [pixels for index in indices if (pixels := pictures[index].pixels) is not None]
            return self.encoders.encode_images(self.processor.image_processor.pixel_values(pixels, self.device))

        keys = [(self.encoders.generation, picture.key) for picture in pictures]
        features = self.images.encode_once(keys, [picture.features for picture in pictures], encode)
        features = features if isinstance(features, Tensor) else torch.stack(features)
        return _spread(features, [row.picture is not None for row in rows])

    def _text_features(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Features (batch, words, width) of the texts, 0 in rows without one, and their mask (batch, words)."""
        there = [row for row in rows if row.text is not None]
        lengths = torch.tensor([len(row.pieces) for row in rows], device=self.device)
        words = max(1, *(len(row.pieces) for row in rows))
        mask = (torch.arange(words, device=self.device) < lengths.unsqueeze(1)).long()
        if not there:
            return torch.zeros(len(rows), 1, self.model.text_encoder.feature_width, device=self.device), mask

        def encode(indices: list[int]) -> Tensor:
            batch = self.processor.padded([there[index].pieces for index in indices])
            return self.encoders.encode_texts(*(tensor.to(self.device) for tensor in batch.values()))

        keys = [(self.encoders.generation, *row.pieces) for row in there]
        features = self.texts.encode_once(keys, [None] * len(there), encode)
        if not isinstance(features, Tensor):  # each in the width of the batch that it was encoded in
            real = [states[: len(row.pieces)] for states, row in zip(features, there, strict=True)]
            features = nn.utils.rnn.pad_sequence(real, batch_first=True)
        return _spread(features, [row.text is not None for row in rows]), mask


def _spread(features: Tensor, present: list[bool]) -> Tensor:
    """Features of all rows from those of the rows that are there, 0 in the others."""
    if all(present):
        return features
    spread = features.new_zeros(len(present), *features.shape[1:])
    spread[torch.tensor(present, device=features.device)] = features
    return spread


@contextlib.contextmanager
def _threads(device: torch.device, workers: int | None) -> Iterator[ThreadPoolExecutor | None]:
    """Threads to prepare rows, which end with the block; None if there are to be none."""
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, usable_cpus())
    if not workers:
        yield None
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="diptych")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
