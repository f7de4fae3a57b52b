"""`diptych evaluate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..data.options import Reading
from .command import command
from .options import BatchSize, Split
from .terminal import Show


@command(Reading)
def evaluate(
    show: Show,
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder or a Hub id.")],
    data: Annotated[str, typer.Argument(help="Labelled pairs, as for train.")],
    split: Split = None,
    batch_size: BatchSize = 64,
    **reading: Any,
) -> None:
    """Measure a model on labelled pairs.

    Prints accuracy, macro-F1 and AUROC; of lists of labels F1 and mean average precision.
    The split is test if there are several.
    """
    from ..evaluation.evaluate import evaluate as run

    metrics = run(
        model,
        data,
        split=split,
        batch_size=batch_size,
        say=show.remark,
        quiet=show.quiet,
        **reading,
    )
    show.result(metrics, evaluation_text)


def evaluation_text(metrics: dict[str, Any]) -> str:
    """Three lines of metrics (both modalities, each alone), then the modality weights."""
    names = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "loss": "loss"}
    if "mean_average_precision" in metrics:
        names = {"micro_f1": "micro F1", "macro_f1": "macro F1", "mean_average_precision": "mAP", "loss": "loss"}
    lines = [
        f"{metrics['rows']} rows; {metrics['columns']}",
        f"{'':12}{'rows':>8}" + "".join(name.rjust(10) for name in names.values()),
    ]
    both = {**metrics, "rows": metrics["rows"] - metrics["without_prediction"]}
    for name, line in (("both", both), ("text only", metrics["text_only"]), ("image only", metrics["image_only"])):
        cells = [line.get(key) for key in names]
        shown = "".join("-".rjust(10) if cell is None else f"{cell:10.4f}" for cell in cells)
        lines.append(f"{name:12}{line['rows']:>8}{shown}")
    if metrics["one_half"] or metrics["without_prediction"]:
        lines.append(
            f"of these rows {metrics['one_half']} have one modality only; "
            f"{metrics['without_prediction']} more have none, and get no prediction"
        )
    if metrics["image_weight"] is not None and metrics["image_weight_by_class"]:
        by_class = sorted(metrics["image_weight_by_class"].items(), key=lambda item: item[1])
        (least, low), (most, high) = by_class[0], by_class[-1]
        lines.append(
            f"modality weights: image {metrics['image_weight']:.2f}, text {metrics['text_weight']:.2f}, "
            f"spread {metrics['image_weight_spread']:.2f}; the image counts most in {most} ({high:.2f}), "
            f"least in {least} ({low:.2f})"
        )
    return "\n".join(lines)
