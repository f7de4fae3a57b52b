"""What commands show to people: predictions, evaluations, rankings, in words and columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.rows import Pair
from ..feature_cache.store import megabytes
from ..inference.predictions import Prediction


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


def cache_text(folder: Path, entries: list[dict[str, Any]], *, cleared: bool) -> str:
    """One line for each encoder whose features are kept, and what all of them take."""
    lines = [
        f"{entry['changed']}  {megabytes(entry['bytes']):>10}  {entry['items']:>9,}  {entry['key'][:8]}  "
        + ", ".join([entry["encoder"], *(f"grid {entry['grid']}" for _ in range("grid" in entry))])
        for entry in entries
    ]
    total = megabytes(sum(entry["bytes"] for entry in entries))
    return "\n".join([*lines, f"{total} in {folder}{', taken away' if cleared and entries else ''}"])
