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


@dataclass(frozen=True)
class Picture:
    """The image of a row, as it goes to the encoder.

    Attributes:
        key: A hash of the image, equal where images are.
        pixels: (height, width, 3) of 8 bits, scaled; None if `features` are known.
        features: What the encoder gave for an equal image before; of that `generation` of the encoders.
    """

    key: Hashable
    pixels: Tensor | None
    features: Tensor | None
    generation: int


@dataclass(eq=False)
class Row:
    """A row of a table, as `Reader` reads it.

    Attributes:
        number: In the table, from 0.
        source: The image as it stands there.
        text: None if it cannot be used.
        problems: As of a `Pair`.
        pieces: Ids of the text's word pieces, cut to what the model reads.
        ends: Whether it is the last of its batch.
        picture: None if there is no image that can be used, or it was not read yet.
    """

    number: int
    source: Any
    text: str | None
    problems: list[tuple[str, str]]
    pieces: list[int] = field(default_factory=list)
    ends: bool = False
    picture: Picture | None = None

    @property
    def empty(self) -> bool:
        """Whether neither modality can be used."""
        return self.text is None and self.picture is None

    @property
    def bad(self) -> bool:
        """Whether a modality that was asked for cannot be used."""
        return any(status != "text_truncated" for status, _ in self.problems)

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return worst_status(self.problems, none_left=self.empty)

    @property
    def reason(self) -> str:
        """Everything that is wrong, in words."""
        return all_reasons(self.problems)


@dataclass(eq=False)
class Reader:
    """Reads the images and texts of rows: texts of many rows at once, images one by one.

    Attributes:
        folder: Where relative image paths start.
        encoders: Of the model; by its generation features are found.
        kept: Features of images that came before.
    """

    processor: DiptychProcessor
    columns: Columns
    folder: Path | None
    encoders: InferenceEncoders
    kept: RecentFeatures

    def plan(self, window: list[tuple[int, Mapping[str, Any]]], batch_size: int) -> list[Row]:
        """The rows with their texts read, sorted so that each batch is of texts of about one length; images are not."""
        rows = [self._read_text(number, row) for number, row in window]
        with_text = [row for row in rows if row.text is not None]
        limit = self.processor.max_length
        found = self.processor.pieces_or_problems([str(row.text) for row in with_text])
        for row, here in zip(with_text, found, strict=True):
            if len(here) == 2:
                row.text = None
                row.problems.append(here)
                continue
            row.pieces, length, cut = here
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
        generation = self.encoders.generation
        source, digest = _stored(row.source, self.folder)
        if digest is not None and (features := self.kept.get((generation, digest))) is not None:
            row.picture = Picture(digest, None, features, generation)
            return row
        transforms = self.processor.image_processor
        try:
            image = read_image(source, folder=self.folder, at_least=transforms.needed_size)
            with image_errors():
                image = transforms.resize(image)
        except BadImage as error:
            row.problems.append((error.status, str(error)))
            return row
        digest = _digest(image.tobytes()) if digest is None else digest
        row.picture = Picture(digest, torch.from_numpy(np.array(image)), None, generation)
        return row

    def _read_text(self, number: int, row: Mapping[str, Any]) -> Row:
        if isinstance(row, UnreadableRow):
            return Row(number, None, None, [("row_unreadable", row.reason)])
        text, problem = read_text(self.columns.text_of(row))
        problems = [problem] if problem and self.columns.text is not None else []
        return Row(number, self.columns.image_of(row), text, problems)


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
