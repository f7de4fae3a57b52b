"""`diptych check`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Debug, ImageColumn, Json, LabelColumn, Quiet, TextColumn
from .terminal import one_line_errors


def check(
    data: Annotated[str, typer.Argument(help="Pairs, with labels or without, as for train.")],
    split: Annotated[str | None, typer.Option(help="Check this split only; else all, and what they share.")] = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Count the texts in its tokens, not in words: a Hub id or a folder.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="With --text-encoder: longest text in word pieces.")] = 128,
    out: Annotated[str | None, typer.Option(help="A .csv, .jsonl or .parquet file for the bad rows.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read all data once, before anything is trained: what is in it, what is wrong, what to do.

    Ends with exit code 1 if something would break training, evaluating or classifying: data that
    cannot be read, a split without rows, a column that is missing, no usable image or text in a
    whole split, labels that are missing (a test split may have none at all), that are no labels or
    that training rows lack, one label for all rows, or one row for each label and no validation
    split. All else is a warning, and the exit code 0.
    """
    with one_line_errors(debug):
        from ..check.check import check as run
        from ..check.text import report
        from ..data.values import to_json

        found = run(
            data,
            split=split,
            image_column=image_column,
            text_column=text_column,
            label_column=label_column,
            text_encoder=text_encoder,
            max_length=max_length,
            out=out,
            quiet=quiet or as_json,
        )
        print(to_json(found) if as_json else report(found))
        if not found["ok"]:
            raise typer.Exit(1)
