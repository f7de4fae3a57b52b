"""Between the steps of a run: signals that ask it to stop, and when to save where it stands."""

from __future__ import annotations

import signal
import time

import torch
from accelerate import Accelerator

from ..runtime.signals import SIGNALS, Interrupted, StopSignals
from .checkpoints import Checkpoints, Progress


class Interrupts:
    """Between the steps of a run: what all its processes agree to do, checkpoints, and the end when it is asked for.

    Args:
        checkpoints: Where it is saved.
        signals: Entered as long as the run goes.
        steps: Optimizer steps from one checkpoint to the next; 0 counts none.
        minutes: Minutes from one to the next, by the clock of the main process; 0 never looks at it.
    """

    def __init__(
        self, accelerator: Accelerator, checkpoints: Checkpoints, signals: StopSignals, *, steps: int, minutes: float
    ) -> None:
        self.accelerator, self.checkpoints, self.signals = accelerator, checkpoints, signals
        self.steps, self.minutes = steps, minutes
        self._saved = time.monotonic()
        self._stop, self._due = 0, False

    def agree(self, *, lost: bool = False) -> bool:
        """Whether `lost` is true of any process; hears what else any of them wants on the same occasion.

        All must act as one, at the same step, or some would wait for the others forever.
        """
        minutes = (time.monotonic() - self._saved) / 60
        due = 0 < self.minutes <= minutes and self.accelerator.is_main_process
        mine = [*(self.signals.received == number for number in SIGNALS), due, lost]
        answers = torch.tensor(mine, dtype=torch.float32, device=self.accelerator.device)
        *stops, self._due, anyone_lost = (answer > 0 for answer in self.accelerator.reduce(answers, "sum").tolist())
        self._stop = next((number for number, stop in zip(SIGNALS, stops, strict=True) if stop), 0)
        return anyone_lost

    def checkpoint(self, progress: Progress) -> None:
        """Save where the run stands, if it is time to by what was last agreed; leave, if that was.

        Raises:
            Interrupted: A signal came.
            OSError: The checkpoint cannot be written.
        """
        if not (self._stop or self._due or (self.steps and progress.step % self.steps == 0)):
            return
        path = self.checkpoints.save(progress)
        self._saved = time.monotonic()
        if self._stop:
            told = (
                f"stopped by {signal.Signals(self._stop).name} after step {progress.step}, in epoch {progress.epoch}; "
                f"saved {path}. The same command with --resume goes on from there"
            )
            raise Interrupted(told if self.accelerator.is_main_process else "", 128 + self._stop)
