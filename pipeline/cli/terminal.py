"""What all commands share: help in panels, remarks beside the results, and errors in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import typer
from typer.core import TyperCommand

from ..data.options import OptionNeeded
from ..runtime.console import print_utf8

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
                panels.setdefault(title, []).append((record[0].replace("<list[str]>", "<str>"), record[1]))
        for title, records in panels.items():
            if records:
                with formatter.section(coloured(title, sys.stdout, bold=True)):
                    formatter.write_dl(records)


def coloured(text: str, stream: TextIO | None, **style: Any) -> str:
    """`text` in a style of click, if `stream` is a terminal and NO_COLOR (https://no-color.org) is not set."""
    return (
        typer.style(text, **style)
        if stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")
        else text
    )


def _told(error: Exception) -> str:
    """What an error says to the user; of the disk, the file, why, and what to do."""
    if not isinstance(error, OSError) or not error.strerror or error.filename is None:
        return str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{error.filename}: {error.strerror}{'; make room, or choose another --out' if full else ''}"


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn an error that a user can fix into one line and exit code 1, and a warning into one; whole if `debug`."""
    usual = warnings.formatwarning
    if not debug:
        warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        require_whole_launcher()
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
        print_error(f"{who}{' '.join(_told(error).split())}{f'; run: {command}' if command else ''}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt as interrupt:  # a run that saved itself says what, and how to resume
        if debug:
            raise
        message, code = str(interrupt), getattr(interrupt, "code", 130)
        if message or (code == 130 and not process_rank()):
            print_error(message or "interrupted")
        raise typer.Exit(code) from None
    finally:
        warnings.formatwarning = usual


def require_whole_launcher() -> None:
    """See that a launcher's variables in the environment, if there are any, are those of a launcher.

    Raises:
        ValueError: One is no number, or is there without those that belong to it.
    """
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        value = os.environ.get(name)
        if value is not None and not value.isdigit():
            raise ValueError(f"{name} is {value!r} in the environment, where a launcher puts a number: unset {name}")
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if several and name not in os.environ:
            raise ValueError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} in the environment, as a launcher sets it, and {name} is "
                "not there: unset WORLD_SIZE, or start with accelerate launch or torchrun"
            )


def print_error(message: str) -> None:
    """Print an error in one line."""
    print(f"{coloured('diptych:', sys.stderr, fg='red', bold=True)} {message}", file=sys.stderr)


def share_with(processes: int | None) -> None:
    """Run this command in so many processes, by default one for each GPU, and leave; do nothing if that is one."""
    from ..runtime.launch import start, wanted  # loads torch

    if (count := wanted(processes)) > 1:
        raise typer.Exit(start(count, sys.argv[1:]))


def process_rank() -> int:
    """Which of several processes this is; 0 is the main one, which prints."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdigit() and os.environ.get("WORLD_SIZE", "1") != "1" else 0


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

        if sys.stdout is None:
            raise ValueError("standard output is closed: there is nowhere to print the result to")
        if self.as_json:
            print_utf8(f"{to_json(result)}\n")
        else:
            print(text(result), flush=True)
