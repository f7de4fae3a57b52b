"""What a run learns from when its rows come one after another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data.digest import row_digest
from ..data.labels import class_names, is_multi_label, labels_in, one_label, sort_labels
from ..data.rows import Columns, UnreadableRow
from ..data.splits import training_table
from ..data.tables import Table, readable
from ..loading.augmentation import Augmentation, speaks_of_sides
from ..loading.stream import PairStream, RowCounts
from ..model.processor import DiptychProcessor
from ..runtime.console import SILENT, Console
from ..runtime.seeds import draw_seed
from .config import TrainConfig
from .table_rows import require_any, require_two

_PARTS = 1 << 20
"""Into so many parts rows are sorted by chance, to hold some of them out."""


class StreamRows:
    """Rows that come one after another: all that a run must know of them beforehand is read in one pass.

    It counts rows and classes, decodes no image and keeps no row. Without a validation split a share of the rows is
    held out, whatever their class: by a hash of their number.

    Args, Attributes, Raises: as of `TableRows`; `console` shows how far the pass has come.
    """

    def __init__(
        self,
        tables: Mapping[str, Table],
        columns: Columns,
        config: TrainConfig,
        *,
        labelled: bool,
        console: Console = SILENT,
    ) -> None:
        self.columns, self.config, self.labelled = columns, config, labelled
        self.table = training_table(tables)
        self.multi_label = labelled and is_multi_label(self.table, str(columns.label))
        own = tables.get("validation")
        self.held_table = self.table if own is None else own
        self.part = RowCounts(self._is_kept if own is None else _every)
        self.held = RowCounts(self._is_held if own is None else _every)
        if own is None:
            console.print(
                "validation: rows of a stream are held out by chance, and may share an image or a text with training "
                "rows; give a validation split"
            )
            self._read(self.table, [self.part, self.held], console)
        else:
            self._read(self.table, [self.part], console)
            self._read(self.held_table, [self.held], console)
        share = config.validation_share
        self.source = "its own split" if own is not None else f"{share:.0%} of the rows by chance, seed {config.seed}"
        if not self.part.rows or not self.held.rows:
            raise ValueError(
                f"{self.table.name} has {self.part.rows + self.held.rows} rows, too few to hold some out; give a "
                "validation split"
            )
        found = set(self.part.labels) | (set(self.held.labels) if own is None else set())
        self.names = class_names(self.table, str(columns.label)) or sort_labels(found) if labelled else []
        if labelled:
            self._check_labels(own is not None, found)

    def _check_labels(self, own: bool, found: set[str]) -> None:
        kinds = len(found) + (self.multi_label and self.part.unlabelled > 0)
        require_two(kinds, self.part.rows + (0 if own else self.held.rows), self.table, self.columns)
        unknown = sorted(set(self.held.labels) - set(self.names))
        if unknown:
            raise ValueError(
                f"{self.held_table.name}: label {unknown[0]!r} in {self.columns.label!r} does not occur in the rows to "
                f"train on, which have {len(self.names)}: {', '.join(self.names[:10])}"
            )
        if self.multi_label:
            require_any(sum(self.held.labels.values()), self.held_table, self.columns)

    def _is_held(self, row: int) -> bool:
        return draw_seed(self.config.seed, "held out", row) % _PARTS < self.config.validation_share * _PARTS

    def _is_kept(self, row: int) -> bool:
        return not self._is_held(row)

    def _read(self, table: Table, counts: list[RowCounts], console: Console) -> None:
        rows = readable(table.rows, table.name)
        for number, row in enumerate(console.progress(rows, desc="reading labels", unit="row")):
            text = self.columns.text_of(row)
            labels = self._labels(table, number, row) if self.labelled else None
            content = row_digest(row, self.columns, table.folder, read=False)
            for some in counts:
                if some.chosen(number):
                    some.count(labels, text, content)

    def _labels(self, table: Table, number: int, row: Any) -> list[str]:
        column = str(self.columns.label)
        if isinstance(row, UnreadableRow):
            raise ValueError(f"{table.name}: row {number} cannot be trained on: {row.reason}; fix it or take it out")
        try:
            feature, value = table.features.get(column), self.columns.label_of(row)
            return labels_in(value, feature) if self.multi_label else [one_label(value, feature)]
        except ValueError as error:
            raise ValueError(
                f"{table.name}: row {number} has {error} in {column!r}; give every row one or take it out"
            ) from error

    def speaks_of_sides(self) -> bool:
        """Whether the texts to train on speak of left and right."""
        return speaks_of_sides(["left"] * self.part.sides + [""] * (self.part.heard - self.part.sides))

    def class_counts(self) -> Tensor:
        """How many rows to train on have each class, as of `TableRows`."""
        return self._count(self.part)

    def validation_counts(self) -> Tensor:
        """How many rows to validate with have each class, as of `TableRows`."""
        return self._count(self.held)

    def _count(self, counts: RowCounts) -> Tensor:
        present = torch.tensor([counts.labels[name] for name in self.names])
        return torch.stack([counts.rows - present, present]) if self.multi_label else present

    def pair_sets(
        self,
        processor: DiptychProcessor,
        augmentation: Augmentation | None,
        *,
        ids: bool,
        validation_ids: bool,
        augment_from: int = 1,
    ) -> tuple[PairStream, PairStream]:
        """The rows to train on and those to validate with, as of `TableRows`."""
        target = self._target if self.labelled else None
        make = partial(PairStream, columns=self.columns, target=target, processor=processor, seed=self.config.seed)
        training = make(
            self.table,
            self.part,
            augmentation=augmentation,
            augment_from=augment_from,
            ids=ids,
            buffer=self.config.shuffle_buffer,
        )
        return training, make(self.held_table, self.held, ids=validation_ids)

    def _target(self, table: Table, number: int, row: Any) -> int | tuple[int, ...]:
        labels = self._labels(table, number, row)
        there = [self.names.index(label) for label in labels]
        return tuple(int(index in there) for index in range(len(self.names))) if self.multi_label else there[0]


def _every(_: int) -> bool:
    return True
