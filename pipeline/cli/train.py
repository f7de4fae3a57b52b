"""`diptych train`."""

from __future__ import annotations

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
    Fusion,
    GlobalBatchSize,
    ImageColumn,
    ImageEncoder,
    ImageSize,
    ImageWeightsOf,
    LabelColumn,
    MaxLength,
    Objective,
    ObjectiveOf,
    Pattern,
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


@command()
def train(
    show: Show,
    data: TrainingData,
    out: Annotated[str, typer.Option(help="The run's folder.")],
    model: StartModel = None,
    objective: ObjectiveOf = Objective.classify,
    image_encoder: ImageEncoder = None,
    text_encoder: TextEncoder = None,
    image_weights: ImageWeightsOf = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    region_grid: Annotated[
        int | None,
        typer.Option(help="Regions of a picture to a side at most; 0: the ResNet's own.  [default: 4; concat, mlp: 1]"),
    ] = None,
    fusion: Annotated[
        Fusion | None, typer.Option(help="How both halves come together.  [default: cross-modal]")
    ] = None,
    pattern: Annotated[
        Pattern | None, typer.Option(help="Who sees whom, with --fusion self-attention.  [default: dense]")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens that a sliding window shows on each side.  [default: 128]")
    ] = None,
    modality_gate: Annotated[
        bool | None,
        typer.Option(
            "--modality-gate/--no-modality-gate", help="Learn weights of the modalities; yes, but with concat."
        ),
    ] = None,
    alignment_weight: Annotated[
        float | None,
        typer.Option(help="Of a contrastive term beside the classes' loss.  [default: 0, or what --model has]"),
    ] = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    epochs: Epochs = 5,
    batch_size: GlobalBatchSize = 64,
    accumulate: Accumulate = 1,
    learning_rate: Annotated[float, typer.Option(help="Peak, of all that starts from random weights.")] = 5e-4,
    encoder_learning_rate: Annotated[float, typer.Option(help="Peak, of pretrained trunks.")] = 5e-5,
    unfreeze_image: Annotated[
        str | None,
        typer.Option(help="Parts of the image trunk that train, from the top: a number or all. 0, or all if random."),
    ] = None,
    unfreeze_text: Annotated[str, typer.Option(help="Likewise of the text trunk.")] = "0",
    unfreeze_at: Annotated[int, typer.Option(help="Epoch from which these parts train.")] = 1,
    layer_decay: Annotated[
        float, typer.Option(help="Rate of each part of a pretrained trunk, as a share of that of the part above.")
    ] = 1.0,
    class_weights: ClassWeightsOf = ClassWeights.none,
    focal_gamma: Annotated[
        float, typer.Option(help="How much less rows count that are told well already; 0 is off, 2 usual.")
    ] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of each target spread over all classes.")] = 0.0,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one.")] = None,
    tracker: Annotated[
        str | None, typer.Option(help="Log to tensorboard, or to another tracker that Accelerate knows.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror training pictures; by itself if the image trunk trains and no text speaks of left or right.",
        ),
    ] = None,
    crop: Annotated[
        bool | None, typer.Option("--crop/--no-crop", help="Cut training pictures at random; by itself likewise.")
    ] = None,
    colour: Annotated[
        bool | None, typer.Option("--colour/--no-colour", help="Change their brightness and contrast; likewise.")
    ] = None,
    cache: Cache = True,
    cache_dir: CacheDir = None,
    modality_dropout: Annotated[
        float | None, typer.Option(help="Chance that a training row loses one half.  [default: 0.3]")
    ] = None,
    precision: PrecisionOf = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.")] = 0,
    workers: Workers = 0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read the rows one after another, of data too large to be loaded.")
    ] = False,
    shuffle_buffer: Annotated[
        int, typer.Option(help="With --stream: rows that are held to change their order.")
    ] = 1000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in OUT from its newest whole checkpoint.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in OUT.")] = False,
    checkpoint_steps: Annotated[int, typer.Option(help="Steps from one checkpoint to the next; 0 counts none.")] = 0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes from one to the next; 0 uses no clock.")] = 15.0,
    keep: Annotated[int, typer.Option(help="How many checkpoints stay.")] = 2,
    skip_nonfinite: Annotated[
        bool, typer.Option("--skip-nonfinite", help="Leave out steps whose loss is not finite, instead of stopping.")
    ] = False,
    processes: Processes = None,
) -> None:
    """Fine-tune on labelled pairs.

    Keeps the best epoch's model in OUT/model and the record in OUT/run.json.
    """
    options: dict[str, Any] = {}
    if unfreeze_image is not None:
        options["unfreeze_image"] = _parts(unfreeze_image, "--unfreeze-image")
    size = None if image_size is None else _size(image_size)
    architecture = {
        "region_grid": region_grid,
        "fusion": fusion and fusion.value,
        "pattern": pattern and pattern.value,
        "window": window,
        "modality_gate": modality_gate,
        "modality_dropout": modality_dropout,
    }
    from ..runtime.launch import start, wanted

    if (count := wanted(processes)) > 1:
        raise typer.Exit(start(count, sys.argv[1:]))
    from ..training.train import train as run

    record = run(
        data,
        out,
        model=model,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        image_weights=image_weights and image_weights.value,
        image_size=size,
        max_length=max_length,
        image_column=image_column,
        text_column=text_column,
        label_column=label_column,
        say=show.remark,
        quiet=show.quiet,
        alignment_weight=alignment_weight,
        architecture=architecture,
        objective=objective.value,
        epochs=epochs,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate,
        encoder_learning_rate=encoder_learning_rate,
        unfreeze_text=_parts(unfreeze_text, "--unfreeze-text"),
        unfreeze_at=unfreeze_at,
        layer_decay=layer_decay,
        class_weights=class_weights.value,
        focal_gamma=focal_gamma,
        label_smoothing=label_smoothing,
        patience=patience,
        tracker=tracker,
        flip=flip,
        crop=crop,
        colour=colour,
        cache=cache,
        cache_dir=cache_dir,
        precision=precision and precision.value,
        seed=seed,
        workers=workers,
        stream=stream,
        shuffle_buffer=shuffle_buffer,
        resume=resume,
        overwrite=overwrite,
        checkpoint_steps=checkpoint_steps,
        checkpoint_minutes=checkpoint_minutes,
        keep=keep,
        skip_nonfinite=skip_nonfinite,
        processes=processes,
        **options,
    )
    if show.as_json and process_rank() == 0:
        show.result(record, str)
