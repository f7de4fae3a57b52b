"""The command line: one function per command, heavy imports inside, errors in one line."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .cpus import limit_threads
from .options import (
    Accumulate,
    BatchSize,
    Cache,
    CacheDir,
    ClassWeights,
    ClassWeightsOf,
    Debug,
    Dtype,
    Epochs,
    Fusion,
    GlobalBatchSize,
    ImageColumn,
    ImageEncoder,
    ImageSize,
    ImageWeightsOf,
    Json,
    LabelColumn,
    MaxLength,
    Objective,
    ObjectiveOf,
    OnBadRow,
    Pattern,
    Precision,
    PrecisionOf,
    Processes,
    Quiet,
    Split,
    StartModel,
    TextColumn,
    TextEncoder,
    TrainingData,
    Workers,
)

app = typer.Typer(
    name="diptych",
    help="Classify image + text pairs: ResNet regions and BERT words, fused by cross-modal attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_HEAD_START = 10.0
"""Seconds that the main one of several processes has to tell an error which the others have as well."""


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="A folder for what it makes.")] = "diptych-demo",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show everything in two minutes, offline: classify, fine-tune on a new question, classify again."""
    with _reported(debug):
        from .demo import demo as run

        figures = run(out, say=(lambda line: None) if quiet or as_json else print, quiet=quiet or as_json)
        if as_json:
            print(json.dumps(figures))


