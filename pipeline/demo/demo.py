"""`diptych demo`: everything in two minutes, offline, on the shipped model."""

from __future__ import annotations

import csv
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.evaluate import evaluate
from ..inference.classifier import ImageTextClassifier
from ..inference.predictions import Prediction
from ..runtime.outputs import writable_folder
from ..training.train import train
from .scenes import KINDS, SHIPPED_MODEL, make_questions, make_scenes

if TYPE_CHECKING:
    from datasets import Dataset

SEED = 2026
PICTURE_SIZE = 128  # pixels
FINE_TUNING: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "unfreeze_text": None,
    "encoder_learning_rate": 1e-3,
}


def demo(out: str | Path, *, say: Callable[[str], None] = print, quiet: bool = False) -> dict[str, Any]:
    """Classify with the shipped model, fine-tune it on a question it never saw, and classify with the result.

    Args:
        out: A folder for the pairs (`pairs/`), the fine-tuned model (`run/`) and the picture (`demo.png`).
        say: What to do with each line that tells how it goes.
        quiet: Show no progress bars.

    Returns:
        The figures: accuracy of the shipped model, of the fine-tuned one before and after, and seconds.

    Raises:
        ValueError: `out` cannot be written to.
    """
    started = time.perf_counter()
    folder = writable_folder(out)

    say("1. The shipped model, on 8 pairs it never saw: is the sentence true of the picture?\n")
    scenes = _two_of_each_kind(make_scenes(16, seed=SEED, size=PICTURE_SIZE))
    pairs = _save_pairs(scenes, folder / "pairs")
    predictions = ImageTextClassifier.from_pretrained(SHIPPED_MODEL)(pairs)
    truth = [scenes.features["label"].int2str(label) for label in scenes["label"]]
    _say_predictions(say, pairs, predictions, truth)

    say("\n2. Fine-tuning it on a question it never saw, with a new head: what colour is the triangle? (6 answers)\n")
    questions = {"train": make_questions(1200, seed=SEED), "validation": make_questions(300, seed=SEED + 1)}
    record = train(
        _splits(questions), folder / "run", model=SHIPPED_MODEL, say=say, quiet=quiet, processes=1, **FINE_TUNING
    )

    say("\n3. The model just saved, loaded again, on 300 new pictures\n")
    fresh = make_questions(300, seed=SEED + 2, size=PICTURE_SIZE)
    figures = evaluate(folder / "run", fresh, quiet=True)
    say(f"accuracy {figures['accuracy']:.1%}; guessing gives {1 / 6:.1%}\n")
    asked = [{"image": row["image"], "text": row["text"]} for row in fresh.select(range(8))]
    answers = ImageTextClassifier.from_pretrained(folder / "run")(asked)
    right = [fresh.features["label"].int2str(label) for label in fresh[:8]["label"]]
    _say_predictions(say, asked, answers, right)

    picture = folder / "demo.png"
    _draw(picture, [*pairs[2:6], *asked[:4]], [*predictions[2:6], *answers[:4]], [*truth[2:6], *right[:4]])
    seconds = time.perf_counter() - started
    say(f"\n{seconds:.0f} s. The pairs above as a picture: {picture}\nNow you:\n")
    asked[0]["image"].save(folder / "question.png")
    say(f'    diptych classify {pairs[0]["image"]} "{pairs[0]["text"]}"')
    say(f'    diptych classify {folder / "question.png"} "{asked[0]["text"]}" --model {folder / "run"}')
    say(f"    diptych classify --data {folder / 'pairs'} --out {folder / 'predictions.csv'}")
    return {
        "shipped_right": sum(p["label"] == t for p, t in zip(predictions, truth, strict=True)),
        "before": record["start"]["accuracy"],
        "after": figures["accuracy"],
        "seconds": round(seconds, 1),
        "picture": str(picture),
    }


def _splits(splits: dict[str, Dataset]) -> Any:
    from datasets import DatasetDict

    return DatasetDict(splits)


def _two_of_each_kind(scenes: Dataset) -> Dataset:
    """A true and a false pair of each kind of sentence."""
    chosen = {(row["kind"], row["label"]): number for number, row in enumerate(scenes)}
    return scenes.select([chosen[kind, label] for kind in KINDS for label in (1, 0)])


def _save_pairs(scenes: Dataset, folder: Path) -> list[dict[str, Any]]:
    """Save the pairs as files that `diptych classify --data` reads: an image folder with a table."""
    folder.mkdir(exist_ok=True)
    pairs = []
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text", "label"])
        for number, row in enumerate(scenes):
            row["image"].save(folder / f"{number}.png")
            table.writerow([f"{number}.png", row["text"], scenes.features["label"].int2str(row["label"])])
            pairs.append({"image": folder / f"{number}.png", "text": row["text"]})
    return pairs


def _say_predictions(
    say: Callable[[str], None], pairs: Sequence[dict[str, Any]], predictions: Sequence[Prediction], truth: Sequence[str]
) -> None:
    say(f"   {'answer':<8}{'score':>6}  {'truth':<8}{'image':>6}{'text':>6}  sentence")
    for pair, found, right in zip(pairs, predictions, truth, strict=True):
        mark = "+" if found["label"] == right else "-"
        weights = f"{found['image_weight']:6.2f}{found['text_weight']:6.2f}"
        say(f" {mark} {found['label']:<8}{found['score']:6.3f}  {right:<8}{weights}  {pair['text']}")


def _draw(path: Path, pairs: Sequence[dict[str, Any]], found: Sequence[Prediction], truth: Sequence[str]) -> None:
    """A picture of the pairs: image, sentence, prediction, and how much each half counted."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    columns, rows = 4, -(-len(pairs) // 4)
    layout = ConstrainedLayoutEngine(h_pad=0.15, w_pad=0.1)
    figure = Figure(figsize=(2.6 * columns, 3.7 * rows), layout=layout)
    cells = figure.subplots(2 * rows, columns, height_ratios=[10, 1] * rows)
    for index, (pair, prediction, right) in enumerate(zip(pairs, found, truth, strict=True)):
        top, bar = cells[2 * (index // columns)][index % columns], cells[2 * (index // columns) + 1][index % columns]
        image = pair["image"]
        top.imshow(Image.open(image) if isinstance(image, (str, Path)) else image)
        top.set_title("\n".join(textwrap.wrap(pair["text"], 26)), fontsize=10, loc="left")
        verdict = f"{prediction['label']}  {prediction['score']:.2f}"
        is_right = prediction["label"] == right
        top.set_xlabel(
            verdict if is_right else f"{verdict}   (is {right})",
            fontsize=11,
            fontweight="bold",
            color="#1a7f37" if is_right else "#b42318",
            loc="left",
        )
        top.set_xticks([])
        top.set_yticks([])
        image_weight, text_weight = prediction["image_weight"] or 0.0, prediction["text_weight"] or 0.0
        bar.barh(0, image_weight, color="#3b6fb6")
        bar.barh(0, text_weight, left=image_weight, color="#d9a441")
        for x, name, ha in ((0.02, f"image {image_weight:.2f}", "left"), (0.98, f"text {text_weight:.2f}", "right")):
            bar.text(x, 0, name, ha=ha, va="center", fontsize=8, color="white")
        bar.set_xlim(0, 1)
        bar.axis("off")
    figure.savefig(path, dpi=110)
