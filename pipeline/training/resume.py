"""`run.json`: what a run began with, how far it has come, and whether it may go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import Any

from ..loading.loader import PairSource
from ..model.fingerprint import plain_config
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from .config import TrainConfig
from .run_folder import RunFolder

FREE = {"workers", "checkpoint_steps", "checkpoint_minutes", "keep", "skip_nonfinite", "tracker", "cache_dir"}
"""Options that a run may go on with otherwise than it began."""


def identity_of(
    config: TrainConfig,
    model: DiptychModel,
    processor: DiptychProcessor,
    training: PairSource,
    validation: PairSource,
    **others: Any,
) -> dict[str, Any]:
    """What must be the same for a run to go on, by the name that a user knows it by.

    Weights are not part of it: those that a run began with are no longer needed.
    """
    options = {name: value for name, value in asdict(config).items() if name not in FREE}
    images = {name: value for name, value in vars(processor.image_processor).items() if not name.startswith("_")}
    found = {
        **options,
        **plain_config(model.config.to_dict()),
        "image transforms": images,
        "max_length": processor.max_length,
        "training data": training.fingerprint(),
        "validation data": validation.fingerprint(),
        **others,
    }
    return dict(json.loads(json.dumps(found, default=str, sort_keys=True)))


def begin_anew(folder: RunFolder, console: Console, *, may_write: bool) -> None:
    """See that no run is lost by beginning a new one in `folder`; clear away what a finished one left.

    Args:
        folder: Of the run.
        console: Shows what is replaced.
        may_write: True in the main process.

    Raises:
        ValueError: A run in it was not brought to its end.
    """
    record, checkpoints = folder.read(), folder.checkpoints
    left = sorted(path.name for path in checkpoints.iterdir() if path.name.isdigit()) if checkpoints.is_dir() else []
    if left and record.get("state") != "done":
        raise ValueError(
            f"{folder} holds a run that is not done, saved at step {int(left[-1])}: go on with --resume, choose "
            f"another --out, or delete {checkpoints}"
        )
    if may_write:
        shutil.rmtree(checkpoints, ignore_errors=True)
    if record:
        console.print(f"replacing the earlier run in {folder}")
