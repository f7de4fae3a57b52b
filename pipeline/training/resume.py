"""`run.json`: what a run began with, how far it has come, and whether it may go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..loading.loader import PairDataset
from ..loading.stream import PairStream
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from .config import TrainConfig

FREE = {"workers", "checkpoint_steps", "checkpoint_minutes", "keep", "skip_nonfinite", "tracker"}
"""Options that a run may go on with otherwise than it began."""
_NOT_THE_MODEL = {"transformers_version", "_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype"}


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


def require_same(then: dict[str, Any], now: dict[str, Any], out: Path, *, what: str = "run") -> None:
    """See that a run, or a sweep, goes on with what it began with.

    Raises:
        ValueError: Something differs; the message names it.
    """
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"the {what} in {out} cannot go on: {name} is {_short(now.get(name))}, and was "
                f"{_short(then.get(name))}; give what the {what} began with, or choose another --out"
            )


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


def read_record(folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The record of a run's folder; empty if there is none that can be read."""
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, Any], name: str = "run.json") -> None:
    """Write the record of a run: whole or not at all, replacing the one that was there."""
    path = folder / name
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration without what says nothing about it."""
    return {
        key: plain_config(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NOT_THE_MODEL
    }


def model_digest(model: DiptychModel, processor: DiptychProcessor) -> str:
    """A hash of all that a model's predictions follow from: weights, configuration, processor."""
    found = hashlib.blake2b(digest_size=16)
    images = {name: value for name, value in vars(processor.image_processor).items() if not name.startswith("_")}
    config = [plain_config(model.config.to_dict()), images, processor.max_length]
    found.update(json.dumps(config, default=str, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
