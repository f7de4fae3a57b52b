"""Trackers, such as TensorBoard, by way of Accelerate: metrics of every epoch, the loss every few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor

EVERY = 10
"""Optimizer steps from one loss to the next."""


def check_tracker(name: str) -> None:
    """See that a tracker is known to Accelerate and its package is there.

    Raises:
        ValueError: It is not; Accelerate itself would go on without a word.
    """
    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"tracker is {name!r}; choose one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    if name in LoggerType.list() and LoggerType(name) not in get_available_trackers():
        package = "'diptych[tensorboard]'" if name == "tensorboard" else name.replace("comet_ml", "comet-ml")
        raise ValueError(f"tracker is {name!r}, whose package is not there: pip install {package}")


class Tracking:
    """What a run gives to its tracker; nothing if it has none.

    Args:
        accelerator: Made with `log_with`, if there is a tracker.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.on = bool(accelerator.log_with)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Open the tracker, with the options of the run."""
        if self.on:
            plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in config.items()}
            self.accelerator.init_trackers("diptych", config=plain)

    def step(self, loss: Tensor, step: int) -> None:
        """The loss of optimizer step `step`, from 1, every `EVERY` steps; its mean over all processes."""
        if self.on and step % EVERY == 0:
            self.accelerator.log({"step_loss": float(self.accelerator.reduce(loss.detach(), "mean"))}, step=step)

    def epoch(self, metrics: Mapping[str, Any], step: int) -> None:
        """The metrics of an epoch that ended with optimizer step `step`."""
        if self.on:
            numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
            self.accelerator.log(numbers, step=step)

    def end(self) -> None:
        """Close the tracker."""
        for tracker in self.accelerator.trackers:  # `end_training` would end what all processes talk by as well
            tracker.finish()
