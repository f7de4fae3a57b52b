"""`diptych tune`."""

from __future__ import annotations

import inspect
import shlex
import sys
from typing import Annotated, Any

import typer

from .command import command
from .options import (
    Accumulate,
    Cache,
    CacheDir,
    ClassWeights,
    ClassWeightsOf,
    Epochs,
    GlobalBatchSize,
    ImageColumn,
    ImageEncoder,
    ImageSize,
    ImageWeightsOf,
    LabelColumn,
    MaxLength,
    Objective,
    ObjectiveOf,
    PrecisionOf,
    Processes,
    StartModel,
    TextColumn,
    TextEncoder,
    TrainingData,
    Workers,
    _parts,
    _size,
)
from .terminal import Show, process_rank
from .train import train


@command()
def tune(
    show: Show,
    data: TrainingData,
    out: Annotated[str, typer.Option(help="The sweep's folder; in the end its best run's, too.")],
    trials: Annotated[int, typer.Option(help="Training runs, in all.")] = 20,
    fusions: Annotated[
        str | None, typer.Option(help="From which to choose, with commas: cross-modal,mlp.  [default: all]")
    ] = None,
    model: StartModel = None,
    objective: ObjectiveOf = Objective.classify,
    image_encoder: ImageEncoder = None,
    text_encoder: TextEncoder = None,
    image_weights: ImageWeightsOf = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    epochs: Epochs = 5,
    batch_size: GlobalBatchSize = 64,
    accumulate: Accumulate = 1,
    learning_rate: Annotated[float | None, typer.Option(help="Fixes it.  [default: searched]")] = None,
    encoder_learning_rate: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    unfreeze_image: Annotated[
        str | None,
        typer.Option(help="Fixes which parts of the image trunk train: a number or all.  [default: searched]"),
    ] = None,
    unfreeze_text: Annotated[str | None, typer.Option(help="Likewise of the text trunk.")] = None,
    class_weights: ClassWeightsOf = ClassWeights.none,
    precision: PrecisionOf = None,
    seed: Annotated[int, typer.Option(help="Of what is tried, and of each run.")] = 0,
    workers: Workers = 0,
    cache: Cache = True,
    cache_dir: CacheDir = None,
    processes: Processes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in OUT; with more --trials if you like.")
    ] = False,
) -> None:
    """Search learning rates, fusion and frozen parts.

    Trains many times and keeps the best model in OUT/model; OUT/trials.csv and OUT/trials.png show all
    trials. What an option fixes is not searched.
    """
    given: dict[str, Any] = {
        "model": model,
        "objective": objective.value,
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
        "image_weights": image_weights and image_weights.value,
        "image_size": None if image_size is None else _size(image_size),
        "max_length": max_length,
        "image_column": image_column,
        "text_column": text_column,
        "label_column": label_column,
        "epochs": epochs,
        "batch_size": batch_size,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": learning_rate,
        "encoder_learning_rate": encoder_learning_rate,
        "class_weights": class_weights.value,
        "precision": precision and precision.value,
        "seed": seed,
        "workers": workers,
        "cache": cache,
        "cache_dir": cache_dir,
    }
    if unfreeze_image is not None:
        given["unfreeze_image"] = _parts(unfreeze_image, "--unfreeze-image")
    if unfreeze_text is not None:
        given["unfreeze_text"] = _parts(unfreeze_text, "--unfreeze-text")
    from ..runtime.launch import start, wanted

    if (count := wanted(processes)) > 1:
        raise typer.Exit(start(count, sys.argv[1:]))
    from ..tuning.report import sweep_text
    from ..tuning.tune import tune as run

    found = run(
        data,
        out,
        trials=trials,
        fusions=None if fusions is None else [name.strip() for name in fusions.split(",")],
        say=show.remark,
        quiet=show.quiet,
        resume=resume,
        processes=processes,
        **given,
    )
    if process_rank() == 0:
        show.result(found, lambda found: f"{sweep_text(found)}\n{_train_command(data, found['options'])}")


def _train_command(data: str, options: dict[str, Any]) -> str:
    """The command that trains with `options`; those that are as the command has them by itself are left out."""
    options = {**options, **options.get("architecture", {})}
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    words = ["diptych", "train", data, "--out", "OUT"]
    for name, value in options.items():
        if name == "image_size" and value is not None:
            value = "x".join(map(str, value))
        elif name.startswith("unfreeze_"):
            value = "all" if value is None else str(value)
        option = name.replace("_", "-")
        if name != "architecture" and value is not None and value != defaults[name]:
            words += (
                [f"--{option}" if value else f"--no-{option}"]
                if isinstance(value, bool)
                else [f"--{option}", str(value)]
            )
    return shlex.join(words)
