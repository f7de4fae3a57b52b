"""The command line: a command for each file beside this one, which is imported when it is asked for."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..runtime.cpus import limit_threads
from ..runtime.version import __version__
from .terminal import PanelCommand, print_error

COMMANDS = {
    "demo": "Show everything in two minutes, offline.",
    "classify": "Classify one pair, or a table of pairs.",
    "train": "Fine-tune on labelled pairs.",
    "evaluate": "Measure a model on labelled pairs.",
    "explain": "Explain a prediction: the places and words that speak for it.",
    "check": "Find what is wrong with a dataset, before training.",
    "rank": "Rank texts for an image, or images for a text.",
    "tune": "Search learning rates, fusion and frozen parts.",
    "info": "Show versions and devices, or a model, or the feature cache.",
}
"""What each command does, in the order of the help; it is the function of this name in the file of this name."""

SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"max_content_width": 1_000, "help_option_names": ["--help", "-h"]},  # as wide as the terminal
}


class Commands(TyperGroup):
    """The commands; one that is not asked for costs nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # names that a mistyped one is compared with

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them, None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        alone = typer.Typer(**SETTINGS)
        function = getattr(import_module(f".{cmd_name}", __package__), cmd_name)
        alone.command(cmd_name, cls=PanelCommand)(function)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List them in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


app = typer.Typer(name="diptych", cls=Commands, no_args_is_help=True, **SETTINGS)


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
    code: Any = 0
    try:
        try:
            app()
        except SystemExit as ended:
            code = ended.code
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can be told: at its own end Python would exit with 120
    except OSError as error:  # of the output, as commands tell of all others themselves, but with --debug
        closed = isinstance(error, BrokenPipeError)  # its reader has seen enough
        if not closed and "--debug" in sys.argv:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it goes nowhere
        if not closed and not code:
            print_error(f"standard output cannot be written to ({error.strerror})")
            code = 1
    sys.exit(code)
