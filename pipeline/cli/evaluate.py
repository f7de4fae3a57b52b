"""`diptych evaluate`."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ..data.options import Reading
from ..evaluation.missing import Missing
from ..runtime.files import user_path
from .command import command, option
from .options import BatchSize, Model, Split
from .terminal import Show

FEW = 100
"""With fewer rows a warning is printed: the intervals are wide."""


@command(Reading, Missing)
def evaluate(
    show: Show,
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled pairs, as for train.")],
    split: Split = None,
    batch_size: BatchSize = 64,
    by_class: Annotated[bool, option("Print precision, recall and F1 of every class.", "--by-class")] = False,
    emap_exact: Annotated[
        bool, option("Compute EMAP from all pairs of images and texts, not 32 for each of 500 rows.", "--emap-exact")
    ] = False,
    out: Annotated[
        str | None,
        option("Folder of the picture coverage.png: accuracy by rows answered.  [default: of the run]", panel="Output"),
    ] = None,
    **options: Any,
) -> None:
    """Measure a model on labelled pairs.

    Prints accuracy, macro-F1 and AUROC; of lists of labels F1 and mean average precision.
    The split is test if there are several. Then what the image is worth: beside the model's own
    answers those without a half, those with the images of other rows (swapped), and those of the
    additive projection (EMAP), in which image and text cannot interact.
    """
    from ..evaluation.evaluate import evaluate as run

    metrics = run(
        model,
        data,
        split=split,
        batch_size=batch_size,
        say=show.remark,
        quiet=show.quiet,
        emap_exact=emap_exact,
        out=_run_folder(model) if out is None else out,
        **options,
    )
    show.result(metrics, lambda metrics: evaluation_text(metrics, by_class=by_class))


def _run_folder(model: str) -> str | None:
    """The run's folder, if a model is one that can be written to."""
    folder = user_path(model)
    return model if (folder / "run.json").exists() and os.access(folder, os.W_OK) else None


def evaluation_text(metrics: dict[str, Any], *, by_class: bool = False) -> str:
    """Metrics of both modalities and of each alone, and whether the image was worth it."""
    names = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "loss": "loss"}
    if "mean_average_precision" in metrics:
        names = {"micro_f1": "micro F1", "macro_f1": "macro F1", "mean_average_precision": "mAP", "loss": "loss"}
    lines = [
        f"{metrics['rows']} rows; {metrics['columns']}",
        trained_on_text(metrics["rows"], metrics["trained_on"]),
        *([f"missing on purpose: a modality of {metrics['missing']}"] if metrics["missing"] else []),
        f"{'':12}{'rows':>8}" + "".join(name.rjust(10) for name in names.values()),
    ]
    both = {**metrics, "rows": metrics["rows"] - metrics["without_prediction"]}
    for name, line in (("both", both), ("text only", metrics["text_only"]), ("image only", metrics["image_only"])):
        cells = [line.get(key) for key in names]
        shown = "".join("-".rjust(10) if cell is None else f"{cell:10.4f}" for cell in cells)
        lines.append(f"{name:12}{line['rows']:>8}{shown}")
    if metrics["one_half"] or metrics["without_prediction"]:
        none = metrics["without_prediction"]
        more = f"; {none} more have none, and get no prediction" if none else ""
        lines.append(f"of these rows {metrics['one_half']} have one modality only{more}")
    if "worth" in metrics:
        lines += _worth_lines(metrics["worth"])
    if by_class:
        width = max(map(len, metrics["by_class"]))
        lines.append(f"{'':{width}}{'rows':>8}{'precision':>11}{'recall':>9}{'F1':>9}")
        lines += [
            f"{name:{width}}{row['rows']:>8}{row['precision']:11.3f}{row['recall']:9.3f}{row['f1']:9.3f}"
            for name, row in metrics["by_class"].items()
        ]
    return "\n".join(lines)


def trained_on_text(rows: int, trained_on: int | None) -> str:
    """How many of the rows the model was trained on."""
    if trained_on is None:
        return "how many of them the model was trained on is not known: it is of an earlier version, or of a stream"
    if not trained_on:
        return f"the model was trained on 0 of these {rows} rows"
    return f"warning: the model was trained on {trained_on} of these {rows} rows, so that new ones may do worse"


def _worth_lines(worth: dict[str, Any]) -> list[str]:
    """Accuracies with their intervals, differences from both modalities, and the sentence."""
    titles = {
        "majority": "majority class",
        "both": "with both",
        "text_only": "without image",
        "image_only": "without text",
        "swapped": "images swapped",
        "additive": "additive (EMAP)",
    }
    lines = [f"{'':16}{'right':>8}{'95 % interval':>18}{'both is better by':>26}"]
    for name, title in titles.items():
        if name in worth["accuracy"]:
            share, low, high = worth["accuracy"][name]
            gain = worth["differences"].get(f"both - {name}")
            shown = "" if gain is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in gain))
            lines.append(f"{title:16}{share:8.1%}{f'{low:.1%} to {high:.1%}':>18}{shown:>26}")
    if 0 < worth["sampled_rows"] < worth["rows"]:
        lines.append(f"(swapped and additive: {worth['sampled_rows']} of {worth['rows']} rows)")
    if worth["rows"] < FEW:
        lines.append(f"warning: {worth['rows']} rows are few; from {FEW} on such figures say more")
    return [*lines, worth["sentence"]]
