"""The command line: one function per command, heavy imports inside, errors in one line."""

from __future__ import annotations

import os
import sys

import typer

from ..runtime.cpus import limit_threads
from . import check, classify, demo, evaluate, info, rank, train, tune

app = typer.Typer(
    name="diptych",
    help="Classify image + text pairs: ResNet regions and BERT words, fused by cross-modal attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    demo.demo,
    classify.classify,
    train.train,
    evaluate.evaluate,
    check.check,
    rank.rank,
    tune.tune,
    info.info,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loaders fork after the tokenizer has been used
    # before torch is loaded: threads that spin while they wait make a busy machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_threads()
    try:
        app()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
