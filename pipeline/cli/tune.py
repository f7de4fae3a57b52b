"""`diptych tune`."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Annotated, Any

from ..training.config import RENAMED, BuildOptions, DataOptions, TrainConfig, read_options
from .command import command, option
from .options import Processes, StartModel, TrainingData
from .terminal import Show, process_rank, share_with

SEARCHED = dict.fromkeys(
    ("learning_rate", "encoder_learning_rate", "unfreeze_image", "unfreeze_text"), "searched; a value fixes it"
) | {"epochs": "5"}


@command(DataOptions, BuildOptions, TrainConfig, defaults=SEARCHED, without=["fusion", "recipe"], renamed=RENAMED)
def tune(
    show: Show,
    data: TrainingData,
    out: Annotated[str, option("The sweep's folder; in the end its best run's, too.")],
    trials: Annotated[int, option("Training runs, in all.")] = 20,
    fusions: Annotated[str | None, option("Fusions to choose from, such as cross-modal,mlp.  [default: all]")] = None,
    model: StartModel = None,
    resume: Annotated[bool, option("Resume the sweep in OUT; --trials may be more.", "--resume")] = False,
    processes: Processes = None,
    **options: Any,
) -> None:
    """Search learning rates, fusion and frozen parts.

    Trains many times and keeps the best model in OUT/model; OUT/trials.csv and OUT/trials.png show all
    trials. What an option fixes is not searched.
    """
    read_options(options, searches=True)  # before torch is loaded: what they say of a value that is not allowed
    share_with(processes)
    from ..tuning.report import sweep_text
    from ..tuning.tune import tune as run

    if model is not None:
        options["model"] = model
    if fusions is not None:
        options["fusions"] = [name.strip() for name in fusions.split(",")]
    how: dict[str, Any] = {"say": show.remark, "quiet": show.quiet, "resume": resume, "processes": processes}
    record = run(data, out, trials=trials, **how, **options)
    if process_rank() == 0:
        show.result(record, lambda record: f"{sweep_text(record)}\n{train_command(data, record['options'])}")


def train_command(data: str, options: dict[str, Any]) -> str:
    """The command that trains with these options of `diptych.train`."""
    flat = {**options, **options.get("architecture", {})}
    flat.pop("architecture", None)
    nones = {
        field.name: field.metadata.get("none")
        for kind in (DataOptions, BuildOptions, TrainConfig)
        for field in fields(kind)
    }
    words = ["diptych", "train", data, "--out", "OUT"]
    for name, value in flat.items():
        flag = name.replace("_", "-")
        if value is None and nones.get(name) is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            shown = "x".join(map(str, value)) if isinstance(value, (tuple, list)) else value
            words += [f"--{flag}", str(nones[name] if value is None else shown)]
    return shlex.join(words)
