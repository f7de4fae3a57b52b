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
from ..runtime.outputs import own_folder
from ..training.train import train
from .scenes import KINDS, SHIPPED_MODEL, make_questions, make_scenes

if TYPE_CHECKING:
    from datasets import Dataset

SEED = 2026
PICTURE_SIZE = 128  # pixels
POOL = 400
"""New pairs among which the hardest is looked for."""
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
        say: What to do with each line.
        quiet: Show no progress bars.

    Returns:
        How many of the pairs the shipped model judged right, the accuracy of the fine-tuned one before and after
        training, and seconds.

    Raises:
        ValueError: `out` holds files of others, or cannot be written to.
    """
    from datasets import DatasetDict

    started = time.perf_counter()
    folder = own_folder(out)

    say("1. The shipped model, on pairs it never saw: is the sentence true of the picture?")
    say(f"   Two of each kind of sentence, and last the hardest of {POOL} pairs.\n")
    classify = ImageTextClassifier.from_pretrained(SHIPPED_MODEL)
    pool = make_scenes(POOL, seed=SEED, size=PICTURE_SIZE)
    scenes = pool.select([*_two_of_each_kind(pool), _hardest(pool, classify)])
    pairs = _save_pairs(scenes, folder / "pairs")
    predictions = classify(pairs)
    truth = [scenes.features["label"].int2str(label) for label in scenes["label"]]
    _say_predictions(say, pairs, predictions, truth)

    say("\n2. Fine-tuning it on a question it never saw, with a new head: what colour is the triangle? (6 answers)\n")
    questions = {"train": make_questions(1200, seed=SEED), "validation": make_questions(300, seed=SEED + 1)}
    record = train(
        DatasetDict(questions),
        folder / "run",
        model=SHIPPED_MODEL,
        overwrite=True,
        say=say,
        quiet=quiet,
        processes=1,
        **FINE_TUNING,
    )

    say("\n3. The model just saved, loaded again, on 300 new pictures\n")
    fresh = make_questions(300, seed=SEED + 2, size=PICTURE_SIZE)
    metrics = evaluate(folder / "run", fresh, quiet=True)
    say(f"accuracy {metrics['accuracy']:.1%}; guessing gives {1 / 6:.1%}\n")
    asked = [{"image": row["image"], "text": row["text"]} for row in fresh.select(range(8))]
    answers = ImageTextClassifier.from_pretrained(folder / "run")(asked)
    right = [fresh.features["label"].int2str(label) for label in fresh[:8]["label"]]
    _say_predictions(say, asked, answers, right)

    picture = folder / "demo.png"
    shown = [2, 4, 6, 8]  # binding, relation, counting, and the hardest
    _draw(
        picture,
        {
            "Is the sentence true of the picture?": [(pairs[i], predictions[i], truth[i]) for i in shown],
            "After fine-tuning: a question the model never saw": list(zip(asked, answers, right, strict=True))[:4],
        },
    )
    seconds = time.perf_counter() - started
    say(f"\n{seconds:.0f} s. The pairs above as a picture: {picture}\nNow you:\n")
    asked[0]["image"].save(folder / "question.png")
    say(f'    diptych classify {pairs[0]["image"]} "{pairs[0]["text"]}"')
    say(f'    diptych classify {folder / "question.png"} "{asked[0]["text"]}" --model {folder / "run"}')
    say(f"    diptych classify --data {folder / 'pairs'} --out {folder / 'predictions.csv'}")
    return {
        "shipped_right": sum(p["label"] == t for p, t in zip(predictions, truth, strict=True)),
        "before": record["start"]["accuracy"],
        "after": metrics["accuracy"],
        "seconds": round(seconds, 1),
        "picture": str(picture),
    }


def _two_of_each_kind(scenes: Dataset) -> list[int]:
    """A true and a false pair of each kind of sentence, by number."""
    kinds, labels = scenes["kind"], scenes["label"]
    first = {key: number for number, key in reversed(list(enumerate(zip(kinds, labels, strict=True))))}
    return [first[kind, label] for kind in KINDS for label in (1, 0)]


def _hardest(scenes: Dataset, classify: ImageTextClassifier) -> int:
    """The pair whose true label has the lowest score, by number."""
    predictions = classify([{"image": row["image"], "text": row["text"]} for row in scenes])
    truth = [scenes.features["label"].int2str(label) for label in scenes["label"]]
    scores = [(prediction["scores"] or {})[label] for prediction, label in zip(predictions, truth, strict=True)]
    return scores.index(min(scores))


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
    say(f"   {'contributions':>38}")
    say(f"   {'answer':<8}{'score':>6}  {'truth':<8}{'image':>7}{'text':>7}  sentence")
    for pair, prediction, label in zip(pairs, predictions, truth, strict=True):
        mark = "+" if prediction["label"] == label else "-"
        shares = "".join(f"{share:+7.2f}" for share in _shares(prediction))
        say(f" {mark} {prediction['label']:<8}{prediction['score']:6.3f}  {label:<8}{shares}  {pair['text']}")


def _shares(prediction: Prediction) -> list[Any]:
    return [prediction["image_contribution"], prediction["text_contribution"]]


def _draw(path: Path, rows: dict[str, list[tuple[dict[str, Any], Prediction, str]]]) -> None:
    """A picture of pairs, a titled row of four each: image, sentence, answer, truth, and what each modality did."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    figure = Figure(figsize=(10.4, 8.6), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1))
    parts: Any = figure.subfigures(len(rows), 1)
    given = [_shares(prediction) for row in rows.values() for _, prediction, _ in row]
    most = 1.05 * max(abs(share) for shares in given for share in shares)
    for part, (title, row) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, fontsize=13, fontweight="bold")
        cells = part.subplots(2, 4, height_ratios=[14, 1])
        for (pair, prediction, label), top, bar in zip(row, *cells, strict=True):
            image = pair["image"]
            top.imshow(Image.open(image) if isinstance(image, (str, Path)) else image)
            top.set_title("\n".join(textwrap.wrap(pair["text"], 32)), fontsize=10, loc="left")
            answer = f"{prediction['label']}  {prediction['score']:.2f}  (truth: {label})"
            colour = "#1a7f37" if prediction["label"] == label else "#b42318"
            top.set_xlabel(answer, fontsize=10.5, fontweight="bold", color=colour, loc="left")
            top.set(xticks=[], yticks=[])
            shares = _shares(prediction)
            bar.barh((1, 0), shares, color=("#3b6fb6", "#d9a441"))
            bar.axvline(0, color="#5b6470", linewidth=0.8)
            for name, share, x, ink in (("image", shares[0], 0, "#2f5c9c"), ("text", shares[1], 1, "#805300")):
                where: dict[str, Any] = {"ha": "right" if x else "left", "va": "top", "transform": bar.transAxes}
                bar.text(x, -0.2, f"{name} {share:+.1f}", fontsize=10, color=ink, **where)
            bar.set(xlim=(-most, most), xticks=[], yticks=[])
            bar.set_frame_on(False)
    caption = "Bars: what each modality contributes to the log-odds of the answer; to the left what speaks against it."
    figure.supxlabel(caption, fontsize=10)
    figure.savefig(path, dpi=110)
