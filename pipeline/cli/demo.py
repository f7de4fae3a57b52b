"""`diptych demo`."""

from __future__ import annotations

from typing import Annotated

from .command import command, option
from .terminal import Show


@command()
def demo(
    show: Show,
    out: Annotated[str, option("A folder for what it makes.")] = "diptych-demo",
) -> None:
    """Show everything in two minutes, offline.

    Classifies, fine-tunes on a new question, and classifies again.
    """
    from ..demo.demo import demo as run

    metrics = run(out, say=(lambda line: None) if show.quiet else print, quiet=show.quiet)
    if show.as_json:
        show.result(metrics, str)
