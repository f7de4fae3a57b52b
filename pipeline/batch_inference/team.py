"""Several processes that share a table: what one must know of another, and how all of them end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from ..runtime.record import read_record
from ..runtime.signals import Interrupted, StopSignals
from .parts import RECORD

_POLL = 0.2
"""Seconds."""
Found = TypeVar("Found")


class Team:
    """The processes that this one belongs to.

    At the start they talk by collectives. From then on one may compute for hours where another is done, longer than
    any collective waits, and they talk by files in a folder that all of them see.
    """

    def __init__(self, state: PartialState) -> None:
        self.index: int = state.process_index
        self.count: int = state.num_processes
        self.main = self.index == 0
        self._looked = 0.0

    def all_or_none(self, step: Callable[[], Found]) -> Found:
        """Take a step that can fail in all processes: if it does in any, all leave and the main one says why.

        Raises:
            ValueError: It failed, in the main process.
            Interrupted: It failed, in another, without a word.
        """
        if self.count == 1:
            return step()
        found, failed = None, None
        try:
            found = step()
        except (ValueError, OSError) as error:
            failed = error
        messages = [message for message in gather_object([failed and str(failed)]) if message is not None]
        if not messages:
            return cast(Found, found)
        if self.main:
            raise ValueError(messages[0]) from failed
        raise Interrupted("", 1)

    def broadcast(self, what: Found) -> Found:
        """What the main process has as `what`."""
        return broadcast_object_list([what])[0] if self.count > 1 else what

    def begin(self, folder: Path, run: str) -> None:
        """From here on, talk by files in `folder`; their names hold `run`, by which a run knows its own.

        Raises:
            ValueError: It is not the same folder for all processes.
        """
        self.folder, self.run = folder, run
        if self._taken_over():
            raise ValueError(
                f"{folder} is not the same folder for all processes: choose an --out that all machines share"
            )

    def end(self, rows: int) -> None:
        """Let the others know that this process is done, and how many rows it found in all.

        The name says it, so that it is there as soon as the file is.
        """
        if self.count > 1:
            (self.folder / f".ended-{self.run}-{self.index}-{rows}").touch()

    def all_ended(self) -> bool:
        """Whether every process is done.

        Raises:
            ValueError: They did not find the same number of rows.
        """
        found = [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f".ended-{self.run}-*")]
        if len({*found}) > 1:
            raise ValueError(
                f"the processes do not read the same data: they found {min(found)} to {max(found)} rows; give all of "
                "them the same"
            )
        return self.count == 1 or len(found) == self.count

    def wait(self, until: Callable[[], bool], check: Callable[[], None]) -> None:
        """Wait, for hours if need be; `check` raises if there is nothing left to wait for."""
        while not until():
            check()
            time.sleep(_POLL)

    def check(self, signals: StopSignals, *, now: bool = False) -> None:
        """See whether this process is to stop; look for files once in a while, or `now`.

        Raises:
            Interrupted: A signal came; another process failed, which has said why; or another run has begun in the
                folder, as it may after a launcher was killed and left its processes behind.
        """
        if not signals.received and not now and time.monotonic() - self._looked < _POLL:
            return
        self._looked = time.monotonic()
        if self.count > 1 and self._failed.exists():
            raise Interrupted("", 1)
        if signals.received:
            told = (
                f"stopped by {signal.Signals(signals.received).name}; whole parts stay in {self.folder}. The same "
                "command with --resume goes on from there"
            )
            raise Interrupted(told if self.main else "", 128 + signals.received)
        if self._taken_over():
            raise Interrupted(f"another run has begun in {self.folder}: this one leaves it" if self.main else "", 1)

    def is_first_to_fail(self) -> bool:
        """Whether no other process failed before this one, which says why then; the others stop without a word."""
        if self.count == 1:
            return True
        try:
            self._failed.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @property
    def _failed(self) -> Path:
        return self.folder / f".failed-{self.run}"

    def _taken_over(self) -> bool:
        return self.folder.is_dir() and read_record(self.folder, RECORD).get("run") != self.run
