"""What commands show to people: predictions, evaluations, rankings, in words and columns."""

from __future__ import annotations

from typing import Any

from .predictions import Prediction
from .rows import Pair


def prediction_text(found: Prediction, pair: Pair) -> str:
    """The label of a pair and the next four, the modality weights, and what became of the pair if it is not whole."""
    lines = [f"{found['label']}  {found['score']:.4f}"]
    ranked = sorted((found["scores"] or {}).items(), key=lambda item: -item[1])
    lines += [f"  {label}  {score:.4f}" for label, score in ranked[1:5]]
    if found["image_weight"] is not None:
        lines.append(f"weights: image {found['image_weight']:.2f}, text {found['text_weight']:.2f}")
    if found["status"] != "ok":
        half = "" if not pair.bad else f"; classified by the {'text' if pair.image is None else 'image'} alone"
        lines.append(f"{found['status']}: {found['reason']}{half}")
    return "\n".join(lines)


def evaluation_text(figures: dict[str, Any]) -> str:
    """Three lines of figures (both halves, each alone), then the modality weights."""
    lines = [
        f"{figures['rows']} rows; {figures['columns']}",
        f"{'':12}{'rows':>8}{'accuracy':>10}{'macro F1':>10}{'AUROC':>10}{'loss':>10}",
    ]
    both = {**figures, "rows": figures["rows"] - figures["without_prediction"]}
    for name, line in (("both", both), ("text only", figures["text_only"]), ("image only", figures["image_only"])):
        cells = [line.get(key) for key in ("accuracy", "macro_f1", "auroc", "loss")]
        shown = "".join("-".rjust(10) if cell is None else f"{cell:10.4f}" for cell in cells)
        lines.append(f"{name:12}{line['rows']:>8}{shown}")
    if figures["one_half"] or figures["without_prediction"]:
        lines.append(
            f"of these rows {figures['one_half']} have one half only; "
            f"{figures['without_prediction']} more have none, and get no prediction"
        )
    if figures["image_weight"] is not None:
        by_class = sorted(figures["image_weight_by_class"].items(), key=lambda item: item[1])
        (least, low), (most, high) = by_class[0], by_class[-1]
        lines.append(
            f"modality weights: image {figures['image_weight']:.2f}, text {figures['text_weight']:.2f}, "
            f"spread {figures['image_weight_spread']:.2f}; the image counts most in {most} ({high:.2f}), "
            f"least in {least} ({low:.2f})"
        )
    return "\n".join(lines)


def ranking_text(figures: dict[str, Any]) -> str:
    """Recall in both directions and zero-shot accuracy, each beside chance."""
    lines = [
        f"{figures['rows']} rows, {figures['images']} images and {figures['texts']} texts; {figures['columns']}",
        f"{'':28}{'':>10}{'chance':>10}{'times':>8}",
    ]
    keys = [(key, f"{key}_chance") for key in figures if "_recall_at_" in key and not key.endswith("_chance")]
    keys += [("zero_shot_accuracy", "zero_shot_chance")] if "zero_shot_accuracy" in figures else []
    for key, chance in keys:
        name = key.replace("_at_", "@").replace("_", " ")
        name += f" of {figures['classes']}" if key == "zero_shot_accuracy" else ""
        lines.append(f"{name:28}{figures[key]:10.4f}{figures[chance]:10.4f}{figures[key] / figures[chance]:8.1f}")
    return "\n".join(lines)


def ranked_line(one: Any) -> str:
    """Score, probability and the candidate; of one that cannot be used, why."""
    if one["score"] is None:
        return f"     -       -  {one['candidate']}: {one['reason']} ({one['status']})"
    return f"{one['score']:.4f}  {one['probability']:.4f}  {one['candidate']}"
