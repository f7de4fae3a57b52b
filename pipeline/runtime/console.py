"""What work shows to the user: lines, and bars that say how far it has come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Console:
    """Where lines and progress bars go.

    Attributes:
        print: What to do with each line.
        bars: Whether to show progress bars, on a terminal.
    """

    print: Callable[[str], None] = print
    bars: bool = True

    def progress(self, items: Iterable[Any] | None = None, **options: Any) -> Any:
        """A progress bar over `items` that goes when it is done; `options` are tqdm's."""
        from tqdm.auto import tqdm

        return tqdm(items, leave=False, disable=None if self.bars else True, **options)


SILENT = Console(lambda line: None, bars=False)
"""Shows nothing: for all but the main one of several processes, and for work inside other work."""


def print_utf8(text: str) -> None:
    """Write to standard output as UTF-8, as JSON is, whatever the terminal's encoding."""
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(text.encode())
    else:  # a stream in memory, as of a notebook, takes any text
        sys.stdout.write(text)
    sys.stdout.flush()
