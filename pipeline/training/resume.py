"""`run.json`: what a run began with, how far it has come, and whether it may go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..loading.loader import PairSource
from ..model.fingerprint import plain_config
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from ..runtime.files import Lock
from ..runtime.outputs import adopt, files_of, remove, remove_leftovers, restore, see_that_it_is_ours
from ..runtime.record import read_record
from ..runtime.version import __version__
from .checkpoints import EARLIER_MARK, checkpoint_folders, earlier_checkpoints, remove_checkpoints
from .config import TrainConfig
from .run_folder import RunFolder

FREE = {"workers", "checkpoint_steps", "checkpoint_minutes", "keep", "skip_nonfinite", "tracker", "cache_dir"}
"""Options that a run may go on with otherwise than it began."""

EARLIER = ("0.1.", "0.2.", "0.3.")
"""Versions whose runs cannot be resumed: their checkpoints hold another network, and carry no mark."""


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


def may_begin(folder: RunFolder, *, resume: bool, overwrite: bool) -> None:
    """See that no run and nothing of others is lost by training in `folder`.

    Raises:
        ValueError: It would be.
    """
    if resume and overwrite:
        raise ValueError("--resume goes on with a run and --overwrite begins anew: give one of them")
    record, model = read_record(folder.path), restore(folder.model)
    foreign = [folder.path / "run.json"] if not record and (folder.path / "run.json").exists() else []
    if model.is_dir() and any(model.iterdir()) and not record and files_of(model) is None:
        foreign.append(model)
    if foreign:
        raise ValueError(f"{foreign[0]} is not of a run of diptych and would be replaced: choose another --out")
    see_that_it_is_ours(folder.reliability)
    if overwrite:
        return
    checkpoints = checkpoint_folders(folder.checkpoints)
    earlier = earlier_checkpoints(folder.checkpoints)
    if resume:
        version = str(record["diptych"]) if record else "0.3.0" if earlier else ""
        if version.startswith(EARLIER):
            raise ValueError(
                f"{folder} holds a run of diptych {version}, which {__version__} cannot resume: start from its model, "
                "if it has one, with --model and another --out, or replace the run with --overwrite"
            )
        return
    if checkpoints and record.get("state") != "done":
        raise ValueError(
            f"{folder} holds a run that is not done, saved at step {int(checkpoints[-1].name)}: go on with --resume, "
            "choose another --out, or replace it with --overwrite"
        )
    if record.get("state") == "done" or (model.is_dir() and any(model.iterdir())) or earlier:
        raise ValueError(f"{folder} holds a run already: give --overwrite to replace it, or choose another --out")


def begin(folder: RunFolder, console: Console, *, resume: bool, overwrite: bool) -> Lock:
    """Begin to train in `folder`, once all that it needs is known to be usable; of several processes the main one does.

    Returns:
        What keeps other runs out of the folder; to be released at the end.

    Raises:
        ValueError: Another run is training there, or something would be lost.
    """
    try:
        lock = Lock(folder.path)
    except BlockingIOError as error:
        raise ValueError(f"another run is training in {folder}: wait for it, or choose another --out") from error
    try:
        may_begin(folder, resume=resume, overwrite=overwrite)
        remove_leftovers(folder.path)
        if not resume:
            for path in earlier_checkpoints(folder.checkpoints):
                if not adopt(path, EARLIER_MARK):
                    raise ValueError(
                        f"{path} is a checkpoint of an earlier version, and not as it was written: remove it, or "
                        "choose another --out"
                    )
            removed = [path for path in (folder.path / "run.json", folder.model) if path.exists()]
            remove(folder.model)
            (folder.path / "run.json").unlink(missing_ok=True)
            if remove_checkpoints(folder.checkpoints):
                removed.append(folder.checkpoints)
            if removed:
                console.print(f"removed of the earlier run: {', '.join(map(str, removed))}")
    except BaseException:
        lock.release()
        raise
    return lock