@app.command()
def classify(
    image: Annotated[str | None, typer.Argument(help="An image file; '' for none.")] = None,
    text: Annotated[str | None, typer.Argument(help="A sentence; leave it out for none.")] = None,
    model: Annotated[str | None, typer.Option(help="A run's folder, a model's folder or a Hub id.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Many pairs: a CSV, JSONL or parquet file, a folder, a dataset, a Hub id; - reads JSON lines."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Where their predictions go: a .csv, .jsonl or .parquet file; a folder of parts; - writes JSON lines."
        ),
    ] = None,
    split: Split = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    on_bad_row: Annotated[
        OnBadRow, typer.Option(help="Classify with the half that is there, give no prediction, or stop.")
    ] = OnBadRow.mask,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows per forward pass.  [default: 32; on a GPU what its memory takes]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that read images ahead.  [default: 0; on a GPU one per CPU, at most 8]"),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the encoders; compared with the usual way before it is used.")
    ] = False,
    dtype: Annotated[Dtype | None, typer.Option(help="Run the encoders in 16 bits; compared likewise.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Run the ResNet in 8 bits, on a CPU; likewise. Needs 'diptych[onnx]'.")
    ] = False,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of labels that must be the same for this.  [default: 0.99]")
    ] = None,
    part_rows: Annotated[
        int, typer.Option(help="Rows of each part of a folder, and of what processes share.")
    ] = 10_000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT: parts that are there are not computed again.")
    ] = False,
    processes: Processes = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Classify one pair (IMAGE TEXT), or many (--data DATA --out FILE)."""
    with _reported(debug):
        if data is None and image is None:
            raise ValueError("give an IMAGE and a TEXT ('' for the one that there is none of), or --data and --out")
        if data is not None and image is not None:
            raise ValueError("give IMAGE and TEXT, or --data and --out; not both")
        if data is None and out is not None:
            raise ValueError("--out is for --data; the prediction of one pair is printed")
        if data is not None and out is None and data != "-":
            raise ValueError(
                "--data needs --out: a .csv, .jsonl or .parquet file, a folder for parts, or - for JSON lines on "
                "standard output"
            )
        if data is None and processes is not None:
            raise ValueError("--processes is for --data; one pair takes one process")
        wants_fast = compile_ or dtype is not None or int8 or min_agreement is not None
        if data is None and wants_fast:
            raise ValueError("--compile, --dtype, --int8 and --min-agreement are for --data, not for one pair")
        if data is None:
            _classify_one(str(image), text, on_bad_row.value, _model_or_shipped(model, quiet), as_json)
        else:
            from .launch import start, wanted

            stream = "-" in (data, out)  # of one process, by itself
            if (count := 1 if stream and processes is None else wanted(processes)) > 1:
                raise typer.Exit(start(count, sys.argv[1:]))
            from .classify_table import classify_table
            from .fast import Fast

            share = {} if min_agreement is None else {"min_agreement": min_agreement}
            counts = classify_table(
                data,
                out or "-",
                model=_model_or_shipped(model, quiet),
                split=split,
                image_column=image_column,
                text_column=text_column,
                on_bad_row=on_bad_row.value,
                batch_size=batch_size,
                workers=workers,
                fast=Fast(compile_, dtype and dtype.value, int8, **share) if wants_fast else None,
                part_rows=part_rows,
                resume=resume,
                say=_remark(quiet or as_json),
                quiet=quiet or as_json,
            )
            if counts and as_json and out not in (None, "-"):
                print(json.dumps(counts))


@app.command()
def train(
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
        typer.Option(help="Regions of a picture to a side at most; 0 is what the ResNet gives.  [default: 4]"),
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
    precision: PrecisionOf = Precision.no,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.")] = 0,
    workers: Workers = 0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read the rows one after another, of data too large to be loaded.")
    ] = False,
    shuffle_buffer: Annotated[
        int, typer.Option(help="With --stream: rows that are held to change their order.")
    ] = 1000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT, from its newest whole checkpoint.")
    ] = False,
    checkpoint_steps: Annotated[int, typer.Option(help="Steps from one checkpoint to the next; 0 counts none.")] = 0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes from one to the next; 0 uses no clock.")] = 15.0,
    keep: Annotated[int, typer.Option(help="How many checkpoints stay.")] = 2,
    skip_nonfinite: Annotated[
        bool, typer.Option("--skip-nonfinite", help="Leave out steps whose loss is not finite, instead of stopping.")
    ] = False,
    processes: Processes = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fine-tune on labelled pairs; keeps the best epoch's model in OUT/model and the record in OUT/run.json."""
    with _reported(debug):
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
        from .launch import start, wanted

        if (count := wanted(processes)) > 1:
            raise typer.Exit(start(count, sys.argv[1:]))
        from .train import train as run

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
            say=_remark(quiet or as_json),
            quiet=quiet or as_json,
            alignment_weight=alignment_weight,
            architecture=architecture,
            objective=objective.value,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
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
            precision=precision.value,
            seed=seed,
            workers=workers,
            stream=stream,
            shuffle_buffer=shuffle_buffer,
            resume=resume,
            checkpoint_steps=checkpoint_steps,
            checkpoint_minutes=checkpoint_minutes,
            keep=keep,
            skip_nonfinite=skip_nonfinite,
            processes=processes,
            **options,
        )
        if as_json and _rank() == 0:
            print(json.dumps(record))


