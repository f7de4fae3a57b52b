"""Rows, runs and features that `recipes.py`, `products.py` and `evidence.py` share.

Frozen encoders run once for each image and text: their features lie in OUT/cache. Results are lines of a file in OUT;
what stands there is not computed again, so every command resumes where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from diptych import __version__, build_model, load_model, train
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.evaluation.evaluate import collect
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images, encode_texts
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import batches_once
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

LINEAR = ("TF-IDF", "linear probe of the text", "TF-IDF + features")
"""Logistic regression on TF-IDF (words and pairs of words), on the mean word state, on TF-IDF and the mean features
of both encoders."""


def study_options(description: str, *, columns: str) -> ArgumentParser:
    """Options that all these commands have."""
    parser = ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("data", help="A folder of train, validation and test.parquet")
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-encoder")
    parser.add_argument("--text-encoder")
    parser.add_argument("--columns", default=columns)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judge", choices=("held-out", "train"), default="held-out", help="train: for choosing")
    parser.add_argument("--options", default="{}", help="JSON of further options of `diptych train`, for every run")
    parser.add_argument("--table", action="store_true", help="Only print the table")
    return parser


class Study:
    """The rows of train, those that are judged (validation and test, or a sixth of train), and their features."""

    def __init__(self, options: Namespace) -> None:
        tables = datasets.load_dataset(str(options.data)).cast_column("image", datasets.Image(decode=False))
        tables = {split: with_names(rows) for split, rows in tables.items()}
        self.train = tables["train"]
        self.judged = datasets.concatenate_datasets([tables["validation"], tables["test"]])
        if options.judge == "train":
            part = np.array([int(hashlib.md5(t.lower().encode()).hexdigest(), 16) % 6 for t in self.train["text"]])
            self.judged, self.train = (
                self.train.select(np.where(part == 0)[0]),
                self.train.select(np.where(part > 0)[0]),
            )
        self.out, self.options = options.out, json.loads(options.options)
        self.encoders = {"image_encoder": options.image_encoder, "text_encoder": options.text_encoder}
        self.cache = options.out / "cache"
        self._means: list[tuple[np.ndarray, ...]] = []

    def run(self, name: str, rows: datasets.Dataset, column: str, seed: int, **options: Any) -> Path:
        """Train OUT/runs/NAME, or go on with it; what is there of other rows or options is trained anew. Its folder."""
        folder = self.out / "runs" / name
        quiet = {"cache_dir": self.cache, "quiet": True, "say": lambda line: None}
        how = self.encoders | {"label_column": column, "seed": seed} | quiet | options | self.options
        try:
            train(rows, folder, resume=True, **how)
        except ValueError as error:
            if "cannot go on" not in str(error):
                raise
            shutil.rmtree(folder)  # a run of another cell, which was stopped
            train(rows, folder, **how)
        return folder

    def batches(self, folder: Path, rows: datasets.Dataset, column: str) -> tuple[Any, Iterable[dict[str, Any]]]:
        """A run's model, and batches of rows for it, with features in place of what its frozen encoders see."""
        model, processor = load_model(folder)
        table = load_tables(rows)["train"]
        columns = find_columns(table, image="image", text="text", label=column)
        labels = [model.config.label2id.get(str(value), -1) for value in rows[column]]  # -1: it has never seen it
        dataset = PairDataset(table, columns, labels, processor)
        self.features(model, processor, dataset)
        return model, batches_once(dataset, Accelerator(), batch_size=128)

    def logits(self, folder: Path, rows: datasets.Dataset, column: str) -> tuple[Any, dict[str, Tensor]]:
        """A run's model, and its raw logits of both modalities and of each, with labels and what is there."""
        model, batches = self.batches(folder, rows, column)
        return model, collect(model, batches, Accelerator(), each_half=True)

    def features(self, model: Any, processor: Any, dataset: PairDataset) -> None:
        """Let the cache stand in for the encoders that are frozen."""
        wanted = [RowsToEncode(dataset.table, dataset.columns, range(len(dataset.table)))]
        images, texts = (encode(model, processor, wanted, self.cache) for encode in (encode_images, encode_texts))
        dataset.image_features, dataset.text_features = images and images[0], texts and texts[0]

    def linear(self, method: str, column: str, chosen: np.ndarray) -> np.ndarray:
        """Of each judged row, whether a linear model over these rows of train is right."""
        truth = np.array(self.train[column])[chosen], np.array(self.judged[column])
        if method == "majority":
            names, counts = np.unique(truth[0], return_counts=True)
            return truth[1] == names[counts.argmax()]
        texts = [str(text) for text in self.train["text"]], [str(text) for text in self.judged["text"]]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2))
        words = vectorizer.fit_transform([texts[0][row] for row in chosen]), vectorizer.transform(texts[1])
        inputs: tuple[Any, Any] = words
        if method != "TF-IDF":
            image, text = zip(*self.mean_features(), strict=True)
            parts = [text] if method == "linear probe of the text" else [text, image]
            inputs = np.concatenate([p[0] for p in parts], 1)[chosen], np.concatenate([p[1] for p in parts], 1)
            if len(parts) == 2:
                scaler = StandardScaler().fit(inputs[0])
                dense = [scaler.transform(part) / part.shape[1] ** 0.5 for part in inputs]
                inputs = tuple(hstack([w, csr_matrix(d)]).tocsr() for w, d in zip(words, dense, strict=True))
        model = LogisticRegression(C=10, max_iter=300).fit(inputs[0], truth[0])
        return model.predict(inputs[1]) == truth[1]

    def mean_features(self) -> list[tuple[np.ndarray, ...]]:
        """Of train and of the judged rows: mean image and text features."""
        if not self._means:
            model, processor = build_model(labels=["no", "yes"], **self.encoders)
            for rows in (self.train, self.judged):
                table = load_tables(rows)["train"]
                dataset = PairDataset(
                    table, find_columns(table, image="image", text="text", need_label=False), None, processor
                )
                self.features(model, processor, dataset)
                parts = []
                for start in range(0, len(rows), 128):
                    numbers = list(range(start, min(start + 128, len(rows))))
                    image = dataset.image_features.batch(numbers)["image_features"].float().mean((2, 3))
                    text = dataset.text_features.batch(numbers)
                    mask = text["attention_mask"].unsqueeze(-1)
                    states = text["text_features"][..., : model.text_encoder.width].float()
                    parts.append((image, (states * mask).sum(1) / mask.sum(1)))
                self._means.append(tuple(torch.cat(side).numpy() for side in zip(*parts, strict=True)))
        return self._means


