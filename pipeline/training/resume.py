"""`run.json`: what a run began with, how far it has come, and whether it may go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..loading.dataset import PairDataset
from ..loading.stream import PairStream
from ..model.fingerprint import plain_config
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.record import read_record
from .config import TrainConfig

FREE = {"workers", "checkpoint_steps", "checkpoint_minutes", "keep", "skip_nonfinite", "tracker"}
"""Options that a run may go on with otherwise than it began."""


def identity_of(
    config: TrainConfig,
    model: DiptychModel,
    processor: DiptychProcessor,
    training: PairDataset | PairStream,
    validation: PairDataset | PairStream,
    **others: Any,
) -> dict[str, Any]:
    """What must be the same for a run to go on, by the name that a user knows it by.

    Weights are not part of it: those that a run began with are no longer needed.
    """
    options = {name: value for name, value in asdict(config).items() if name not in FREE}
    images = {name: value for name, value in vars(processor.image_processor).items() if not name.startswith("_")}
    found = {
        **plain_config(model.config.to_dict()),
        "image transforms": images,
        "max_length": processor.max_length,
        "training data": training.fingerprint(),
        "validation data": validation.fingerprint(),
        **options,
        **others,
    }
    return dict(json.loads(json.dumps(found, default=str, sort_keys=True)))


def begin_anew(folder: Path, say: Callable[[str], None], *, may_write: bool) -> None:
    """See that no run is lost by beginning a new one in `folder`; clear away what a finished one left.

    Args:
        folder: Of the run.
        say: What to do with each line for the user.
        may_write: True in the main process.

    Raises:
        ValueError: A run in it was not brought to its end.
    """
    record, checkpoints = read_record(folder), folder / "checkpoints"
    left = sorted(path.name for path in checkpoints.iterdir() if path.name.isdigit()) if checkpoints.is_dir() else []
    if left and record.get("state") != "done":
        raise ValueError(
            f"{folder} holds a run that is not done, saved at step {int(left[-1])}: go on with --resume, choose "
            f"another --out, or delete {checkpoints}"
        )
    if may_write:
        shutil.rmtree(checkpoints, ignore_errors=True)
    if record:
        say(f"replacing the earlier run in {folder}")
