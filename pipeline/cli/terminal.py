"""What all commands share: help in panels, remarks beside the results, and errors in one line."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import typer
from typer.core import TyperCommand

from ..data.options import OptionNeeded

PANELS = ("Arguments", "Options", "Data", "Model", "Training", "Run", "Scores", "Output")
"""Groups of options in a help, in their order."""

HEAD_START = 10.0
"""Seconds that the main one of several processes has to print an error which the others have as well."""


class PanelCommand(TyperCommand):
    """A command whose help groups its options by their panel, as wide as the terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options without a panel, then each panel."""
        panels: dict[str, list[tuple[str, str]]] = {title: [] for title in PANELS}
        for param in self.get_params(ctx):
            panel = getattr(param, "rich_help_panel", None) or ("Output" if param.name == "help" else "Options")
            title = "Arguments" if param.param_type_name == "argument" else panel
            if record := param.get_help_record(ctx):
                panels.setdefault(title, []).append(record)
        for title, records in panels.items():
            if records:
                with formatter.section(coloured(title, sys.stdout, bold=True)):
                    formatter.write_dl(records)


def coloured(text: str, stream: TextIO, **style: Any) -> str:
    """`text` in a style of click, if `stream` is a terminal and NO_COLOR (https://no-color.org) is not set."""
    return typer.style(text, **style) if stream.isatty() and not os.environ.get("NO_COLOR") else text


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn an error that a user can fix into one line and exit code 1; show it whole if `debug`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if debug:
            raise
        who = ""
        # mostly all processes fail alike: once the main one has printed it, their launcher ends the others; a lost
        # connection is printed after a while and with the process by itself (`Heartbeat`)
        if process_rank() and not isinstance(error, ConnectionError):
            time.sleep(HEAD_START)
            who = f"process {process_rank()}: "
        command = error.command(sys.argv[1:]) if isinstance(error, OptionNeeded) else ""
        print_error(f"{who}{' '.join(str(error).split())}{f'; run: {command}' if command else ''}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt as interrupt:  # a run that saved itself says what, and how to resume
        if debug:
            raise
        message, code = str(interrupt), getattr(interrupt, "code", 130)
        if message or (code == 130 and not process_rank()):
            print_error(message or "interrupted")
        raise typer.Exit(code) from None


def print_error(message: str) -> None:
    """Print an error in one line."""
    print(f"{coloured('diptych:', sys.stderr, fg='red', bold=True)} {message}", file=sys.stderr)


def process_rank() -> int:
    """Which of several processes this is; 0 is the main one, which prints."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdigit() else 0


@dataclass(frozen=True)
class Show:
    """What a command prints.

    Attributes:
        as_json: Results as JSON, for programs, and nothing else.
        quiet: No progress bars and no remarks.
    """

    as_json: bool
    quiet: bool

    def remark(self, line: str) -> None:
        """Print something beside the results, on standard error."""
        if not self.quiet:
            print(line, file=sys.stderr)

    def result(self, result: Any, text: Callable[[Any], str]) -> None:
        """Print a result: as JSON, or as `text` makes it."""
        from ..data.values import to_json
        from ..data.writer import print_utf8

        if self.as_json:
            print_utf8(f"{to_json(result)}\n")
        else:
            print(text(result))
