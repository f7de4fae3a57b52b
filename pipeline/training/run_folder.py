"""The folder of a run, and what lies where in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.outputs import writable_folder
from ..runtime.record import read_record, write_record


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: Where it is.
    """

    path: Path

    @classmethod
    def at(cls, out: str | Path) -> RunFolder:
        """The run's folder `out`, made if need be.

        Raises:
            ValueError: It cannot be written to.
        """
        return cls(writable_folder(out))

    @property
    def model(self) -> Path:
        """The model of the best epoch."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """What a run that was stopped resumes from; gone when it is done."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """What a tracker writes."""
        return self.path / "logs"

    def read(self) -> dict[str, Any]:
        """The record `run.json`; empty if there is none that can be read."""
        return read_record(self.path)

    def write(self, record: dict[str, Any]) -> None:
        """Write the record, whole or not at all."""
        write_record(self.path, record)

    def __str__(self) -> str:
        return str(self.path)
