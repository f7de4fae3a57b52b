"""`diptych classify`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.options import READING, Reading
from ..inference.options import ClassifyOptions, Fast
from .command import command, option
from .options import Processes, Split, require_files_in_order
from .terminal import Show, process_rank, share_with

if TYPE_CHECKING:  # what a command reads by is loaded when it runs
    from ..data.rows import Pair
    from ..inference.predictions import Prediction


FAST = tuple(spec.name for spec in fields(Fast))


@command(
    Reading,
    ClassifyOptions,
    Fast,
    without=["label_column"],
    needs={"data": ["out", "split", "resume", "overwrite", "part_rows", "processes", *READING, *FAST]},
)
def classify(
    show: Show,
    image: Annotated[str | None, typer.Argument(help="An image file; '' for none.")] = None,
    text: Annotated[str | None, typer.Argument(help="A sentence; leave it out for none.")] = None,
    text_alone: Annotated[str | None, option("A sentence without an image.", "--text")] = None,
    model: Annotated[
        str | None,
        option("A run's folder, a model's folder or a Hub id.  [default: the shipped Scenes model]"),
    ] = None,
    data: Annotated[
        str | None,
        option("Many pairs: a .csv, .jsonl or .parquet file, a folder, a Hub id; - reads JSON lines.", panel="Data"),
    ] = None,
    out: Annotated[
        str | None,
        option(
            "Their predictions: a .csv, .jsonl or .parquet file, a folder of parts, - for JSON lines.",
            panel="Data",
        ),
    ] = None,
    split: Split = None,
    resume: Annotated[
        bool,
        option("Resume the run in OUT: parts that are whole are kept.", "--resume", panel="Data"),
    ] = False,
    overwrite: Annotated[
        bool, option("Replace what an earlier run has written to OUT.", "--overwrite", panel="Data")
    ] = False,
    part_rows: Annotated[
        int,
        option("Rows of each part of a folder, and of what processes share.", panel="Data"),
    ] = 10_000,
    processes: Processes = None,
    **options: Any,
) -> None:
    """Classify one pair, or a table of pairs.

    One: diptych classify IMAGE TEXT. Many: diptych classify --data DATA --out FILE. Of each pair the contributions say
    what each modality did for the answer, in log-odds of the label; they don't say that the answer is right.
    """
    if text_alone is not None:
        if image or text is not None:
            raise ValueError("--text is a sentence without an image; give IMAGE TEXT for both")
        image, text = "", text_alone
    fast = {name: options.pop(name) for name in FAST if name in options}
    if data is None:
        if image is None:
            raise ValueError(
                "give IMAGE and TEXT ('' for no image), --text for a sentence without an image, or --data and --out"
            )
        _classify_one(image, text, model, show, options)
        return
    if image is not None:
        raise ValueError("give IMAGE and TEXT, or --data and --out; not both")
    if out is None and data != "-":
        raise ValueError(
            "--data needs --out: a .csv, .jsonl or .parquet file, a folder for parts, or - for JSON lines on "
            "standard output"
        )
    if processes is not None or "-" not in (data, out):  # a stream is of one process, by itself
        share_with(processes)
    from ..batch_inference.classify_table import classify_table

    counts = classify_table(
        data,
        out or "-",
        model=_model_or_shipped(model, show),
        split=split,
        fast=Fast(**fast) if fast else None,
        part_rows=part_rows,
        resume=resume,
        overwrite=overwrite,
        say=show.remark,
        quiet=show.quiet,
        **options,
    )
    if counts and show.as_json and out not in (None, "-"):
        show.result(counts, str)


def _classify_one(image: str, text: str | None, model: str | None, show: Show, options: dict[str, Any]) -> None:
    from ..data.rows import Columns, read_pair

    require_files_in_order(image, text)
    # before a model is loaded, whether it can be decoded at all: the least scale will do
    pair = read_pair(0, {"image": image, "text": text}, Columns("image", "text"), at_least=(1, 1))
    if pair.bad and (options.get("on_bad_row", "mask") != "mask" or pair.status == "both_missing"):
        raise ValueError(f"{pair.reason} ({pair.status})")
    from ..inference.classifier import ImageTextClassifier

    classify = ImageTextClassifier.from_pretrained(_model_or_shipped(model, show))
    prediction = classify(image=image, text=text, **options)
    if prediction["label"] is None and not pair.bad:
        left = " and ".join(f"{name}s" for name in sorted(classify.model.config.left_out))
        raise ValueError(f"the model was trained without {left}: give it the other modality")
    show.result(prediction, lambda prediction: prediction_text(prediction, pair))


def _model_or_shipped(model: str | None, show: Show) -> str | Path:
    if model is not None:
        return model
    from ..demo.scenes import SHIPPED_MODEL

    if process_rank() == 0:  # of several processes the first prints
        show.remark(
            "no --model: using the shipped Scenes model (is the sentence true of a drawing of coloured shapes?)"
        )
    return SHIPPED_MODEL


def prediction_text(prediction: Prediction, pair: Pair) -> str:
    """The label of a pair, the next four, the contributions, and what became of the pair if it is not whole."""
    label, scores = prediction["label"], prediction["scores"] or {}
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    if isinstance(label, list):  # multi-label: whatever reaches its threshold, none among them
        lines = [", ".join(label) or "no label", *(f"  {name}  {score:.4f}" for name, score in ranked[:5])]
    else:
        lines = [f"{label}  {prediction['score']:.4f}", *(f"  {name}  {score:.4f}" for name, score in ranked[1:5])]
    of_image, of_text = prediction["image_contribution"], prediction["text_contribution"]
    if isinstance(of_image, float) and isinstance(of_text, float):
        lines.append(f"contributions to its log-odds: image {of_image:+.2f}, text {of_text:+.2f}")
    if prediction.get("abstained") is not None:
        lines.append("abstained: the score is too low to answer" if prediction["abstained"] else "answered")
    if (labels := prediction.get("label_set")) is not None:
        lines.append(f"set: {', '.join(labels) or 'no label'}")
    if prediction["status"] != "ok":
        alone = "" if not pair.bad else f"; classified by the {'text' if pair.image is None else 'image'} alone"
        lines.append(f"{prediction['status']}: {prediction['reason']}{alone}")
    return "\n".join(lines)
