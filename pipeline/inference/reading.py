"""One row is read, its image decoded and scaled, its text tokenized."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.image_source import BadImage, find_image, open_file
from ..data.images import image_errors, read_image
from ..data.rows import Columns, UnreadableRow, all_reasons, read_text, worst_status
from ..model.processor import DiptychProcessor
from .encoding import InferenceEncoders, RecentFeatures

LARGEST_FILE = 256 << 20
"""Bytes: a larger file is left to the decoder, which doesn't need all of it in memory."""


_NOTHING = dict.fromkeys(("label", "score", "scores", "image_weight", "text_weight"))


@dataclass(eq=False)
class Row:
    """A row between a table and its prediction.

    Attributes:
        number: In the table, from 0.
        source: The image as it stands there.
        text: None if it cannot be used.
        problems: As of a `Pair`.
        pieces: Ids of the text's word pieces, cut to what the model reads.
        key: A hash of the image, equal where images are.
        has_image: Whether there is one that can be used.
        pixels: (height, width, 3) of 8 bits, scaled; None if `features` are known, or there is no image.
        features: Of the image, if they are known, of that `generation` of the encoders.
        ends: Whether it is the last of its batch.
        found: The columns of its prediction.
    """

    number: int
    source: Any
    text: str | None
    problems: list[tuple[str, str]]
    pieces: list[int]
    key: Hashable = None
    has_image: bool = False
    pixels: Tensor | None = None
    features: Tensor | None = None
    generation: int = 0
    ends: bool = False
    found: dict[str, Any] = field(default_factory=lambda: dict(_NOTHING))

    @property
    def bad(self) -> bool:
        """Whether a half that was asked for cannot be used."""
        return any(status != "text_truncated" for status, _ in self.problems)

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return worst_status(self.problems, none_left=self.text is None and not self.has_image)

    @property
    def reason(self) -> str:
        """Everything that is wrong, in words."""
        return all_reasons(self.problems)


class Reader:
    """Reads the halves of rows: texts of many rows at once, images one by one.

    Args:
        processor: Of the model.
        columns: Which columns to read.
        folder: Where relative image paths start.
        encoders: Of the model; by its generation features are found.
        kept: Features of images that came before.
    """

    def __init__(
        self,
        processor: DiptychProcessor,
        columns: Columns,
        folder: Path | None,
        encoders: InferenceEncoders,
        kept: RecentFeatures,
    ) -> None:
        self.processor, self.columns, self.folder = processor, columns, folder
        self.encoders, self.kept = encoders, kept

    def plan(self, window: list[tuple[int, Mapping[str, Any]]], batch_size: int) -> list[Row]:
        """The rows with their texts read, sorted so that each batch is of texts of about one length; images are not."""
        rows = [self._read_text(number, row) for number, row in window]
        with_text = [row for row in rows if row.text is not None]
        limit = self.processor.max_length
        texts = [self.processor.beginning(str(row.text)) for row in with_text]
        found = self.processor.pieces(texts)
        for row, text, (pieces, length) in zip(with_text, texts, found, strict=True):
            row.pieces = pieces
            cut = len(text) < len(str(row.text))
            if cut or length > limit:
                count = f"{'at least ' if cut else ''}{length} word pieces"
                reason = f"the text has {count}, of which the first {min(length, limit)} are read"
                row.problems.append(("text_truncated", reason))
        if len(rows) > batch_size:
            rows.sort(key=lambda row: (len(row.pieces), row.pieces))  # repeated texts into one batch
        for index, row in enumerate(rows, start=1):
            row.ends = index % batch_size == 0 or index == len(rows)
        return rows

    def prepare(self, row: Row) -> Row:
        """The row with its image read and scaled, or the features that are known of it, or what is wrong with it."""
        if self.columns.image is None or any(status == "row_unreadable" for status, _ in row.problems):
            return row
        row.pixels, row.has_image = None, False
        row.generation = self.encoders.generation
        source, digest = _stored(row.source, self.folder)
        row.features = None if digest is None else self.kept.get((row.generation, digest))
        if row.features is None:
            try:
                transforms = self.processor.image_processor
                whole = read_image(source, folder=self.folder, at_least=transforms.needed_size)
                with image_errors():
                    image = transforms.resize(whole)
            except BadImage as error:
                row.problems.append((error.status, str(error)))
                return row
            row.pixels = torch.from_numpy(np.array(image))
            digest = _digest(image.tobytes()) if digest is None else digest
        row.key, row.has_image = digest, True
        return row

    def _read_text(self, number: int, row: Mapping[str, Any]) -> Row:
        if isinstance(row, UnreadableRow):
            return Row(number, None, None, [("row_unreadable", row.reason)], [])
        text, problem = read_text(self.columns.text_of(row))
        return Row(
            number, self.columns.image_of(row), text, [problem] if problem and self.columns.text is not None else [], []
        )


def _stored(source: Any, folder: Path | None) -> tuple[Any, bytes | None]:
    """An image as it stands in a table, its file read if it is a path; and a hash of the file's bytes, if it has any.

    Whatever cannot be read is given back as it is: `read_image` says why.
    """
    try:
        held, name = find_image(source, folder)
        if isinstance(held, bytes):
            return {"bytes": held, "path": name}, _digest(held)
        if isinstance(held, Path) and held.stat().st_size <= LARGEST_FILE:
            with open_file(held) as file:
                content = file.read()
            return {"bytes": content, "path": str(held)}, _digest(content)
    except (BadImage, OSError, ValueError):
        pass
    return source, None


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
