"""`tune.json`: the trials of a sweep, what came of each, and whether the sweep may be resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..runtime.outputs import beside, remove, remove_leftovers
from ..runtime.record import write_record
from ..training.checkpoints import remove_checkpoints

NAME = "tune.json"


@dataclass
class Trial:
    """One training run of a sweep.

    Attributes:
        number: From 1.
        parameters: What was chosen for it, by name.
        state: `running`, `done`, `pruned` or `failed`.
        metrics: The metric by which trials are compared, of each epoch; more is better, so the loss is negated.
        losses: On the validation rows, of each epoch.
        seconds: Of training, of each epoch.
        reason: Why it failed.
    """

    number: int
    parameters: dict[str, Any]
    state: str = "running"
    metrics: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reason: str = ""

    def end_epoch(self, epoch: int, metric: float, loss: float, seconds: float) -> None:
        """Keep what an epoch gave, from 1; one that is trained again replaces what it gave, and what came after."""
        for values, value in ((self.metrics, metric), (self.losses, loss), (self.seconds, seconds)):
            values[epoch - 1 :] = [value]

    @property
    def rank(self) -> tuple[float, float]:
        """By what trials are compared, like epochs: the metric of the best epoch, then its loss."""
        return max((metric, -loss) for metric, loss in zip(self.metrics, self.losses, strict=True))

    @property
    def metric(self) -> float | None:
        """Of its best epoch; None if none was ended."""
        return self.rank[0] if self.metrics else None

    def shown(self, name: str) -> float:
        """The metric `name` of its best epoch, as people read it: of trials compared by the loss, the loss itself."""
        return -self.rank[0] if name == "loss" else self.rank[0]


@dataclass
class Sweep:
    """All that a sweep is, as its folder keeps it.

    Attributes:
        folder: With `tune.json`, the best model in `model/` and the runs in `trials/`.
        identity: What must be the same for it to be resumed, by name.
        metric: The name of the metric by which trials are compared.
        trials: In the order in which they began.
    """

    folder: Path
    identity: dict[str, Any]
    metric: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The best of those that were trained to their end."""
        return max((trial for trial in self.trials if trial.state == "done"), key=lambda t: t.rank, default=None)

    def run_folder(self, trial: Trial) -> Path:
        """Where a trial is trained."""
        return self.folder / "trials" / f"{trial.number:04d}"

    def record(self) -> dict[str, Any]:
        """The sweep as JSON holds it."""
        best = self.best
        return {
            "metric": self.metric,
            "best": None if best is None else best.number,
            "identity": self.identity,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def save(self) -> None:
        """Write `tune.json`, whole or not at all; then keep, of all that trials have saved, what is still needed.

        That is the best model, in `model/`, and what a trial that is running can be resumed from.

        Raises:
            OSError: Something cannot be written.
        """
        write_record(self.folder, self.record(), name=NAME)
        self.clear()

    def clear(self) -> None:
        """Bring the folder to what `tune.json` says, wherever an earlier process was killed."""
        best = self.best
        remove_leftovers(self.folder)
        if best is not None and (self.run_folder(best) / "model").is_dir():
            with beside(self.folder / "model") as new:
                shutil.copytree(self.run_folder(best) / "model", new)
        for trial in self.trials:
            if trial.state != "running":
                remove(self.run_folder(trial) / "model")
                remove_checkpoints(self.run_folder(trial) / "checkpoints")


def read_sweep(folder: Path) -> Sweep | None:
    """The sweep in `folder`; None if there is none.

    Raises:
        ValueError: Its record cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        trials = [Trial(**trial) for trial in record["trials"]]
        return Sweep(folder, record["identity"], record["metric"], trials)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the record of a sweep that this version can resume ({error}); choose another --out"
        ) from error
