"""Product photos with titles: what fusion is worth beside each modality alone and simple methods.

    python examples/products.py DATA OUT --image-encoder EFFICIENTNET --text-encoder MINILM
    python examples/products.py DATA OUT --table
    python examples/products.py DATA examples/measured --table      # what was measured for the documents

Trains on the train split, of which the program holds a tenth out to choose the epoch and to calibrate, and is judged
on validation and test together. Each run is a line of OUT/products.jsonl; the command resumes. For each column and
seed: a model with both modalities, its encoders frozen; with the text encoder fine-tuned; text and image alone, each
trained for itself by the same recipe (the text fine-tuned); and both together by late fusion, the mean of their
log-probabilities. Differences are paired over rows, of the mean over the seeds, with 95 % intervals.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from typing import Any

import numpy as np
import torch
from study import LINEAR, Results, Study, answers, of_answers, study_options

FINE_TUNED: dict[str, Any] = {"unfreeze_text": 6, "encoder_learning_rate": 1.5e-4}
RUNS: dict[str, dict[str, Any]] = {
    "text alone, fine-tuned": {**FINE_TUNED, "text_only": True},
    "Diptych, fine-tuned": FINE_TUNED,
    "Diptych, frozen": {},
    "image alone": {"image_only": True},
}
LATE = "late fusion"


def main() -> None:
    """Run what is missing, and print the table."""
    options = study_options(__doc__, columns="season,label,colour,usage").parse_args()
    results = Results(options.out / "products.jsonl", ("column", "method", "seed"))
    if not options.table:
        study = Study(options)
        everyone = np.arange(len(study.train))
        for column in options.columns.split(","):
            for method in ("majority", *LINEAR):
                results.add(
                    lambda m=method, c=column: {"right": answers(study.linear(m, c, everyone))},
                    column=column,
                    method=method,
                    seed=0,
                )
        for methods in (list(RUNS)[:2], list(RUNS)[2:]):  # the first question is what fine-tuning gives
            for seed in range(options.seeds):
                for column in options.columns.split(","):
                    for method in methods:
                        cell = {"column": column, "method": method, "seed": seed}
                        results.add(lambda cell=cell: one_run(study, **cell), **cell)
                    late(study, results, options, column, seed)
    print_table(results, options)


def one_run(study: Study, column: str, method: str, seed: int) -> dict[str, Any]:
    """Train and judge; logits are kept beside, for late fusion."""
    folder = study.run("products", study.train, column, seed, **RUNS[method])
    name = next((view for view in ("text_only", "image_only") if view in RUNS[method]), "both")
    _, found = study.logits(folder, study.judged, column)
    kept = study.out / "logits" / f"{column} {seed} {method}.npy"
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, found[name].log_softmax(1).numpy())
    line = {"right": answers(found[name].argmax(1) == found["labels"])}
    if name == "both":
        line |= {f"right_{n}": answers(found[n].argmax(1) == found["labels"]) for n in ("text_only", "image_only")}
    shutil.rmtree(folder)
    return line


def late(study: Study, results: Results, options: Namespace, column: str, seed: int) -> None:
    """The mean log-probability of the models of one modality."""
    kept = [options.out / "logits" / f"{column} {seed} {m}.npy" for m in ("text alone, fine-tuned", "image alone")]
    if all(path.exists() for path in kept):
        names = sorted({str(value) for value in study.train[column]})
        truth = np.array([names.index(str(v)) if str(v) in names else -1 for v in study.judged[column]])
        mean = torch.from_numpy(np.mean([np.load(path) for path in kept], axis=0))
        results.add(lambda: {"right": answers(mean.argmax(1).numpy() == truth)}, column=column, method=LATE, seed=seed)


def print_table(results: Results, options: Namespace) -> None:
    """Accuracies, the range of the seeds, and what is paired with Diptych fine-tuned."""
    columns = [c for c in options.columns.split(",") if any(line["column"] == c for line in results.lines)]
    print(f"Diptych {results.versions()}: accuracy in %, mean of the seeds (their range)\n")
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for method in ("majority", *LINEAR, "image alone", "text alone, fine-tuned", LATE, *list(RUNS)[1:3]):
        cells = []
        for column in columns:
            each = [100 * right.mean() for right in runs(results, column, method).values()]
            spread = f" ({min(each):.1f} to {max(each):.1f}, seeds: {len(each)})" if len(each) > 1 else ""
            cells.append(f"{np.mean(each):.1f}{spread}" if each else "-")
        print(f"| {method} | " + " | ".join(cells) + " |")
    print("\n| difference in points (95 % interval) | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for ours, theirs in (
        ("Diptych, fine-tuned", "text alone, fine-tuned"),
        ("Diptych, fine-tuned", LATE),
        ("Diptych, frozen", "TF-IDF + features"),
    ):
        pairs = [(runs(results, column, ours), runs(results, column, theirs)) for column in columns]
        cells = [difference(*pair, same_seeds=theirs not in LINEAR) for pair in pairs]
        print(f"| {ours} - {theirs} | " + " | ".join(cells) + " |")


def runs(results: Results, column: str, method: str) -> dict[int, np.ndarray]:
    """By seed, which rows are right."""
    lines = [line for line in results.lines if (line["column"], line["method"]) == (column, method)]
    return {line["seed"]: of_answers(line["right"]) for line in lines}


def difference(ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray], *, same_seeds: bool) -> str:
    """Of the means over the seeds that both have, paired over rows; of all seeds where theirs has no chance in it."""
    seeds = {*ours} & {*theirs} if same_seeds else {*ours}
    if not seeds or not theirs:
        return "-"
    means = [
        np.mean([right for seed, right in of.items() if seed in seeds or not same_seeds], 0) for of in (ours, theirs)
    ]
    gain = 100 * (means[0] - means[1])
    half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    return f"{gain.mean():+.1f} ({gain.mean() - half:+.1f} to {gain.mean() + half:+.1f}; seeds: {len(seeds)})"


if __name__ == "__main__":
    main()
