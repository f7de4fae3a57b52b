"""`diptych classify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..data.rows import Pair
from ..inference.predictions import Prediction
from .options import Debug, Dtype, ImageColumn, Json, OnBadRow, Processes, Quiet, Split, TextColumn
from .terminal import one_line_errors, process_rank, remark


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
    with one_line_errors(debug):
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


def _classify_one(image: str, text: str | None, on_bad_row: str, model: str | Path, as_json: bool) -> None:
    from ..data.rows import Columns, read_pair

    # before a model is loaded, whether it can be decoded at all: the least scale will do
    pair = read_pair(0, {"image": image, "text": text}, Columns("image", "text"), at_least=(1, 1))
    if pair.bad and (on_bad_row != "mask" or pair.status == "both_missing"):
        raise ValueError(f"{pair.reason} ({pair.status})")
    from ..data.values import to_json
    from ..inference.classifier import ImageTextClassifier

    found = ImageTextClassifier.from_pretrained(model)(image=image, text=text)
    print(to_json(found) if as_json else prediction_text(found, pair))


def _model_or_shipped(model: str | None, quiet: bool) -> str | Path:
    if model is not None:
        return model
    from ..demo.scenes import SHIPPED_MODEL

    silent = quiet or process_rank() > 0  # of several processes the first speaks
    remark(silent)("no --model: using the shipped Scenes model (is the sentence true of a drawing of coloured shapes?)")
    return SHIPPED_MODEL


def prediction_text(found: Prediction, pair: Pair) -> str:
    """The label of a pair and the next four, the modality weights, and what became of the pair if it is not whole."""
    label, ranked = found["label"], sorted((found["scores"] or {}).items(), key=lambda item: -item[1])
    if isinstance(label, list):  # multi-label: whatever reaches its threshold, none among them
        lines = [", ".join(label) or "no label", *(f"  {name}  {score:.4f}" for name, score in ranked[:5])]
    else:
        lines = [f"{label}  {found['score']:.4f}", *(f"  {name}  {score:.4f}" for name, score in ranked[1:5])]
    if found["image_weight"] is not None:
        lines.append(f"weights: image {found['image_weight']:.2f}, text {found['text_weight']:.2f}")
    if found["status"] != "ok":
        half = "" if not pair.bad else f"; classified by the {'text' if pair.image is None else 'image'} alone"
        lines.append(f"{found['status']}: {found['reason']}{half}")
    return "\n".join(lines)