def answers(right: Any) -> str:
    """Right and wrong answers, row by row, as a text of 1 and 0."""
    return "".join("1" if one else "0" for one in right)


def of_answers(text: str) -> np.ndarray:
    """What `answers` made a text of."""
    return np.array([one == "1" for one in text], dtype=float)


def with_names(rows: datasets.Dataset) -> datasets.Dataset:
    """Rows with the names of classes in place of their numbers."""
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = feature.int2str(rows[column][:])
            rows = rows.remove_columns(column).add_column(column, names)
    return rows


def with_images(rows: datasets.Dataset, images: list[Any]) -> datasets.Dataset:
    """Rows with other images: encoded, as bytes."""
    features = datasets.Features({"image": datasets.Image(decode=False)})
    column = datasets.Dataset.from_dict({"image": images}, features=features)
    return datasets.concatenate_datasets([rows.remove_columns("image"), column], axis=1)


class Results:
    """Lines of results by their keys, in a file."""

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self.path, self.keys = path, keys
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def missing(self, **cell: Any) -> bool:
        """Whether there is no line of this cell."""
        return all(any(line.get(key) != cell.get(key) for key in self.keys) for line in self.lines)

    def figures(self, line: dict[str, Any]) -> dict[str, Any]:
        """What was measured in a cell: its line without keys, cost and version."""
        return {name: value for name, value in line.items() if name not in (*self.keys, "cpu", "diptych")}

    def versions(self) -> str:
        """The versions that gave these lines."""
        return ", ".join(sorted({line["diptych"] for line in self.lines}))

    def add(self, compute: Callable[[], dict[str, Any]], **cell: Any) -> None:
        """Compute the line of a cell, unless it is there."""
        if self.missing(**cell):
            started = time.process_time()
            line = {**cell, **compute()}
            line |= {"cpu": round(time.process_time() - started, 1), "diptych": __version__}
            self.lines.append(line)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
