"""What all commands share: remarks beside the results, and errors in one line."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import typer

HEAD_START = 10.0
"""Seconds that the main one of several processes has to tell an error which the others have as well."""


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn an error that a user can mend into one line and exit code 1; show it whole if `debug`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if debug:
            raise
        who = ""
        # mostly all processes fail alike: once the main one has said so, their launcher ends the others; a lost
        # connection is told after a while and with the process by itself (`Heartbeat`)
        if process_rank() and not isinstance(error, ConnectionError):
            time.sleep(HEAD_START)
            who = f"process {process_rank()}: "
        print(f"diptych: {who}{' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as interrupt:  # a run that saved itself says what and how to go on
        if debug:
            raise
        told, code = str(interrupt), getattr(interrupt, "code", 130)
        if told or (code == 130 and not process_rank()):
            print(f"diptych: {told or 'interrupted'}", file=sys.stderr)
        raise typer.Exit(code) from None


def process_rank() -> int:
    """Which of several processes this is; 0 is the main one, which speaks."""
    return int(os.environ.get("RANK") or 0)


def remark(quiet: bool) -> Any:
    """Say something beside the results: on standard error, or nowhere."""
    return (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr))
