"""The rows of a table as examples."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..data.content import image_id, pieces_id
from ..data.digest import row_digest, row_ids
from ..data.image_source import BadImage
from ..data.images import image_errors
from ..data.rows import Columns, Pair, all_reasons, read_pair, worst_status
from ..model.processor import DiptychProcessor
from ..runtime.seeds import draw_seed
from .augmentation import Augmentation
from .loader import Batches, Collate, Example, Shares
from .plan import Plan

if TYPE_CHECKING:
    from ..data.tables import Table
    from ..feature_cache.encode import HalfFeatures


class PairDataset(Dataset[Example]):
    """The rows of a table as examples, read when they are asked for.

    Args:
        table: Its rows can be asked for by number.
        labels: Class index of every row of the table, or a tuple as `Example` has; None if they have no labels.
        rows: Which rows to take, in this order; all if not given.
        ids: Whether to hash pixels and word pieces, so that equal images and texts are known.
        seed: Of the order and the augmentation. What is drawn for a row follows from it, the epoch and the row,
            whichever process reads the row and whatever it has read before.
        augment_from: Epoch from which pictures are changed.

    Attributes:
        image_features: Stand in for the images, which are then not read; see `with_features`.
        text_features: Stand in for the texts.
    """

    def __init__(
        self,
        table: Table,
        columns: Columns,
        labels: Sequence[int] | Sequence[tuple[int, ...]] | None,
        processor: DiptychProcessor,
        *,
        rows: Sequence[int] | None = None,
        augmentation: Augmentation | None = None,
        ids: bool = False,
        seed: int = 0,
        augment_from: int = 1,
    ) -> None:
        if not getattr(table.rows, "by_number", True):
            raise ValueError(f"{table.name} is a stream, of which no row can be asked for by its number: save it first")
        self.table, self.columns, self.labels, self.ids, self.seed = table, columns, labels, ids, seed
        self.rows = range(len(table.rows)) if rows is None else rows
        self.processor = processor
        self.augmentation, self.augment_from = augmentation, augment_from
        self.image_features: HalfFeatures | None = None
        self.text_features: HalfFeatures | None = None

    def with_features(self, images: HalfFeatures | None, texts: HalfFeatures | None) -> PairDataset:
        """The same rows, with features in place of their images, their texts, or both."""
        other = copy.copy(self)
        other.image_features, other.text_features = images, texts
        return other

    def batches(
        self, plan: Plan, *, device: torch.device | str = "cpu", shuffle: bool = False, workers: int = 0
    ) -> Batches:
        """As of `PairSource`."""
        collate = Collate(self.processor, self.image_features, self.text_features)
        shares = Shares(plan, self.seed if shuffle else None)
        if self.image_features is not None and self.text_features is not None:
            workers = 0  # to read them takes less than to hand them over
        return Batches(
            plan,
            self,
            begin=shares.begin,
            first=lambda: collate([self[0]]),
            device=device,
            workers=workers,
            batch_sampler=shares,
            collate_fn=collate,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        row = self.rows[index]
        pair, image, text = self._read(row), self.image_features, self.text_features
        pixel_values = None
        if pair.image is not None:
            try:
                with image_errors():
                    pixel_values = self.processor.image_processor.normalize(self._prepare(pair.image, epoch, row))
            except BadImage as error:
                pair = replace(pair, image=None, problems=(*pair.problems, (error.status, str(error))))
        pieces: list[int] | None = None
        if self.ids and text is None and pair.text is not None:
            (found,) = self.processor.pieces_or_problems([pair.text])
            if len(found) == 2:
                pair = replace(pair, text=None, problems=(*pair.problems, found))
            else:
                pieces = found[0]
        problems = [*pair.problems, *(half.problems[row] for half in (image, text) if half and row in half.problems)]
        status, reason = "ok", ""
        if problems:
            no_image = pair.image is None if image is None else row in image.problems
            no_text = pair.text is None if text is None else row in text.problems
            problems = list(dict.fromkeys(problems))  # what is wrong with a row as a whole is wrong with both halves
            status, reason = worst_status(problems, none_left=no_image and no_text), all_reasons(problems)
        label = None if self.labels is None else self.labels[row]
        ids: tuple[int | None, int | None] = (None, None)
        if self.ids:
            ids = (
                image_id(pair.image) if image is None else image.ids[row],
                pieces_id(pieces) if text is None else text.ids[row],
            )
        return Example(row, pixel_values, pair.text, label, status, reason, *ids)

    def _read(self, row: int) -> Pair:
        """What is not known by its features; where both halves are, the table is not asked."""
        no_image, no_text = self.image_features is not None, self.text_features is not None
        if no_image and no_text:
            return Pair(row, None, None)
        # ids are those of whole pictures, however they are stored
        enough = None if self.ids else self.processor.image_processor.needed_size
        values, folder = self.table.rows[row], self.table.folder
        return read_pair(row, values, self.columns, folder, at_least=enough, image=not no_image, text=not no_text)

    def _prepare(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        if self.augmentation is None or epoch < self.augment_from:
            return self.processor.image_processor.resize(image)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the generator that all share
            torch.default_generator.manual_seed(draw_seed(self.seed, "augmentation", epoch, row))
            return self.augmentation(image)

    def fingerprint(self) -> str:
        """What tells these rows from others: their number, and a hash of all labels, texts and images.

        Each of several processes reads its share; all must take part.
        """
        found = hashlib.blake2b(digest_size=8)
        labels = [None if self.labels is None else self.labels[row] for row in self.rows]
        found.update(repr((list(self.rows), labels)).encode())
        found.update(b"".join(digest for digest, _ in self._contents))
        return f"{len(self.rows)} rows ({found.hexdigest()})"

    def row_ids(self) -> Tensor:
        """As of `PairSource`, share by share of the processes, all of which must take part."""
        return torch.tensor([ids for _, ids in self._contents])

    @functools.cached_property
    def _contents(self) -> list[tuple[bytes, tuple[int, int, int]]]:
        """Of each row its digest and its ids."""
        state, columns, folder = PartialState(), self.columns, self.table.folder
        own = (self.table.rows[row] for row in self.rows[state.process_index :: state.num_processes])
        share = [(row_digest(row, columns, folder, read=True), row_ids(row, columns, folder)) for row in own]
        return list(chain.from_iterable(gather_object([share])))
