"""`diptych check`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..data.options import Reading
from .command import command, option
from .terminal import Show


@command(Reading, needs={"text_encoder": ["max_length"], "out": ["overwrite"]})
def check(
    show: Show,
    data: Annotated[str, typer.Argument(help="Pairs, with labels or without, as for train.")],
    split: Annotated[str | None, option("Check this split only.  [default: all]")] = None,
    text_encoder: Annotated[
        str | None, option("Count the texts in its word pieces, not in words: a Hub id or a folder.")
    ] = None,
    max_length: Annotated[
        int | None, option("With --text-encoder: longest text, in word pieces.  [default: 128]")
    ] = None,
    out: Annotated[str | None, option("A .csv, .jsonl or .parquet file for the bad rows.")] = None,
    overwrite: Annotated[bool, option("Replace an earlier OUT.", "--overwrite")] = False,
    **reading: Any,
) -> None:
    """Find what is wrong with a dataset, before training.

    Ends with exit code 1 if something would break training, evaluating or classifying: data that
    cannot be read, a split without rows, a column that is missing, no usable image or text in a
    whole split, labels that are missing (a test split may have none at all), that are no labels or
    that training rows lack, one label for all rows, or one row for each label and no validation
    split. All else is a warning, and the exit code 0.
    """
    from ..check.check import check as run
    from ..check.text import report

    found = run(
        data,
        split=split,
        text_encoder=text_encoder,
        max_length=max_length,
        out=out,
        overwrite=overwrite,
        quiet=show.quiet,
        **reading,
    )
    show.result(found, report)
    if not found["ok"]:
        raise typer.Exit(1)
