"""Figures that say how good predictions are, against sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from diptych.pipeline.evaluation.metrics import best_thresholds, classification_metrics, multi_label_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score


def metrics(scores, labels):
    return classification_metrics(np.array(scores, dtype=np.float64), np.array(labels))


def test_two_classes_by_hand():
    found = metrics([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1, 1])
    assert found == {
        "accuracy": 0.5,
        "macro_f1": 0.5,  # of each class one of two is found, and one of two found is right
        "auroc": 0.75,  # of the four pairs of a 0 and a 1, three are in order
        "loss": pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.4) + math.log(0.8)) / 4),
    }


def test_three_classes_by_hand():
    scores = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]
    found = metrics(scores, [0, 1, 2, 2])
    assert found["accuracy"] == 0.75
    # class 0: precision 1/2, recall 1; class 1: both 1; class 2: precision 1, recall 1/2
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    # class 0: above all others; class 1: above all others; class 2: 0.7 above both, 0.2 above 0.1 only
    assert found["auroc"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.5, 0.7, 0.2]).mean())


def test_macro_f1_averages_over_the_classes_that_occur():
    right = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]
    assert metrics(right, [0, 1])["macro_f1"] == 1.0  # the third class neither occurs nor is predicted
    assert metrics([[0.1, 0.1, 0.8], [0.1, 0.8, 0.1]], [0, 1])["macro_f1"] == pytest.approx(1 / 3)


def test_auroc_averages_over_the_classes_among_the_labels():
    scores = [[0.6, 0.3, 0.1], [0.3, 0.1, 0.6], [0.1, 0.3, 0.6]]
    expected = [roc_auc_score([1, 0, 0], [0.6, 0.3, 0.1]), roc_auc_score([0, 1, 1], [0.3, 0.1, 0.3])]
    assert metrics(scores, [0, 1, 1])["auroc"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("count", [1, 3])
def test_one_class_among_the_labels_has_no_auroc(count):
    found = metrics([[0.8, 0.2]] * count, [0] * count)
    assert found == {"accuracy": 1.0, "macro_f1": 1.0, "auroc": None, "loss": pytest.approx(-math.log(0.8))}


def test_a_model_of_one_class_is_right_without_loss():
    assert metrics([[1.0], [1.0]], [0, 0]) == {"accuracy": 1.0, "macro_f1": 1.0, "auroc": None, "loss": 0.0}


def test_a_score_of_zero_is_a_large_but_finite_loss():
    loss = metrics([[1.0, 0.0], [0.0, 1.0]], [1, 1])["loss"]
    assert 10 < loss < 30


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        classification_metrics(np.zeros((0, 2)), np.zeros(0, dtype=int))


@given(st.integers(2, 4), st.integers(2, 12), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_figures_do_not_depend_on_the_order_of_the_rows_and_stay_in_their_range(classes, rows, seed):
    generator = np.random.default_rng(seed)
    scores = generator.dirichlet(np.ones(classes), rows).astype(np.float32)  # as a model gives them
    labels = generator.integers(0, classes, rows)
    found = classification_metrics(scores, labels)
    assert found["accuracy"] == pytest.approx((scores.argmax(1) == labels).mean())
    assert found["loss"] == pytest.approx(-np.log(scores[np.arange(rows), labels]).mean(), rel=1e-4)
    assert all(0 <= found[name] <= 1 for name in ("accuracy", "macro_f1"))
    assert (found["auroc"] is None) == (len(set(labels.tolist())) == 1)
    order = generator.permutation(rows)
    assert classification_metrics(scores[order], labels[order]) == pytest.approx(found)
    assert all(value is None or type(value) is float for value in found.values()), "goes into JSON"


def test_several_labels_by_hand():
    scores = np.array([[0.9, 0.2, 0.1], [0.6, 0.7, 0.2], [0.4, 0.8, 0.3]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    found = multi_label_metrics(scores, labels, np.array([0.5, 0.5, 0.5]))
    # class 0: taken 0, 1, true 0, 2; class 1: taken 1, 2, true 1; class 2: neither taken nor true
    assert found["micro_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert found["macro_f1"] == pytest.approx((2 * 1 / (2 + 2) + 2 * 1 / (2 + 1)) / 2)
    # class 0: right at rank 1 (1/1) and 3 (2/3); class 1: right at rank 2 (1/2)
    assert found["mean_average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    right = [0.9, 0.8, 0.9, 0.4, 0.7, 0.8, 0.4, 0.2, 0.7]
    assert found["loss"] == pytest.approx(-np.log(right).mean())


@pytest.mark.parametrize("classes", [1, 3])
def test_rows_without_any_label_have_no_precision(classes):
    found = multi_label_metrics(np.full((2, classes), 0.1), np.zeros((2, classes), dtype=int), np.full(classes, 0.5))
    expected = {"micro_f1": 0.0, "macro_f1": 0.0, "mean_average_precision": None, "loss": pytest.approx(-math.log(0.9))}
    assert found == expected


def test_no_multi_label_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        multi_label_metrics(np.zeros((0, 2)), np.zeros((0, 2), dtype=int), np.full(2, 0.5))


def test_thresholds_by_hand():
    scores = np.array([[0.9, 0.3, 0.6], [0.2, 0.1, 0.7], [0.3, 0.2, 0.8]])
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    # class 0: between 0.3 and 0.2; class 1: between 0.3 and 0.2 too; class 2 is never there
    assert best_thresholds(scores, labels) == pytest.approx([0.25, 0.25, 0.5])


@given(st.integers(1, 12), st.integers(0, 2**31), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_threshold_gives_a_better_f1(rows, seed, coarse):
    generator = np.random.default_rng(seed)
    scores = generator.uniform(size=(rows, 3)).astype(np.float32)
    scores = scores.round(1) if coarse else scores  # with equal scores
    labels = generator.integers(0, 2, (rows, 3))

    def f1(column: int, threshold: float) -> float:
        taken, truth = scores[:, column] >= threshold, labels[:, column] > 0
        return 2 * int((taken & truth).sum()) / max(1, int(taken.sum() + truth.sum()))

    for column, found in enumerate(best_thresholds(scores, labels)):
        assert 0 <= found <= 1
        if not labels[:, column].any():
            assert found == 0.5
            continue
        every = [0.0, 0.5, 1.0, *scores[:, column].astype(float), *(scores[:, column].astype(float) + 1e-6)]
        assert f1(column, found) == pytest.approx(max(f1(column, threshold) for threshold in every))
