"""The command line: one function per command, heavy imports inside, errors in one line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime.cpus import limit_threads
from .options import (
    BatchSize,
    CacheDir,
    Debug,
    Dtype,
    ImageColumn,
    Json,
    LabelColumn,
    OnBadRow,
    Processes,
    Quiet,
    Split,
    TextColumn,
)
from .terminal import process_rank, remark, reported
from .train import train, tune

app = typer.Typer(
    name="diptych",
    help="Classify image + text pairs: ResNet regions and BERT words, fused by cross-modal attention.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="A folder for what it makes.")] = "diptych-demo",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show everything in two minutes, offline: classify, fine-tune on a new question, classify again."""
    with reported(debug):
        from ..demo.demo import demo as run

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
    with reported(debug):
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
            from ..runtime.launch import start, wanted

            stream = "-" in (data, out)  # of one process, by itself
            if (count := 1 if stream and processes is None else wanted(processes)) > 1:
                raise typer.Exit(start(count, sys.argv[1:]))
            from ..batch_inference.classify_table import classify_table
            from ..inference.fast_path import Fast

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
                say=remark(quiet or as_json),
                quiet=quiet or as_json,
            )
            if counts and as_json and out not in (None, "-"):
                print(json.dumps(counts))


app.command()(train)
app.command()(tune)


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
    with reported(debug):
        from ..evaluation.evaluate import evaluate as run
        from .info import evaluation_text

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
    with reported(debug):
        from ..check.check import check as run
        from ..check.text import report
        from ..data.writer import to_json

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
    with reported(debug):
        asked = [name for name, value in (("--image", image), ("--text", text), ("--data", data)) if value is not None]
        if len(asked) != 1:
            raise ValueError(
                "give one of --image (with --texts), --text (with --images) and --data; "
                f"got {' and '.join(asked) or 'none of them'}"
            )
        if data is not None:
            from ..evaluation.retrieval import rank_table
            from .info import ranking_text

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
        from ..data.writer import to_json
        from ..evaluation.retrieval import images_of, texts_of
        from ..inference.classifier import ImageTextClassifier
        from .info import ranked_line

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
    with reported(debug):
        if cache:
            from ..feature_cache.store import cache_folder, cached_encoders, clear_cache
            from .info import cache_text

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


def _classify_one(image: str, text: str | None, on_bad_row: str, model: str | Path, as_json: bool) -> None:
    from ..data.rows import Columns, read_pair

    # before a model is loaded, whether it can be decoded at all: the least scale will do
    pair = read_pair(0, {"image": image, "text": text}, Columns("image", "text"), at_least=(1, 1))
    if pair.bad and (on_bad_row != "mask" or pair.status == "both_missing"):
        raise ValueError(f"{pair.reason} ({pair.status})")
    from ..data.writer import to_json
    from ..inference.classifier import ImageTextClassifier
    from .info import prediction_text

    found = ImageTextClassifier.from_pretrained(model)(image=image, text=text)
    print(to_json(found) if as_json else prediction_text(found, pair))


def _model_or_shipped(model: str | None, quiet: bool) -> str | Path:
    if model is not None:
        return model
    from ..model.build import SHIPPED_MODEL

    silent = quiet or process_rank() > 0  # of several processes the first speaks
    remark(silent)("no --model: using the shipped Scenes model (is the sentence true of a drawing of coloured shapes?)")
    return SHIPPED_MODEL
