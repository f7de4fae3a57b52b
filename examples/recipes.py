"""The default command at several sizes, beside simple methods: what the recipes were chosen by, and how they do.

    python examples/recipes.py DATA OUT --image-encoder EFFICIENTNET --text-encoder MINILM
    python examples/recipes.py DATA OUT ... --judge train      # on rows held out of train: for choosing
    python examples/recipes.py DATA OUT --table

Each run trains on so many rows of train, of which the program holds a tenth out to validate with, and is judged on
validation and test together. Every result is a line of OUT/recipes.jsonl; what stands there is not computed again, and
with `examples/measured` as OUT, --table prints what was measured for the documents.

Methods: TF-IDF (words and pairs of words) + logistic regression; a linear probe on the mean word state; logistic
regression on TF-IDF and the mean features of both encoders; the default command with both modalities, the same model
with one of them taken away, and (`--alone`) models that were given only one.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
from study import LINEAR, Results, Study, study_options


def main() -> None:
    """Run what is missing, and print the table."""
    parser = study_options(__doc__, columns="label,season,colour")
    parser.add_argument("--sizes", default="200,500,1000,4393")
    parser.add_argument("--name", default="default", help="Of --options, in the table")
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    results = Results(options.out / "recipes.jsonl", ("column", "size", "seed", "method"))
    alone = [f"{options.name}, text alone", f"{options.name}, image alone"] if options.alone else []
    if not options.table:
        study = Study(options)
        cells = [
            {"column": column, "size": int(size), "seed": seed, "method": method}
            for seed in range(options.seeds)  # a table of one seed is there first
            for size in options.sizes.split(",")
            for column in options.columns.split(",")
            for method in (*LINEAR, options.name, *alone)
        ]
        for cell in cells:
            results.add(lambda cell=cell: judged(study, options.name, **cell), **cell)
    print_table(results, options.seeds)


def judged(study: Study, name: str, *, column: str, size: int, seed: int, method: str) -> dict[str, Any]:
    """Accuracy of one method in one cell."""
    rows = np.random.RandomState(seed).permutation(len(study.train))[:size]
    if method in LINEAR:
        return {"accuracy": float(study.linear(method, column, rows).mean())}
    only = {"text alone": "text_only", "image alone": "image_only"}.get(method.removeprefix(f"{name}, "), "both")
    more = {} if only == "both" else {only: True}
    run = study.run("recipes", study.train.select(rows), column, seed, **more)
    _, found = study.logits(run, study.judged, column)
    accuracy = {n: float((found[n].argmax(1) == found["labels"]).float().mean()) for n in ("both", *VIEWS)}
    steps = json.loads((run / "run.json").read_text())["steps"]
    shutil.rmtree(run)
    views = {view: accuracy[view] for view in VIEWS} if only == "both" else {}
    return {"accuracy": accuracy[only], "steps": steps, **views}


VIEWS = {"text_only": "without image", "image_only": "without text"}


def print_table(results: Results, most: int) -> None:
    """Mean accuracy of so many seeds, in percent, of each method in each cell, and over cells that all methods have."""
    found: dict[str, dict[tuple[str, int], list[float]]] = {}
    for line in (line for line in results.lines if line["seed"] < most):
        cell = line["column"], line["size"]
        found.setdefault(line["method"], {}).setdefault(cell, []).append(100 * line["accuracy"])
        for view in (view for view in VIEWS if view in line):
            name = f"{line['method']}, {VIEWS[view]}"
            found.setdefault(name, {}).setdefault(cell, []).append(100 * line[view])
    cells = sorted({cell for method in found.values() for cell in method})
    shared = [cell for cell in cells if all(cell in method for method in found.values())]
    print("| accuracy in % | " + " | ".join(f"{column} {size}" for column, size in cells) + " | mean |")
    print("|" + "---|" * (len(cells) + 2))
    for name, method in found.items():
        shown = [f"{np.mean(method[cell]):.1f}" if cell in method else "-" for cell in cells]
        mean = np.mean([np.mean(method[cell]) for cell in shared]) if shared else float("nan")
        print(f"| {name} | " + " | ".join(shown) + f" | {mean:.1f} |")
    seeds = {cell: len(method[cell]) for cell in cells for method in found.values() if cell in method}
    if seeds:
        print(f"\nDiptych {results.versions()}; seeds of a cell: {min(seeds.values())} to {max(seeds.values())}")


if __name__ == "__main__":
    main()