@app.command()
def tune(
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
    precision: PrecisionOf = Precision.no,
    seed: Annotated[int, typer.Option(help="Of what is tried, and of each run.")] = 0,
    workers: Workers = 0,
    cache: Cache = True,
    cache_dir: CacheDir = None,
    processes: Processes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in OUT; with more --trials if you like.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search learning rates, fusion and frozen parts: train many times, keep the best model in OUT/model.

    What an option fixes is not searched. OUT/trials.csv and OUT/trials.png show all trials.
    """
    with _reported(debug):
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
            "accumulate": accumulate,
            "learning_rate": learning_rate,
            "encoder_learning_rate": encoder_learning_rate,
            "class_weights": class_weights.value,
            "precision": precision.value,
            "seed": seed,
            "workers": workers,
            "cache": cache,
            "cache_dir": cache_dir,
        }
        if unfreeze_image is not None:
            given["unfreeze_image"] = _parts(unfreeze_image, "--unfreeze-image")
        if unfreeze_text is not None:
            given["unfreeze_text"] = _parts(unfreeze_text, "--unfreeze-text")
        from .launch import start, wanted

        if (count := wanted(processes)) > 1:
            raise typer.Exit(start(count, sys.argv[1:]))
        from .tune import tune as run
        from .tune_report import sweep_text

        found = run(
            data,
            out,
            trials=trials,
            fusions=None if fusions is None else [name.strip() for name in fusions.split(",")],
            say=_remark(quiet or as_json),
            quiet=quiet or as_json,
            resume=resume,
            processes=processes,
            **given,
        )
        if _rank() == 0:
            print(json.dumps(found) if as_json else f"{sweep_text(found)}\n{_train_command(data, found['options'])}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder or a Hub id.")],
    data: Annotated[str, typer.Argument(help="Labelled pairs, as for train.")],
    split: Split = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    batch_size: BatchSize = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a model on labelled pairs: accuracy, macro-F1, AUROC; of lists of labels, F1 and mean average precision.

    The split is test if there are several.
    """
    with _reported(debug):
        from .evaluate import evaluate as run
        from .shown import evaluation_text

        figures = run(
            model,
            data,
            split=split,
            image_column=image_column,
            text_column=text_column,
            label_column=label_column,
            batch_size=batch_size,
            quiet=quiet or as_json,
        )
        print(json.dumps(figures) if as_json else evaluation_text(figures))


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="Pairs, with labels or without, as for train.")],
    split: Annotated[str | None, typer.Option(help="Check this split only; else all, and what they share.")] = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Count the texts in its tokens, not in words: a Hub id or a folder.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="With --text-encoder: longest text in word pieces.")] = 128,
    out: Annotated[str | None, typer.Option(help="A .csv, .jsonl or .parquet file for the bad rows.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read all data once, before anything is trained: what is in it, what is wrong, what to do.

    Ends with exit code 1 if something would break training, evaluating or classifying: data that
    cannot be read, a split without rows, a column that is missing, no usable image or text in a
    whole split, labels that are missing (a test split may have none at all), that are no labels or
    that training rows lack, one label for all rows, or one row for each label and no validation
    split. All else is a warning, and the exit code 0.
    """
    with _reported(debug):
        from .check import check as run
        from .check_report import report
        from .tables import to_json

        found = run(
            data,
            split=split,
            image_column=image_column,
            text_column=text_column,
            label_column=label_column,
            text_encoder=text_encoder,
            max_length=max_length,
            out=out,
            quiet=quiet or as_json,
        )
        print(to_json(found) if as_json else report(found))
        if not found["ok"]:
            raise typer.Exit(1)


@app.command()
def rank(
    model: Annotated[str, typer.Argument(help="A model trained with --objective align or --alignment-weight.")],
    image: Annotated[str | None, typer.Option(help="An image file, to rank --texts for.")] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(help="A text, or a file with one on each line; give it as often as you like."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="A sentence, to rank --images for.")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="An image file, or a folder of them; as often as you like.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pairs, as for train: say how well each half finds the other.")
    ] = None,
    split: Split = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: Annotated[
        str | None, typer.Option(help="With --data: also classify images by the names in this column, zero-shot.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many to show.")] = 10,
    batch_size: BatchSize = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank texts for an image, images for a text, or measure both on a table."""
    with _reported(debug):
        asked = [name for name, value in (("--image", image), ("--text", text), ("--data", data)) if value is not None]
        if len(asked) != 1:
            raise ValueError(
                "give one of --image (with --texts), --text (with --images) and --data; "
                f"got {' and '.join(asked) or 'none of them'}"
            )
        if data is not None:
            from .rank import rank_table
            from .shown import ranking_text

            figures = rank_table(
                model,
                data,
                split=split,
                image_column=image_column,
                text_column=text_column,
                label_column=label_column,
                batch_size=batch_size,
                quiet=quiet or as_json,
            )
            print(json.dumps(figures) if as_json else ranking_text(figures))
            return
        from .classify import ImageTextClassifier
        from .rank import images_of, texts_of
        from .shown import ranked_line
        from .tables import to_json

        classifier = ImageTextClassifier.from_pretrained(model)
        if image is not None:
            found = classifier.rank(image=image, texts=texts_of(texts or []), top=top)
        else:
            found = classifier.rank(text=text, images=images_of(images or []), top=top)
        for one in found:
            print(to_json(one) if as_json else ranked_line(one))


@app.command()
def info(
    cache: Annotated[bool, typer.Option("--cache", help="Show what the feature cache holds instead.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="With --cache: take it all away.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show the versions in use and the devices: what to put into a bug report. Or the feature cache."""
    with _reported(debug):
        if cache:
            from .features import cache_folder, cached_encoders, clear_cache
            from .shown import cache_text

            folder = cache_folder(cache_dir)
            entries = cached_encoders(folder)
            if clear:
                clear_cache(folder)
            print(json.dumps(entries) if as_json else cache_text(folder, entries, cleared=clear))
            return
        if clear or cache_dir is not None:
            raise ValueError("--clear and --cache-dir go with --cache")
        import platform
        from importlib.metadata import version

        import torch

        facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
        packages = ("diptych", "torch", "torchvision", "transformers", "datasets", "accelerate", "pillow")
        facts |= {package: version(package) for package in packages}
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["devices"] = devices or [f"CPU, {os.cpu_count()} cores"]
        if as_json:
            print(json.dumps(facts))
        else:
            for name, value in facts.items():
                print(f"{name:>14}  {', '.join(value) if isinstance(value, list) else value}")


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loaders fork after the tokenizer has been used
    # before torch is loaded: threads that spin while they wait make a busy machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_threads()
    try:
        app()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


@contextlib.contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Turn an error that a user can mend into one line and exit code 1; show it whole if `debug`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if debug:
            raise
        who = ""
        # mostly all processes fail alike: once the main one has said so, their launcher ends the others; a lost
        # connection is told after a while and with the process by itself (`Pulse`)
        if _rank() and not isinstance(error, ConnectionError):
            time.sleep(_HEAD_START)
            who = f"process {_rank()}: "
        print(f"diptych: {who}{' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as interrupt:  # a run that saved itself says what and how to go on
        if debug:
            raise
        told, code = str(interrupt), getattr(interrupt, "code", 130)
        if told or (code == 130 and not _rank()):
            print(f"diptych: {told or 'interrupted'}", file=sys.stderr)
        raise typer.Exit(code) from None


def _rank() -> int:
    """Which of several processes this is; 0 is the main one, which speaks."""
    return int(os.environ.get("RANK") or 0)


def _classify_one(image: str, text: str | None, on_bad_row: str, model: str | Path, as_json: bool) -> None:
    from .rows import Columns, read_pair

    # before a model is loaded, whether it can be decoded at all: the least scale will do
    pair = read_pair(0, {"image": image, "text": text}, Columns("image", "text"), at_least=(1, 1))
    if pair.bad and (on_bad_row != "mask" or pair.status == "both_missing"):
        raise ValueError(f"{pair.reason} ({pair.status})")
    from .classify import ImageTextClassifier
    from .shown import prediction_text
    from .tables import to_json

    found = ImageTextClassifier.from_pretrained(model)(image=image, text=text)
    print(to_json(found) if as_json else prediction_text(found, pair))


def _model_or_shipped(model: str | None, quiet: bool) -> str | Path:
    if model is not None:
        return model
    from .build import SHIPPED_MODEL

    silent = quiet or os.environ.get("RANK", "0") != "0"  # of several processes the first speaks
    _remark(silent)(
        "no --model: using the shipped Scenes model (is the sentence true of a drawing of coloured shapes?)"
    )
    return SHIPPED_MODEL


def _remark(quiet: bool) -> Any:
    """Say something beside the results: on standard error, or nowhere."""
    return (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr))


def _size(size: str) -> tuple[int, int]:
    height, _, width = size.lower().partition("x")
    if not height.isdigit() or (width and not width.isdigit()):
        raise ValueError(f"--image-size is {size!r}; give HEIGHTxWIDTH in pixels, such as 80x60, or one number")
    return int(height), int(width or height)


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


def _parts(count: str, option: str) -> int | None:
    if count == "all":
        return None
    if not count.isdigit():
        raise ValueError(f"{option} is {count!r}; give a number of parts, or all")
    return int(count)
