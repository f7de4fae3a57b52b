"""The folder of a run, and what lies where in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    path: Path

    @property
    def model(self) -> Path:
        """The model of the best epoch."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """What a run that was stopped resumes from; gone when it is done."""
        return self.path / "checkpoints"

    @property
    def reliability(self) -> Path:
        """The picture of how well scores are calibrated."""
        return self.path / "reliability.png"

    @property
    def logs(self) -> Path:
        """What a tracker writes."""
        return self.path / "logs"

    def __str__(self) -> str:
        return str(self.path)
