"""`diptych demo`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .options import Debug, Json, Quiet
from .terminal import one_line_errors


def demo(
    out: Annotated[str, typer.Option(help="A folder for what it makes.")] = "diptych-demo",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show everything in two minutes, offline: classify, fine-tune on a new question, classify again."""
    with one_line_errors(debug):
        from ..demo.demo import demo as run

        figures = run(out, say=(lambda line: None) if quiet or as_json else print, quiet=quiet or as_json)
        if as_json:
            print(json.dumps(figures))
