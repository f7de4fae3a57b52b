"""`diptych evaluate`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .options import BatchSize, Debug, ImageColumn, Json, LabelColumn, Quiet, Split, TextColumn
from .terminal import one_line_errors


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
    with one_line_errors(debug):
        from ..evaluation.evaluate import evaluate as run

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


def evaluation_text(figures: dict[str, Any]) -> str:
    """Three lines of figures (both halves, each alone), then the modality weights."""
    names = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "loss": "loss"}
    if "mean_average_precision" in figures:
        names = {"micro_f1": "micro F1", "macro_f1": "macro F1", "mean_average_precision": "mAP", "loss": "loss"}
    lines = [
        f"{figures['rows']} rows; {figures['columns']}",
        f"{'':12}{'rows':>8}" + "".join(name.rjust(10) for name in names.values()),
    ]
    both = {**figures, "rows": figures["rows"] - figures["without_prediction"]}
    for name, line in (("both", both), ("text only", figures["text_only"]), ("image only", figures["image_only"])):
        cells = [line.get(key) for key in names]
        shown = "".join("-".rjust(10) if cell is None else f"{cell:10.4f}" for cell in cells)
        lines.append(f"{name:12}{line['rows']:>8}{shown}")
    if figures["one_half"] or figures["without_prediction"]:
        lines.append(
            f"of these rows {figures['one_half']} have one half only; "
            f"{figures['without_prediction']} more have none, and get no prediction"
        )
    if figures["image_weight"] is not None and figures["image_weight_by_class"]:
        by_class = sorted(figures["image_weight_by_class"].items(), key=lambda item: item[1])
        (least, low), (most, high) = by_class[0], by_class[-1]
        lines.append(
            f"modality weights: image {figures['image_weight']:.2f}, text {figures['text_weight']:.2f}, "
            f"spread {figures['image_weight_spread']:.2f}; the image counts most in {most} ({high:.2f}), "
            f"least in {least} ({low:.2f})"
        )
    return "\n".join(lines)
