"""Stop signals, noted while work goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

Row = TypeVar("Row")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a run to stop; SIGHUP comes when its terminal is closed."""

_ECHO = 5.0
"""Seconds. Ctrl-C reaches each of several processes by itself and again through their launcher: that is one wish."""


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by a signal and saved where it stands.

    Args:
        message: What was saved and how to go on; empty in all processes but the main one.
        code: The exit code by which a shell knows the signal: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code)


class StopSignals:
    """While it is entered, the first of `SIGNALS` is noted in `received`; a second one ends the process at once.

    A SIGHUP that the process was started to ignore, as by nohup, stays ignored. Outside the main thread, where Python
    allows no handlers, it does nothing.

    Args:
        processes: How many train together.
    """

    def __init__(self, *, processes: int = 1) -> None:
        self.received = 0
        self._echo = _ECHO if processes > 1 else 0.0
        self._first = 0.0
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            heard = [number for number in SIGNALS if number != signal.SIGHUP or not ignored]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def between(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows; a signal ends the wait for the next one, and comes after the one that is at hand.

        Raises:
            Interrupted: A signal came.
        """
        rows, end = iter(rows), object()
        while True:
            try:
                self._waiting = True
                if self.received:
                    raise self._interrupted()
                row = next(rows, end)
            finally:
                self._waiting = False
            if row is end:
                return
            yield row  # type: ignore[misc]

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"stopped by {signal.Signals(self.received).name}", 128 + self.received)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and time.monotonic() - self._first >= self._echo:
            os._exit(128 + number)
        elif not self.received:
            self.received, self._first = number, time.monotonic()
            if self._waiting:
                raise self._interrupted()
