"""The default command at several sizes, beside simple methods: what the recipes were chosen by, and how they do.

    python examples/recipes.py DATA OUT --image-encoder EFFICIENTNET --text-encoder MINILM
    python examples/recipes.py DATA OUT ... --judge train      # on rows held out of train: for choosing
    python examples/recipes.py DATA OUT --table

DATA has the splits train, validation and test. Each run trains on so many rows of train, of which the program holds a
tenth out to validate with, and is judged on validation and test together. Frozen encoders run once, for OUT/cache.
Every result is a line of OUT/results.jsonl; what stands there is not computed again, so the command resumes.

Methods: TF-IDF (words and pairs of words) + logistic regression; a linear probe on the mean word state; logistic
regression on TF-IDF and the mean features of both encoders; the default command with both modalities, the same model
with one of them taken away, and (`--alone`) models that were given only one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from diptych import build_model, load_model, train
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.evaluation.evaluate import measure
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images, encode_texts
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import batches_once
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-encoder")
    parser.add_argument("--text-encoder")
    parser.add_argument("--columns", default="label,season,colour")
    parser.add_argument("--sizes", default="200,500,1000,4393")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judge", choices=("held-out", "train"), default="held-out")
    parser.add_argument("--options", default="{}", help="JSON of further options of `diptych train`")
    parser.add_argument("--name", default="default", help="Of these options, in the table")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--table", action="store_true", help="Only print it")
    options = parser.parse_args()
    results = options.out / "results.jsonl"
    if not options.table:
        options.out.mkdir(parents=True, exist_ok=True)
        study = Study(options)
        done = {key(one) for one in read(results)}
        for cell in cells(options):
            for method in study.methods:
                if key({**cell, "method": method}) not in done:
                    with results.open("a") as file:
                        for line in study.run(method, **cell):
                            file.write(json.dumps({**cell, **line}) + "\n")
    print_table(read(results))


class Study:
    """The rows, their features, and the methods."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.methods = ["tfidf", "probe", "tfidf + features", options.name]
        if options.alone:
            self.methods += [f"{options.name}, text alone", f"{options.name}, image alone"]
        tables = datasets.load_dataset(options.data)
        train_rows = tables["train"]
        judged = datasets.concatenate_datasets([tables["validation"], tables["test"]])
        if options.judge == "train":
            part = np.array([int(hashlib.md5(t.lower().encode()).hexdigest(), 16) % 6 for t in train_rows["text"]])
            judged, train_rows = train_rows.select(np.where(part == 0)[0]), train_rows.select(np.where(part > 0)[0])
        self.train, self.judged = train_rows, judged
        self.encoders = {"image_encoder": options.image_encoder, "text_encoder": options.text_encoder}
        self.cache = options.out / "cache"
        self.means: list[np.ndarray] | None = None

    def rows(self, size: int, seed: int) -> np.ndarray:
        """Which rows of train a run has."""
        return np.random.RandomState(seed).permutation(len(self.train))[:size]

    def run(self, method: str, *, column: str, size: int, seed: int) -> Iterator[dict[str, Any]]:
        """Lines of results, the method's own first."""
        started = time.process_time()
        chosen = self.rows(size, seed)
        if method.startswith(self.options.name):
            yield from self.diptych(method, column, chosen, seed)
            return
        truth = np.array(self.train[column])[chosen], np.array(self.judged[column])
        texts = [str(text) for text in self.train["text"]], [str(text) for text in self.judged["text"]]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2))
        words = vectorizer.fit_transform([texts[0][row] for row in chosen]), vectorizer.transform(texts[1])
        inputs: tuple[Any, Any] = words
        if method != "tfidf":
            image, text = zip(*self.mean_features(), strict=True)
            parts = [text] if method == "probe" else [text, image]
            joined = np.concatenate([p[0] for p in parts], 1)[chosen], np.concatenate([p[1] for p in parts], 1)
            inputs = joined
            if method != "probe":
                scaler = StandardScaler().fit(joined[0])
                dense = [scaler.transform(part) / part.shape[1] ** 0.5 for part in joined]
                inputs = tuple(hstack([w, csr_matrix(d)]).tocsr() for w, d in zip(words, dense, strict=True))
        model = LogisticRegression(C=10, max_iter=300).fit(inputs[0], truth[0])
        accuracy = float((model.predict(inputs[1]) == truth[1]).mean())
        yield {"method": method, "accuracy": accuracy, "cpu": round(time.process_time() - started, 1)}

    def diptych(self, method: str, column: str, chosen: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
        """The default command, and what its model makes of the judged rows."""
        started = time.process_time()
        rows = self.train.select(chosen)
        for name, part in (("text", "image"), ("image", "text")):
            if method.endswith(f"{name} alone"):
                gone = datasets.Dataset.from_dict(
                    {part: [None] * len(rows)}, features=rows.features.__class__({part: rows.features[part]})
                )
                rows = datasets.concatenate_datasets([rows.remove_columns(part), gone], axis=1)
        folder = self.options.out / "run"
        shutil.rmtree(folder, ignore_errors=True)
        how = {"label_column": column, "seed": seed, "cache_dir": self.cache, "quiet": True, "say": lambda line: None}
        record = train(rows, folder, **self.encoders, **how, **json.loads(self.options.options))
        metrics = self.measured(folder, column)
        cpu = {"cpu": round(time.process_time() - started, 1), "steps": record["steps"]}
        about = {"image_weight": metrics["image_weight"]}
        for name in ("text", "image"):
            if method.endswith(f"{name} alone"):
                yield {"method": method, "accuracy": metrics[f"{name}_only"]["accuracy"], **cpu}
                return
        yield {"method": method, "accuracy": metrics["accuracy"], **cpu, **about}
        for name in ("text", "image"):
            taken = f"{method}, without {'image' if name == 'text' else 'text'}"
            yield {"method": taken, "accuracy": metrics[f"{name}_only"]["accuracy"]}

    def measured(self, folder: Path, column: str) -> dict[str, Any]:
        """Metrics of a run's model on the judged rows, its encoders' features from the cache."""
        model, processor = load_model(folder)
        table = load_tables(self.judged)["train"]
        columns = find_columns(table, label=column)
        dataset = PairDataset(table, columns, list(self.judged[column]), processor)
        self.features(model, processor, dataset)
        accelerator = Accelerator()
        batches = batches_once(dataset, accelerator, batch_size=128)
        return measure(model, batches, accelerator, each_half=True)

    def features(self, model: Any, processor: Any, dataset: PairDataset) -> None:
        """Let the cache stand in for the encoders."""
        wanted = [RowsToEncode(dataset.table, dataset.columns, range(len(dataset.table.rows)))]
        images, texts = (encode(model, processor, wanted, self.cache) for encode in (encode_images, encode_texts))
        dataset.image_features, dataset.text_features = images and images[0], texts and texts[0]

    def mean_features(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of train and of the judged rows: mean image and text features."""
        if self.means is None:
            model, processor = build_model(labels=["no", "yes"], **self.encoders)
            self.means = []
            for rows in (self.train, self.judged):
                table = load_tables(rows)["train"]
                dataset = PairDataset(table, find_columns(table, need_label=False), None, processor)
                self.features(model, processor, dataset)
                parts = []
                for start in range(0, len(rows), 128):
                    numbers = list(range(start, min(start + 128, len(rows))))
                    image = dataset.image_features.batch(numbers)["image_features"].float().mean((2, 3))
                    text = dataset.text_features.batch(numbers)
                    mask = text["attention_mask"].unsqueeze(-1)
                    states = text["text_features"][..., : model.text_encoder.width].float()
                    parts.append((image, (states * mask).sum(1) / mask.sum(1)))
                self.means.append(tuple(torch.cat(side).numpy() for side in zip(*parts, strict=True)))
        return self.means


def cells(options: Any) -> Iterator[dict[str, Any]]:
    """Seed by seed, so that a table of one seed is there first."""
    for seed in range(options.seeds):
        for size in map(int, options.sizes.split(",")):
            for column in options.columns.split(","):
                yield {"column": column, "size": size, "seed": seed}


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a line is of."""
    return tuple(line[name] for name in ("column", "size", "seed", "method"))


def read(results: Path) -> list[dict[str, Any]]:
    """All lines so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def print_table(lines: list[dict[str, Any]]) -> None:
    """Mean accuracy in percent of each method in each cell, and over all cells that all methods have."""
    found: dict[str, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[line["method"]][line["column"], line["size"]].append(100 * line["accuracy"])
    columns = sorted({cell for method in found.values() for cell in method}, key=lambda cell: (cell[0], cell[1]))
    shared = [cell for cell in columns if all(cell in method for method in found.values())]
    print("| | " + " | ".join(f"{column} {size}" for column, size in columns) + " | mean |")
    print("|" + "---|" * (len(columns) + 2))
    for name, method in found.items():
        shown = [f"{np.mean(method[cell]):.1f} ({len(method[cell])})" if cell in method else "-" for cell in columns]
        mean = np.mean([np.mean(method[cell]) for cell in shared]) if shared else float("nan")
        print(f"| {name} | " + " | ".join(shown) + f" | {mean:.1f} |")


if __name__ == "__main__":
    main()
