"""What a run learns from when its rows come one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.digest import row_digest
from ..data.labels import class_names, labels_in, one_label, sort_labels
from ..data.rows import UnreadableRow
from ..data.tables import Table, readable
from ..loading.stream import PairStream, RowCounts
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from ..runtime.seeds import draw_seed
from .training_rows import TrainingRows

_PARTS = 1 << 20
"""Into so many parts rows are sorted by chance, to hold some of them out."""


class StreamRows(TrainingRows):
    """Rows that come one after another: all that a run must know of them beforehand is read in one pass.

    It counts rows and classes, decodes no image and keeps no row. Without a validation split a share of the rows is
    held out, whatever their class: by a hash of their number.
    """

    def _read(self, validation: Table | None, console: Console) -> None:
        own = validation is not None
        self.held_table = self.table if validation is None else validation
        self.part = RowCounts(_every if own else self._is_kept)
        self.held = RowCounts(_every if own else self._is_held)
        if own:
            self._count_rows(self.table, [self.part], console)
            self._count_rows(self.held_table, [self.held], console)
        else:
            console.print(
                "validation: rows of a stream are held out by chance, and may share an image or a text with training "
                "rows; give a validation split"
            )
            self._count_rows(self.table, [self.part, self.held], console)
        share = self.config.validation_share
        self.source = "its own split" if own else f"{share:.0%} of the rows by chance, seed {self.config.seed}"
        if not self.part.rows or not self.held.rows:
            raise ValueError(
                f"{self.table.name} has {self.part.rows + self.held.rows} rows, too few to hold some out; give a "
                "validation split"
            )
        found = set(self.part.labels) | (set() if own else set(self.held.labels))
        column = str(self.columns.label)
        self.names = class_names(self.table, column) or sort_labels(found) if self.labelled else []
        if self.labelled:
            self._check_labels(own, found)

    def _check_labels(self, own: bool, found: set[str]) -> None:
        kinds = len(found) + (self.multi_label and self.part.unlabelled > 0)
        self._require_two(kinds, self.part.rows + (0 if own else self.held.rows))
        unknown = sorted(set(self.held.labels) - set(self.names))
        if unknown:
            raise ValueError(
                f"{self.held_table.name}: label {unknown[0]!r} in {self.columns.label!r} does not occur in the rows to "
                f"train on, which have {len(self.names)}: {', '.join(self.names[:10])}"
            )
        if self.multi_label:
            self._require_any(sum(self.held.labels.values()), self.held_table)

    def _is_held(self, row: int) -> bool:
        return draw_seed(self.config.seed, "held out", row) % _PARTS < self.config.validation_share * _PARTS

    def _is_kept(self, row: int) -> bool:
        return not self._is_held(row)

    def _count_rows(self, table: Table, counts: list[RowCounts], console: Console) -> None:
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

    def _texts(self) -> Sequence[str | None]:
        return ["left"] * self.part.sides + [""] * (self.part.heard - self.part.sides)

    def class_counts(self, *, held: bool = False) -> Tensor:
        """As of `TrainingRows`."""
        counts = self.held if held else self.part
        present = torch.tensor([counts.labels[name] for name in self.names])
        return torch.stack([counts.rows - present, present]) if self.multi_label else present

    def pairs(self, processor: DiptychProcessor, *, held: bool = False, **options: Any) -> PairStream:
        """As of `TrainingRows`."""
        table, counts, buffer = (
            (self.held_table, self.held, 1) if held else (self.table, self.part, self.config.shuffle_buffer)
        )
        target, seed = self._target if self.labelled else None, self.config.seed
        return PairStream(table, counts, self.columns, target, processor, seed=seed, buffer=buffer, **options)

    def _target(self, table: Table, number: int, row: Any) -> int | tuple[int, ...]:
        labels = self._labels(table, number, row)
        there = [self.names.index(label) for label in labels]
        return tuple(int(index in there) for index in range(len(self.names))) if self.multi_label else there[0]


def _every(_: int) -> bool:
    return True
