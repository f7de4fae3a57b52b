"""How rows are classified: what a caller may choose, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.choices import ON_BAD_ROW, SET_SCORES, require_choice


@dataclass(frozen=True)
class ClassifyOptions:
    """How rows are classified.

    Attributes:
        batch_size: Rows per forward pass; 32 if not given, and on a GPU as many as its memory takes, found by trial.
        on_bad_row: `mask` classifies a row by the modality that is there, `skip` gives it no prediction, `error`
            raises at the first. A text that is cut is not bad.
        workers: Threads that read and scale images ahead of the model, at most a few batches. By default none on a
            CPU, which the model needs itself; on a GPU one for each CPU, at most 8.
        precision: Abstain where the score is too low for answers to be right with this precision (`abstained`).
        coverage: Abstain from all but this share of rows, those with the lowest scores.
        sets: Give the classes that hold the true one with this probability (`label_set`).
        set_score: How sets are built, one of `SET_SCORES`.
        contributions: Whether to compute what each modality contributed to the label; it costs passes of the fusion.

    Raises:
        ValueError: One of them is out of its range.
    """

    batch_size: int | None = None
    on_bad_row: str = "mask"
    workers: int | None = None
    contributions: bool = True
    precision: float | None = None
    coverage: float | None = None
    sets: float | None = None
    set_score: str = "least-ambiguous"

    @property
    def requested(self) -> list[str]:
        """Columns of a prediction that there are only on request."""
        abstains = self.precision is not None or self.coverage is not None
        return ["abstained"] * abstains + ["label_set"] * (self.sets is not None)

    def __post_init__(self) -> None:
        require_choice("on_bad_row", self.on_bad_row, ON_BAD_ROW)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be at least 0")
        for name in ("precision", "coverage", "sets"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is {value}; it must be between 0 and 1, such as 0.9")
        if self.precision is not None and self.coverage is not None:
            raise ValueError("precision and coverage each choose who abstains; give one of them")
        require_choice("set_score", self.set_score, SET_SCORES)
