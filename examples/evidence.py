"""Do modality weights and contributions tell what the modalities are worth? Tests whose answers are known beforehand.

    python examples/evidence.py DATA OUT --image-encoder EFFICIENTNET --text-encoder MINILM
    python examples/evidence.py DATA OUT --table

Over frozen encoders, on validation and test together, for each column and seed; OUT/evidence.jsonl keeps every result,
and the command resumes.

(a) Photos permuted among the rows, in training and when judged: the image is worth nothing.
(b) Trained on whole data; half of the judged photos are grey, noise, or another row's.
(c) Does the weight of the image follow what its removal does to the log-odds of the true class?
(d) Does removing the image change the label where the weight of the image is highest?
(e) In a random half of the rows the image, in the others the text, is another row's, in training too.
"""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from diptych.pipeline.model.contributions import contributions, log_odds
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from study import Results, Study, study_options, with_images
from torch import Tensor


def main() -> None:
    """Run what is missing, and print the table."""
    options = study_options(__doc__, columns="season,label").parse_args()
    results = Results(options.out / "evidence.jsonl", ("column", "test", "seed"))
    if not options.table:
        study = Study(options)
        cells = itertools.product(range(options.seeds), options.columns.split(","), (permuted, whole, mixed))
        for seed, column, test in cells:
            found = partial(test, study, column, seed)
            results.add(found, column=column, test=test.__name__, seed=seed)
    print_table(results)


def permuted(study: Study, column: str, seed: int) -> dict[str, Any]:
    """(a)."""
    rng = np.random.RandomState(seed)
    train, judged = (
        with_images(rows, [rows["image"][row] for row in rng.permutation(len(rows))])
        for rows in (study.train, study.judged)
    )
    model, batches = study.batches(study.run("evidence", train, column, seed), judged, column)
    found = look(model, batches)
    shutil.rmtree(study.out / "runs" / "evidence")
    weight = found["weights"][:, 0]
    return {
        "a: mean image weight": float(weight.mean()),
        "a: rows above 0.5": float((weight > 0.5).float().mean()),
        "a: image's share of contributions": float(share(found).mean()),
    }


def whole(study: Study, column: str, seed: int) -> dict[str, Any]:
    """(b), (c) and (d)."""
    run = study.run("evidence", study.train, column, seed)
    model, batches = study.batches(run, study.judged, column)
    found = look(model, batches)
    weight, labels = found["weights"][:, 0], found["labels"]
    known = labels >= 0
    answers = {name: found[name].argmax(1) for name in ("both", "text", "image", "equal")}
    removed = log_odds(found["both"][known], labels[known]) - log_odds(found["text"][known], labels[known])
    report = {
        "c: rank correlation": float(spearmanr(weight[known], removed).statistic),
        "c: standard deviation of the weight": float(weight.std()),
        "mean image weight": float(weight.mean()),
    }
    top = torch.zeros(len(weight), dtype=torch.bool)
    top[weight.argsort(descending=True)[: max(60, len(weight) // 10)]] = True
    without = {name: answers[name] != answers["both"] for name in ("text", "image")}
    report |= {
        "d: label changes without the image, top tenth": float(without["text"][top].float().mean()),
        "d: the same, other rows": float(without["text"][~top].float().mean()),
        "d: label changes without the text, top tenth": float(without["image"][top].float().mean()),
    }
    rng = np.random.RandomState(seed)
    half = rng.permutation(len(study.judged)) < len(study.judged) / 2
    others = rng.permutation(len(study.judged))
    intact = {name: float((answers[name] == labels).float().mean()) for name in ("both", "equal")}
    for kind, make in (
        ("grey", lambda row: {"bytes": png(np.full((80, 60, 3), 128))}),
        ("noise", lambda row: {"bytes": png(np.random.RandomState(row).randint(0, 256, (80, 60, 3)))}),
        ("another row's", lambda row: study.judged["image"][others[row]]),
    ):
        images = [make(row) if half[row] else image for row, image in enumerate(study.judged["image"])]
        model, batches = study.batches(run, with_images(study.judged, images), column)
        found = look(model, batches)
        fall = {n: intact[n] - float((found[n].argmax(1) == labels).float().mean()) for n in ("both", "equal")}
        report |= {
            f"b: AUROC of the weight, {kind}": float(roc_auc_score(~half, found["weights"][:, 0])),
            f"b: AUROC of the image's share of contributions, {kind}": float(roc_auc_score(~half, share(found))),
            f"b: points lost, {kind}": 100 * fall["both"],
            f"b: points lost with equal weights, {kind}": 100 * fall["equal"],
        }
    shutil.rmtree(run)
    return report


def mixed(study: Study, column: str, seed: int) -> dict[str, Any]:
    """(e)."""
    rng = np.random.RandomState(seed)
    (train, _), (judged, image_left) = (mix(rows, rng) for rows in (study.train, study.judged))
    model, batches = study.batches(study.run("evidence", train, column, seed), judged, column)
    found = look(model, batches)
    shutil.rmtree(study.out / "runs" / "evidence")
    right = (found["weights"][:, 0] > 0.5).numpy() == image_left
    return {"e: larger weight on the modality left alone": float(right.mean())}


def mix(rows: datasets.Dataset, rng: np.random.RandomState) -> tuple[datasets.Dataset, np.ndarray]:
    """Rows whose image, or else text, is another row's, and whether the image was left alone."""
    left = rng.permutation(len(rows)) < len(rows) / 2
    others = rng.permutation(len(rows))
    images, texts = rows["image"][:], rows["text"][:]
    changed = with_images(rows, [images[row if left[row] else others[row]] for row in range(len(rows))])
    texts = [texts[others[row] if left[row] else row] for row in range(len(rows))]
    return changed.remove_columns("text").add_column("text", texts), left


@torch.inference_mode()
def look(model: Any, batches: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
    """Of all rows: logits of both modalities, of each, and with equal weights; weights, contributions, labels."""
    model.eval()
    parts = []
    for batch in batches:
        image, text = model.encode(batch)
        rows = len(image.present)
        nobody = torch.zeros_like(image.present)
        output, shares = contributions(model, image, text)
        parts.append(
            {
                "both": output.logits,
                "text": model.fuse(replace(image, present=nobody), text).logits,
                "image": model.fuse(image, replace(text, present=nobody)).logits,
                "equal": model.fuse(image, text, modality_weights=torch.full((rows, 2), 0.5)).logits,
                "weights": output.modality_weights,
                "contributions": shares,
                "labels": batch["labels"],
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def share(found: dict[str, Tensor]) -> Tensor:
    """The image's share of the contributions, (rows,)."""
    parts = found["contributions"].abs()
    return parts[:, 0] / parts.sum(1).clamp(min=1e-9)


def png(pixels: np.ndarray) -> bytes:
    """An image file of (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
    return file.getvalue()


def print_table(results: Results) -> None:
    """A row for each figure, a column for each column of labels and seed; a dash where it was not run."""
    cells = sorted({(line["seed"], line["column"]) for line in results.lines})
    names = dict.fromkeys(name for line in results.lines for name in results.figures(line))
    print("| | " + " | ".join(f"{column}, seed {seed}" for seed, column in cells) + " |\n|" + "---|" * (len(cells) + 1))
    for name in sorted(names, key=lambda name: name[0]):
        found = {(line["seed"], line["column"]): line[name] for line in results.lines if name in line}
        print(f"| {name} | " + " | ".join(f"{found[cell]:.3f}" if cell in found else "-" for cell in cells) + " |")


if __name__ == "__main__":
    main()
