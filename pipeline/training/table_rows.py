"""What a run learns from and is judged by: the rows of both, their classes, and how they are held apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..data.labels import is_multi_label, label_ids, label_names, multi_label_names, multi_label_targets
from ..data.read import narrow
from ..data.rows import Columns
from ..data.splits import strata, training_table
from ..data.tables import Table
from ..loading.augmentation import Augmentation, speaks_of_sides
from ..loading.dataset import PairDataset
from ..model.processor import DiptychProcessor
from ..runtime.console import SILENT, Console
from .config import TrainConfig
from .held_out import hold_out_unseen


class TableRows:
    """Rows that can be asked for by number.

    Without a validation split a share of every class is held out of the training rows.

    Args:
        tables: By split; `train`, or the only one, is trained on.
        columns: Which columns to read.
        config: How the run goes.
        labelled: Whether the run needs labels.
        console: Shows how the rows to validate with are held out.

    Attributes:
        names: The classes; none if the run needs no labels.
        multi_label: Whether a row may have several or none.
        source: Where the rows to validate with come from, in words.

    Raises:
        ValueError: The labels cannot be learned from, or nothing can be held out.
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
        self.columns, self.config = columns, config
        self.table = training_table(tables)
        self.names: list[str] = []
        self.multi_label = labelled and is_multi_label(self.table, str(columns.label))
        labels = None
        if labelled:
            self.names = (multi_label_names if self.multi_label else label_names)(self.table, str(columns.label))
            labels = self._read_labels(self.table)
            require_two(len(set(labels)), len(labels), self.table, columns)
        self.kept: list[int] | None = None
        self.held: list[int] | None = None
        self.labels, self.held_table, self.held_labels = labels, self.table, labels
        if "validation" in tables:
            self.held_table = tables["validation"]
            self.held_labels = self._read_labels(self.held_table) if labelled else None
            self.source = "its own split"
        else:
            classes = [0] * len(self.table.rows) if labels is None else strata(labels) if self.multi_label else labels
            self.kept, self.held = hold_out_unseen(
                self.table, columns, classes, fraction=config.validation_share, seed=config.seed, console=console
            )
            self.source = f"a stratified {config.validation_share:.0%}, seed {config.seed}"
        if self.multi_label:
            require_any(sum(map(sum, _chosen(self.held_labels, self.held))), self.held_table, columns)

    def _read_labels(self, table: Table) -> Any:
        return (multi_label_targets if self.multi_label else label_ids)(table, str(self.columns.label), self.names)

    def speaks_of_sides(self) -> bool:
        """Whether the texts to train on speak of left and right."""
        rows = islice(narrow(self.table, Columns(None, self.columns.text)).rows, 10_000)
        return self.columns.text is not None and speaks_of_sides([self.columns.text_of(row) for row in rows])

    def class_counts(self) -> Tensor:
        """How many rows to train on have each class, (classes,); of multi-label rows (2, classes), absence first."""
        return self._count(self.labels, self.kept)

    def validation_counts(self) -> Tensor:
        """How many rows to validate with have each class, as `class_counts`."""
        return self._count(self.held_labels, self.held)

    def _count(self, of_all: Any, rows: Sequence[int] | None) -> Tensor:
        labels = torch.tensor(_chosen(of_all, rows))
        if not self.multi_label:
            return torch.bincount(labels, minlength=len(self.names))
        present = labels.sum(dim=0)
        return torch.stack([len(labels) - present, present])

    def pair_sets(
        self,
        processor: DiptychProcessor,
        augmentation: Augmentation | None,
        *,
        ids: bool,
        validation_ids: bool,
        augment_from: int = 1,
    ) -> tuple[PairDataset, PairDataset]:
        """The rows to train on and those to validate with.

        Args:
            processor: Of the model.
            augmentation: Of the images to train on.
            ids: Whether training needs the hashes of images and texts.
            validation_ids: Whether validation needs them.
            augment_from: Epoch from which images are changed.
        """
        make = partial(PairDataset, columns=self.columns, processor=processor, seed=self.config.seed)
        training = make(
            self.table,
            labels=self.labels,
            rows=self.kept,
            augmentation=augmentation,
            augment_from=augment_from,
            ids=ids,
        )
        return training, make(self.held_table, labels=self.held_labels, rows=self.held, ids=validation_ids)


def require_two(classes: int, rows: int, table: Table, columns: Columns) -> None:
    """See that there is something to tell apart.

    Raises:
        ValueError: All rows have the same label.
    """
    if classes < 2:
        raise ValueError(
            f"{table.name}: all {rows} rows have the same label in {columns.label!r}; nothing can be learned"
        )


def require_any(labels: int, table: Table, columns: Columns) -> None:
    """See that multi-label rows to validate with have a label at all.

    Raises:
        ValueError: They have none.
    """
    if not labels:
        raise ValueError(
            f"{table.name}: no row to validate with has a label in {columns.label!r}, so that nothing can be "
            "measured; give a validation split in which some have"
        )


def _chosen(labels: Any, rows: Sequence[int] | None) -> Any:
    return labels if rows is None else [labels[row] for row in rows]
