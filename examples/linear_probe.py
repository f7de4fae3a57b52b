"""What pretrained, frozen encoders are worth by themselves: linear models over their features, the least to beat.

    python examples/linear_probe.py DATA --image-encoder EFFICIENTNET --text-encoder MINILM \
        --label-columns season,colour,label,usage --out runs/probe

Fits on the train split and prints accuracies on the test split: logistic regression on TF-IDF of the texts, on the mean
features of the images, and on both; a linear head over the same image features, trained by gradient descent; and, with
--out, what `diptych train` makes of each label column, of images alone and of pairs. The runs are OUT/<column>-image
and OUT/<column>, resumed if they are there already. Each image passes its encoder once, for the cache.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diptych import build_model, load_model, train
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.labels import label_ids, label_names
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table, load_tables
from diptych.pipeline.evaluation.evaluate import measure
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images, encode_texts
from diptych.pipeline.feature_cache.folder import cache_folder
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import batches_once
from diptych.pipeline.runtime.console import Console
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F


def mean_features(options: argparse.Namespace, tables: list[Table], columns: Columns) -> list[np.ndarray]:
    """Of each table (rows, width): what the frozen image trunk of a new model says, the mean over the regions."""
    model, processor = build_model(options.image_encoder, options.text_encoder, labels=["no", "yes"])
    wanted = [RowsToEncode(table, columns, range(len(table))) for table in tables]
    features = encode_images(model, processor, wanted, cache_folder(options.cache_dir), console=Console())
    if features is None:
        raise SystemExit("half precision cannot hold the features of this encoder")
    return [
        np.concatenate(
            [
                images.batch(range(start, min(start + 256, len(table))))["image_features"].float().mean((2, 3)).numpy()
                for start in range(0, len(table), 256)
            ]
        )
        for table, images in zip(tables, features, strict=True)
    ]


def logistic(inputs: list[Any], truth: list[np.ndarray], strength: float) -> float:
    """Test accuracy of logistic regression; `inputs` and `truth` are of train and of test."""
    fitted = LogisticRegression(C=strength, max_iter=3000).fit(inputs[0], truth[0])
    return float((fitted.predict(inputs[1]) == truth[1]).mean())


def linear_head(features: list[np.ndarray], truth: list[np.ndarray], epochs: int = 30, rate: float = 3e-3) -> float:
    """Test accuracy of a linear layer over the same features, by AdamW at a rate that falls to 0, with dropout."""
    torch.manual_seed(0)
    head = torch.nn.Linear(features[0].shape[1], int(truth[0].max()) + 1)
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.1)
    inputs, labels = torch.from_numpy(features[0]).float(), torch.from_numpy(truth[0])
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(F.dropout(inputs[rows], 0.5)), labels[rows]).backward()
            optimizer.step()
    with torch.inference_mode():
        predicted = head(torch.from_numpy(features[1]).float()).argmax(1).numpy()
    return float((predicted == truth[1]).mean())


def trained(options: argparse.Namespace, table: Table, column: str, *, image_only: bool) -> float:
    """Test accuracy of what `diptych train` makes of a label column, trained now unless its folder holds the run."""
    folder = options.out / (f"{column}-image" if image_only else column)
    how: dict[str, Any] = {"image_encoder": options.image_encoder, "text_encoder": options.text_encoder}
    how |= {"label_column": column, "cache_dir": options.cache_dir, "image_only": image_only}
    train(options.data, folder, resume=True, **how)  # of a run that is done, nothing
    model, processor = load_model(folder)
    columns = find_columns(table, label=column, modalities=["image"] if image_only else ["image", "text"])
    dataset = PairDataset(table, columns, label_ids(table, column, model.config.labels), processor)
    wanted, cache = [RowsToEncode(table, columns, range(len(table)))], cache_folder(options.cache_dir)
    images = encode_images(model, processor, wanted, cache)
    texts = None if image_only else encode_texts(model, processor, wanted, cache)
    dataset = dataset.with_features(images and images[0], texts and texts[0])
    accelerator = Accelerator()
    return float(measure(model, batches_once(dataset, accelerator, batch_size=128), accelerator)["accuracy"])


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--image-encoder", required=True)
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--label-columns", default="label", help="one or several, by commas")
    parser.add_argument("--cache-dir")
    parser.add_argument("--out", type=Path, help="folder of runs; without it nothing is trained")
    options = parser.parse_args()
    torch.set_num_threads(1)

    tables = [load_tables(options.data)[split] for split in ("train", "test")]
    columns = find_columns(tables[0], need_label=False)
    images = mean_features(options, tables, columns)
    scaler = StandardScaler().fit(images[0])
    images = [scaler.transform(features) for features in images]
    tfidf = TfidfVectorizer(ngram_range=(1, 2))
    sentences = [[str(text or "") for text in table.rows.values(str(columns.text))] for table in tables]
    texts = [tfidf.fit_transform(sentences[0]), tfidf.transform(sentences[1])]
    # the few words of a text would drown among the numbers of an image: together these count as one
    both = [
        hstack([text, csr_matrix(image / image.shape[1] ** 0.5)]).tocsr()
        for text, image in zip(texts, images, strict=True)
    ]
    names = options.label_columns.split(",")
    found: dict[str, list[float]] = {}
    for column in names:
        labels = label_names(tables[0], column)
        truth = [np.array(label_ids(table, column, labels)) for table in tables]
        accuracies = {
            "TF-IDF, logistic regression": logistic(texts, truth, 10),
            "image features, logistic regression": logistic(images, truth, 0.01),
            "image features, linear head": linear_head(images, truth),
            "TF-IDF + image features, logistic regression": logistic(both, truth, 10),
        }
        if options.out is not None:
            accuracies["`diptych train --image-only`"] = trained(options, tables[1], column, image_only=True)
            accuracies["`diptych train`"] = trained(options, tables[1], column, image_only=False)
        for name, accuracy in accuracies.items():
            found.setdefault(name, []).append(accuracy)
    print(f"\n{datetime.date.today()}, {len(tables[0])} rows of train, {len(tables[1])} of test\n")
    print(f"| accuracy | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name, accuracies in found.items():
        print(f"| {name} | {' | '.join(f'{accuracy:.1%}' for accuracy in accuracies)} |")


if __name__ == "__main__":
    main()
