"""What the pretrained image encoder of a model is worth by itself: linear models over its mean features.

    python examples/linear_probe.py runs/season DATA --label-column season

Trains on the train split and prints accuracies on the test split: logistic regression on TF-IDF of the texts, on the
mean features of the images, and on both; a linear head trained by gradient descent over the same image features; and
the model. The features are those of the model's frozen encoder, from the feature cache where it has them.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diptych import ImageTextClassifier, load_model
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.labels import label_values
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images
from diptych.pipeline.feature_cache.folder import cache_folder
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F


def linear_head(features: np.ndarray, truth: np.ndarray, epochs: int = 30, rate: float = 3e-3) -> torch.nn.Linear:
    """A linear layer over standardised features (rows, width), by AdamW at a rate that falls to 0, with dropout."""
    torch.manual_seed(0)
    head = torch.nn.Linear(features.shape[1], int(truth.max()) + 1)
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.1)
    inputs, labels = torch.from_numpy(features).float(), torch.from_numpy(truth)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(F.dropout(inputs[rows], 0.5)), labels[rows]).backward()
            optimizer.step()
    return head


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--label-column")
    parser.add_argument("--cache-dir")
    options = parser.parse_args()

    tables = load_tables(options.data)
    train, test = tables["train"], tables["test"]
    columns = find_columns(train, label=options.label_column)
    names, truth = np.unique(label_values(train, str(columns.label)), return_inverse=True)
    expected = np.asarray(label_values(test, str(columns.label)))

    model, processor = load_model(options.model)
    wanted = [RowsToEncode(table, columns, range(len(table))) for table in (train, test)]
    found = encode_images(model, processor, wanted, cache_folder(options.cache_dir), quiet=False)
    if found is None:
        raise SystemExit("half precision cannot hold the features of this encoder")
    images = [
        half.batch(range(len(table)))["image_features"].float().mean((2, 3)).numpy()
        for half, table in zip(found, (train, test), strict=True)
    ]
    scaler = StandardScaler().fit(images[0])
    images = [scaler.transform(features) for features in images]
    tfidf = TfidfVectorizer(ngram_range=(1, 2))
    texts = [tfidf.fit_transform(train.rows[columns.text]), tfidf.transform(test.rows[columns.text])]
    # the few words of a text would drown among 1,280 numbers of an image: these count less
    both = [hstack([text, csr_matrix(0.02 * image)]).tocsr() for text, image in zip(texts, images, strict=True)]

    def logistic(inputs: list, strength: float) -> float:
        fitted = LogisticRegression(C=strength, max_iter=3000).fit(inputs[0], truth)
        return float((names[fitted.predict(inputs[1])] == expected).mean())

    head = linear_head(images[0], truth)
    with torch.inference_mode():
        by_head = names[head(torch.from_numpy(images[1]).float()).argmax(1).numpy()]
    classify = ImageTextClassifier.from_pretrained(options.model)
    predictions = classify.stream(test.rows, columns=columns, folder=test.folder, batch_size=64)
    by_model = np.asarray([prediction["label"] for prediction in predictions])

    print(f"{columns.label}, {len(expected)} rows of test")
    print(f"  TF-IDF, logistic regression              {logistic(texts, 10):7.1%}")
    print(f"  image features, logistic regression      {logistic(images, 0.01):7.1%}")
    print(f"  image features, linear head              {(by_head == expected).mean():7.1%}")
    print(f"  TF-IDF + image features                  {logistic(both, 10):7.1%}")
    print(f"  this model                               {(by_model == expected).mean():7.1%}")


if __name__ == "__main__":
    main()
