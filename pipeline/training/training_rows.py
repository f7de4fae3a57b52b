"""What a run learns from and is judged by, however its rows are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..data.labels import is_multi_label
from ..data.rows import Columns
from ..data.splits import training_table
from ..data.tables import Table
from ..loading.augmentation import speaks_of_sides
from ..model.processor import DiptychProcessor
from ..runtime.console import SILENT, Console
from .config import TrainConfig


class TrainingRows(ABC):
    """The rows to train on and those to validate with, their classes, and how they are held apart.

    Args:
        tables: By split; `train`, or the only one, is trained on.
        console: Shows how the rows to validate with are held out, and how far the pass over a stream has come.

    Attributes:
        names: The classes; none if the run needs no labels.
        multi_label: Whether a row may have several or none.
        source: Where the rows to validate with come from, in words.

    Raises:
        ValueError: The labels cannot be learned from, or nothing can be held out.
    """

    names: list[str]
    source: str

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
        validation, share = tables.get("validation"), config.validation_share
        if validation is not None and share != TrainConfig.validation_share:
            console.print(f"validation_share {share} is not used: the data has a split to validate with")
        self._read(validation, console)

    @abstractmethod
    def _read(self, validation: Table | None, console: Console) -> None:
        """Find the classes and the rows to validate with, in a table of their own if there is one."""

    def speaks_of_sides(self) -> bool:
        """Whether the texts to train on speak of left and right."""
        return speaks_of_sides(self._texts())

    @abstractmethod
    def _texts(self) -> Sequence[str | None]:
        """As many texts as were looked at, of which those that speak of sides do so; they may be stand-ins."""

    @abstractmethod
    def class_counts(self, *, held: bool = False) -> Tensor:
        """How many rows to train on, or of those that are `held` out, have each class.

        (classes,); of multi-label rows (2, classes), absence first.
        """

    @abstractmethod
    def pairs(self, processor: DiptychProcessor, *, held: bool = False, **options: Any) -> Any:
        """The rows to train on, or those that are `held` out, as a `PairDataset` or a `PairStream`.

        Args:
            processor: Of the model.
            held: Which of them.
            **options: Of that class: `augmentation`, `augment_from`, `ids`.
        """

    def _require_two(self, classes: int, rows: int) -> None:
        """See that there is something to tell apart.

        Raises:
            ValueError: All rows have the same label.
        """
        if classes < 2:
            raise ValueError(
                f"{self.table.name}: all {rows} rows have the same label in {self.columns.label!r}; nothing can be "
                "learned"
            )

    def _require_any(self, labels: int, table: Table) -> None:
        """See that multi-label rows to validate with, of `table`, have a label at all.

        Raises:
            ValueError: They have none.
        """
        if not labels:
            raise ValueError(
                f"{table.name}: no row to validate with has a label in {self.columns.label!r}, so that nothing can be "
                "measured; give a validation split in which some have"
            )
