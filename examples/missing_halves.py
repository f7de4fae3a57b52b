"""Rows lack texts, images or either in training and in the test: all nine cells (Lee et al., 2023).

    python examples/missing_halves.py DATA --out runs/missing --image-encoder efficientnet --text-encoder MINILM

For each kind of missing modality `diptych.train` trains on rows of which 70 % lack it (of `both` half of these lack the
text and half the image; those to validate with as well), and `diptych.evaluate` takes each kind away from 70 % of the
test rows. Tables of who lacks what are fixed by a seed. Cells that are in OUT/cells.json are not computed again: a
program that was stopped resumes with the same command.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import datasets
from diptych import evaluate, train
from diptych.pipeline.data.labels import label_values
from diptych.pipeline.data.options import Reading
from diptych.pipeline.data.read import read_data
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table
from diptych.pipeline.evaluation.missing import Missing
from diptych.pipeline.evaluation.worth import wilson
from diptych.pipeline.runtime.choices import MISSING_TYPES


def main() -> None:
    """Compute the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="With splits to train on, to validate with (else some are held out) and test")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs and of cells.json")
    parser.add_argument("--label-column")
    parser.add_argument("--missing", type=float, default=0.7, help="Share of the rows that lack a modality")
    parser.add_argument("--seed", type=int, default=0, help="Of the tables and of training")
    parser.add_argument("--rows", type=int, help="Read so many of the rows to train on, and to validate with")
    parser.add_argument("--image-encoder")
    parser.add_argument("--text-encoder")
    parser.add_argument("--cache-dir", help="Where features are kept")
    parser.add_argument("--options", default="{}", help="JSON of further options of `diptych train`")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    place = options.out / "cells.json"
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "cache_dir")}
    saved = json.loads(place.read_text()) if place.exists() else {"options": asked, "cells": {}}
    if saved["options"] != asked:
        raise SystemExit(f"{place} is of other options, {saved['options']}: give these, or another --out")
    cells = saved["cells"]
    for trained in MISSING_TYPES:
        for tested in MISSING_TYPES:
            if f"{trained} {tested}" not in cells:
                run = options.out / trained
                learn(options, trained, run)
                cells[f"{trained} {tested}"] = judge(options, tested, run)
                place.write_text(json.dumps(saved, indent=2))
    print(table(options, cells))


def learn(options: Any, kind: str, run: Path) -> None:
    """Train on rows that lack `kind`; a run that is done stays, one that was stopped is resumed."""
    data = read_data(options.data, Reading(label_column=options.label_column))
    splits = {"train": data.table} | {name: part for name, part in data.tables.items() if name == "validation"}
    parts = {
        name: lacking(part, data.columns, Missing(options.missing, kind, options.seed), options.rows)
        for name, part in splits.items()
    }
    given = {name: getattr(options, name) for name in ("image_encoder", "text_encoder", "cache_dir", "seed")}
    chosen = {name: value for name, value in given.items() if value is not None} | json.loads(options.options)
    resume = (run / "run.json").exists()
    train(datasets.DatasetDict(parts), run, resume=resume, say=lambda line: None, quiet=True, **chosen)


def lacking(part: Table, columns: Columns, missing: Missing, rows: int | None) -> datasets.Dataset:
    """The first rows of a split, without what the table says."""
    labels = label_values(part, str(columns.label))[:rows]
    found = []
    for row, label, (no_image, no_text) in zip(part.rows, labels, missing.table(len(labels)).tolist(), strict=False):
        image, text = columns.image_of(row), columns.text_of(row)
        if isinstance(image, str) and part.folder is not None:
            image = str(part.folder / image)
        found.append({"image": None if no_image else image, "text": None if no_text else text, "label": label})
    return datasets.Dataset.from_list(found)


def judge(options: Any, kind: str, run: Path) -> dict[str, float]:
    """Accuracy of a run's model on test rows that lack `kind`."""
    columns = read_data(options.data, Reading(label_column=options.label_column)).columns
    names = {f"{name}_column": getattr(columns, name) for name in ("image", "text", "label")}
    missing = {"missing": options.missing, "missing_type": kind, "missing_seed": options.seed}
    metrics = evaluate(run, options.data, split="test", quiet=True, **names, **missing)
    rows = metrics["rows"] - metrics["without_prediction"]
    return {"accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"], "rows": rows}


def table(options: Any, cells: dict[str, dict[str, float]]) -> str:
    """Accuracy with its 95 % interval (Wilson) of all nine cells."""
    head = [f"missing {options.missing:.0%}: trained without", *(f"tested without {kind}" for kind in MISSING_TYPES)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for trained in MISSING_TYPES:
        shown = []
        for tested in MISSING_TYPES:
            cell = cells[f"{trained} {tested}"]
            low, high = wilson(round(cell["accuracy"] * cell["rows"]), int(cell["rows"]))
            shown.append(f"{cell['accuracy']:.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"| {trained} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
