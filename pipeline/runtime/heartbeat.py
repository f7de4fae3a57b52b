"""Whether all processes that train together are still there: for one that is cut off they would wait half an hour."""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState

TIMEOUT = 40.0
"""Seconds without a word from the others after which a process gives up."""
BEAT = 2.0
"""Seconds from one beat to the next; the end of a run can be that late."""
HEAD_START = 10.0
"""Seconds that who knows more has to say it, and a launcher to end the rest: that others are lost is a last resort."""
_OF_COMMUNICATION = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket")


class Heartbeat:
    """While it is entered, a thread of each process hears every two seconds from those of all others.

    The first to leave ends it for all. Where it fails, or the work fails because another process is gone, this process
    ends with one line. The thread has a gloo group of its own, whatever the work goes over, and a process that
    works or saves for long has a pulse all the while. One process alone has none.

    Args:
        out: The run's folder, for the message.
    """

    def __init__(self, out: Path) -> None:
        self.state, self.out = PartialState(), out
        self._leaving = threading.Event()

    def __enter__(self) -> Heartbeat:
        if self.state.num_processes == 1:
            return self
        try:
            self.state.wait_for_everyone()  # whoever reads its data slowly; a new group waits for its own timeout only
            self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT))
        except RuntimeError as error:
            raise self._lost(
                error, "; if they are there, name the network between the machines: GLOO_SOCKET_IFNAME=eth0"
            ) from error
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state.num_processes == 1:
            return
        self._leaving.set()  # from here on its thread says nothing
        self._thread.join(None if error is None else 2 * BEAT)
        if error is None:
            dist.destroy_process_group(self._group)
        elif _is_of_communication(error):
            raise self._lost(error) from error

    def _beat(self) -> None:
        """Until any process leaves, or is lost."""
        leaves = torch.zeros(1)
        try:
            while not leaves:
                self._leaving.wait(BEAT)
                leaves.fill_(self._leaving.is_set())
                dist.all_reduce(leaves, group=self._group)
        except RuntimeError as error:
            silent = "timed out" in str(error).lower()
            # of a closed connection the work hears as well, and nobody need be told by several of one machine
            if self._leaving.wait(0 if silent and self.state.is_local_main_process else HEAD_START):
                return
            what = f"has heard nothing from the others for {TIMEOUT:g} seconds" if silent else _closed(error)
            sys.stdout.flush()
            sys.stderr.write(f"\ndiptych: {self._told(what)}\n")
            sys.stderr.flush()
            os._exit(1)  # the work waits in a call that only time can end

    def _lost(self, error: BaseException, hint: str = "") -> ConnectionError:
        time.sleep(HEAD_START if self.state.is_local_main_process else 1.5 * HEAD_START)  # once on each machine
        return ConnectionError(self._told(_closed(error)) + hint)

    def _told(self, what: str) -> str:
        return (
            f"process {self.state.process_index} of {self.state.num_processes} {what}. The last checkpoint in "
            f"{self.out / 'checkpoints'} can be gone on from with --resume once all are back"
        )


def _closed(error: BaseException) -> str:
    # [where in gloo it happened] What [address]: what the system says. Advice
    reason = " ".join(str(error).split()).split("] ")[-1].split("]: ")[-1].split(". ")[0]
    return f"has lost the others ({reason[:100]})"


def _is_of_communication(error: BaseException) -> bool:
    """Whether it is the end of a connection; gloo's are RuntimeErrors like many others."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _OF_COMMUNICATION)
    )
