"""Is the image worth it? A model of ours beside TF-IDF + logistic regression on the texts alone, row by row.

    python examples/compare_tfidf.py runs/label DATA --label-column label

Prints both accuracies on the test split, and their paired difference with a 95 % interval (normal
approximation over the rows' differences). TF-IDF is fitted on the train split.
"""

from __future__ import annotations

import argparse

import numpy as np
from diptych import ImageTextClassifier
from diptych.pipeline.data.labels import label_values
from diptych.pipeline.data.options import Reading
from diptych.pipeline.data.read import read_data
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--label-column")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()

    read = read_data(options.data, Reading(label_column=options.label_column), say=print)
    train, test, columns = read.tables["train"], read.tables[options.split], read.columns
    label = str(columns.label)
    truth = np.asarray(label_values(test, label))

    baseline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=1000))
    baseline.fit([str(columns.text_of(row) or "") for row in train.rows], label_values(train, label))
    by_text = baseline.predict([str(columns.text_of(row) or "") for row in test.rows]) == truth

    classify = ImageTextClassifier.from_pretrained(options.model)
    predictions = classify.stream(test.rows, columns=columns, folder=test.folder, batch_size=64)
    by_both = np.asarray([prediction["label"] for prediction in predictions]) == truth

    difference = by_both.astype(float) - by_text.astype(float)
    mean, half = difference.mean(), 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    majority = max(np.unique(truth, return_counts=True)[1]) / len(truth)
    print(f"{label}, {len(truth)} rows of {options.split}")
    print(f"  majority class       {majority:7.1%}")
    print(f"  TF-IDF on the text   {by_text.mean():7.1%}")
    print(f"  this model           {by_both.mean():7.1%}")
    print(f"  paired difference    {mean:+7.1%}   95 % interval {mean - half:+.1%} to {mean + half:+.1%}")


if __name__ == "__main__":
    main()
