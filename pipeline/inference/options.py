"""How rows are classified: what a caller may choose, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.choices import ON_BAD_ROW, require_choice


@dataclass(frozen=True)
class ClassifyOptions:
    """How rows are classified.

    Attributes:
        batch_size: Rows per forward pass; 32 if not given, and on a GPU as many as its memory takes, found by trial.
        on_bad_row: `mask` classifies a row by the modality that is there, `skip` gives it no prediction, `error`
            raises at the first. A text that is cut is not bad.
        workers: Threads that read and scale images ahead of the model, at most a few batches. By default none on a
            CPU, which the model needs itself; on a GPU one for each CPU, at most 8.
        contributions: Whether to compute what each modality contributed to the label; it costs passes of the fusion.

    Raises:
        ValueError: One of them is out of its range.
    """

    batch_size: int | None = None
    on_bad_row: str = "mask"
    workers: int | None = None
    contributions: bool = True

    def __post_init__(self) -> None:
        require_choice("on_bad_row", self.on_bad_row, ON_BAD_ROW)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be at least 0")
