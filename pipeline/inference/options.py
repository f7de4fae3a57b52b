"""How rows are classified, and on which fast path: what a caller may choose, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..runtime.choices import DTYPES, ON_BAD_ROW, SET_SCORES
from ..runtime.options import check_options, option

DATA, SCORES, RUN = "Data", "Scores", "Run"
"""Panels of a command's help."""


def _share(text: str) -> Any:
    """An option that is a share, off if not given."""
    return option(None, text, panel=SCORES, above=0, below=1)


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
        precision: Abstain where the score is too low for answers to be right with this precision (`abstained`).
        coverage: Abstain from all but this share of rows, those with the highest scores.
        sets: Give the classes among which the true one is with this probability (`label_set`).
        set_score: How sets are built.

    Raises:
        ValueError: One of them is out of its range.
    """

    batch_size: int | None = option(
        None, "Rows per forward pass.  [default: 32; on a GPU what its memory takes]", panel=RUN, least=1
    )
    on_bad_row: str = option(
        "mask",
        "Of an image or text that cannot be used: classify by the other (mask), skip, or stop (error).",
        panel=DATA,
        choices=ON_BAD_ROW,
    )
    workers: int | None = option(
        None, "Threads that read images ahead.  [default: 0; on a GPU one per CPU, at most 8]", panel=RUN, least=0
    )
    contributions: bool = option(True, "What each modality contributed to the label.", panel=SCORES)
    precision: float | None = _share("Abstain where answers would not be right with this precision, such as 0.95.")
    coverage: float | None = _share("Answer this share of rows, those with the highest scores; abstain from others.")
    sets: float | None = _share("Give sets of labels that hold the true one with this probability.")
    set_score: str = option(SET_SCORES[0], "How these sets are built.", panel=SCORES, choices=SET_SCORES, needs="sets")

    @property
    def requested(self) -> list[str]:
        """Columns of a prediction that there are only on request."""
        abstains = self.precision is not None or self.coverage is not None
        return ["abstained"] * abstains + ["label_set"] * (self.sets is not None)

    def __post_init__(self) -> None:
        check_options(self)
        if self.precision is not None and self.coverage is not None:
            raise ValueError("precision and coverage each choose who abstains; give one of them")


@dataclass(frozen=True)
class Fast:
    """Which fast path.

    Attributes:
        compile: Both trunks by `torch.compile`.
        dtype: Number format of both trunks: bf16, fp16, or None for 32 bits.
        int8: The image trunk in 8 bits by ONNX Runtime, on a CPU; nothing else with it.
        min_agreement: Share of labels, from 0 to 1, that must be those of 32 bits.

    Raises:
        ValueError: There is no such path.
    """

    compile: bool = option(False, "Compile the encoders; first compared with 32 bits on some rows.", panel=RUN)
    dtype: str | None = option(
        None, "Run the encoders in 16 bits, after the same comparison.", panel=RUN, choices=DTYPES
    )
    int8: bool = option(
        False, "Run the ResNet in 8 bits on a CPU, after the same comparison; needs diptych[onnx].", panel=RUN
    )
    min_agreement: float = option(
        0.99, "Share of labels that must agree in this comparison.", panel=RUN, least=0, most=1
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.int8 and (self.compile or self.dtype):
            raise ValueError("--int8 is a path of its own: leave out --compile and --dtype")
        if not (self.int8 or self.compile or self.dtype):
            raise ValueError("--min-agreement goes with --compile, --dtype or --int8")

    def __str__(self) -> str:
        chosen = (("--compile", self.compile), (f"--dtype {self.dtype}", self.dtype), ("--int8", self.int8))
        return " ".join(name for name, there in chosen if there)
