"""What a run learns from when its rows can be asked for by number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..data.labels import label_ids, label_names, multi_label_names, multi_label_targets
from ..data.read import narrow
from ..data.rows import Columns
from ..data.splits import strata
from ..data.tables import Table
from ..loading.dataset import PairDataset
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from .held_out import hold_out_unseen
from .training_rows import TrainingRows


class TableRows(TrainingRows):
    """Rows that can be asked for by number.

    Without a validation split a share of every class is held out of the training rows.
    """

    def _read(self, validation: Table | None, console: Console) -> None:
        self.names: list[str] = []
        labels = None
        if self.labelled:
            names = multi_label_names if self.multi_label else label_names
            self.names = names(self.table, str(self.columns.label))
            labels = self._read_labels(self.table)
            self._require_two(len(set(labels)), len(labels))
        self.kept: list[int] | None = None
        self.held: list[int] | None = None
        self.labels, self.held_table, self.held_labels = labels, self.table, labels
        share, seed = self.config.validation_share, self.config.seed
        if validation is not None:
            self.held_table = validation
            self.held_labels = self._read_labels(self.held_table) if self.labelled else None
            self.source = "its own split"
        else:
            classes = [0] * len(self.table.rows) if labels is None else strata(labels) if self.multi_label else labels
            self.kept, self.held = hold_out_unseen(
                self.table, self.columns, classes, fraction=share, seed=seed, console=console
            )
            self.source = f"a stratified {share:.0%}, seed {seed}"
        if self.multi_label:
            self._require_any(sum(map(sum, _chosen(self.held_labels, self.held))), self.held_table)

    def _read_labels(self, table: Table) -> Any:
        return (multi_label_targets if self.multi_label else label_ids)(table, str(self.columns.label), self.names)

    def _texts(self) -> Sequence[str | None]:
        rows = islice(narrow(self.table, Columns(None, self.columns.text)).rows, 10_000)
        return [] if self.columns.text is None else [self.columns.text_of(row) for row in rows]

    def class_counts(self, *, held: bool = False) -> Tensor:
        """As of `TrainingRows`."""
        labels = torch.tensor(_chosen(self.held_labels, self.held) if held else _chosen(self.labels, self.kept))
        if not self.multi_label:
            return torch.bincount(labels, minlength=len(self.names))
        present = labels.sum(dim=0)
        return torch.stack([len(labels) - present, present])

    def pairs(self, processor: DiptychProcessor, *, held: bool = False, **options: Any) -> PairDataset:
        """As of `TrainingRows`."""
        table, labels, rows = (
            (self.held_table, self.held_labels, self.held) if held else (self.table, self.labels, self.kept)
        )
        return PairDataset(table, self.columns, labels, processor, rows=rows, seed=self.config.seed, **options)


def _chosen(labels: Any, rows: Sequence[int] | None) -> Any:
    return labels if rows is None else [labels[row] for row in rows]
