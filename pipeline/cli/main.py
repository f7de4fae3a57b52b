"""The command line: a command for each file beside this one."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from ..runtime.cpus import limit_threads
from ..runtime.version import __version__
from . import check, classify, demo, evaluate, explain, info, rank, train, tune
from .terminal import PanelCommand

app = typer.Typer(
    name="diptych",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 1_000, "help_option_names": ["--help", "-h"]},  # as wide as the terminal
)

for function in (
    demo.demo,
    classify.classify,
    train.train,
    evaluate.evaluate,
    explain.explain,
    check.check,
    rank.rank,
    tune.tune,
    info.info,
):
    app.command(cls=PanelCommand)(function)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diptych {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Classify image + text pairs: ResNet regions and BERT words, fused by cross-modal attention."""


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loaders fork after the tokenizer has been used
    # before torch is loaded: threads that spin while they wait make a busy machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not closed: a terminal in ASCII shows an e with an accent as \\xe9
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
