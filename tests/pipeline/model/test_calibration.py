"""Thresholds that keep their promise and sets that hold the true class, on scores of known noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diptych import DiptychConfig
from diptych.pipeline.evaluation.calibration import calibrate
from diptych.pipeline.inference.decisions import Decisions
from diptych.pipeline.inference.options import ClassifyOptions
from diptych.pipeline.model.calibration import (
    MODALITIES,
    coverage_threshold,
    label_set,
    least_rows,
    modalities_of,
    nonconformity,
    precision_threshold,
    set_limit,
    temperatures,
)
from diptych.pipeline.model.scores import scores
from diptych.pipeline.runtime.choices import SET_SCORES

CLASSES = 5


def drawn(rows, seed, sharpness=2.0):
    """Logits whose softmax at temperature 1 is the truth: labels are drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, CLASSES)) * sharpness
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def calibrated(rows=500, seed=0, wrong_by=1.0, sharpness=2.0):
    """A configuration calibrated on drawn rows, whose logits are too large by a factor."""
    logits, labels = drawn(rows, seed, sharpness)
    config = DiptychConfig(id2label={i: str(i) for i in range(CLASSES)})
    config.calibration = calibrate({"both": logits * wrong_by}, {"both": labels}, config)
    return config


def test_a_row_is_known_by_what_it_has():
    image, text = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    assert [MODALITIES[i] for i in modalities_of(image, text)] == ["both", "text", "image", "both"]


def test_scores_are_divided_by_the_temperature_of_what_the_row_has():
    config = DiptychConfig(id2label={0: "a", 1: "b"})
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    raw = scores(logits, config)
    config.calibration = {"both": {"temperature": [2.0]}, "text": {"temperature": [4.0]}}
    assert torch.equal(temperatures(config, torch.arange(3)), torch.tensor([[2.0], [4.0], [1.0]]))
    found = scores(logits, config, torch.arange(3))
    torch.testing.assert_close(found[0], (logits[0] / 2).softmax(0))
    torch.testing.assert_close(found[1], (logits[1] / 4).softmax(0))
    torch.testing.assert_close(found[2], raw[2])
    torch.testing.assert_close(scores(logits, config)[1], found[0])


def test_of_several_labels_each_class_has_its_own_temperature():
    config = DiptychConfig(id2label={0: "a", 1: "b"}, problem_type="multi_label_classification")
    config.calibration = {"both": {"temperature": [2.0, 0.5]}, "image": {"temperature": [1.0, 4.0]}}
    found = scores(torch.ones(2, 2), config, torch.tensor([0, 2]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 2.0], [1.0, 0.25]]).sigmoid())


@pytest.mark.parametrize(("precision", "rows"), [(0.95, 59), (0.90, 29), (0.99, 299)])
def test_the_least_rows_that_can_promise(precision, rows):
    assert least_rows(precision) == rows


def test_too_few_rows_are_named():
    config = calibrated(rows=40)
    with pytest.raises(ValueError, match=r"a precision of 0\.95 takes at least 59 calibration rows.*has 40"):
        precision_threshold(config, "both", 0.95)
    with pytest.raises(ValueError, match=r"sets at 0\.99 take at least 99 calibration rows, and the model has 40"):
        set_limit(config, "both", 0.99)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_what_is_not_calibrated_is_named(modality):
    with pytest.raises(ValueError, match=f"not calibrated for rows with an? {modality} only"):
        precision_threshold(calibrated(), modality, 0.9)


@pytest.mark.slow
def test_the_promised_precision_holds_in_nineteen_of_twenty_splits():
    """The precision at the chosen threshold, from the known probabilities, over 200 draws of calibration rows."""
    logits, _ = drawn(20_000, seed=1_000, sharpness=4.0)
    shares = logits.softmax(dim=1).max(dim=1).values
    kept, answered = [], []
    for seed in range(200):
        config = calibrated(rows=300, seed=seed, wrong_by=1.7, sharpness=4.0)
        threshold = precision_threshold(config, "both", 0.9)
        confidence = scores(logits * 1.7, config).max(dim=1).values
        mine = shares[confidence >= threshold]
        kept.append(len(mine) == 0 or float(mine.mean()) >= 0.9)
        answered.append(len(mine) / len(shares))
    assert np.mean(kept) >= 0.95
    assert np.mean(answered) > 0.2  # a promise that nobody is answered by would be kept too


def test_the_promise_is_not_kept_by_a_threshold_that_merely_fits():
    """Of the same draws, the lowest threshold that reaches 0.9 on the calibration rows: it is too low half the time."""
    logits, _ = drawn(20_000, seed=1_000, sharpness=4.0)
    shares = logits.softmax(dim=1).max(dim=1).values
    kept = []
    for seed in range(60):
        known = calibrated(rows=300, seed=seed, sharpness=4.0).calibration["both"]
        order = np.argsort(-np.array(known["score"]))
        rates = np.cumsum(np.array(known["right"])[order]) / np.arange(1, len(order) + 1)
        threshold = np.array(known["score"])[order][np.flatnonzero(rates >= 0.9)[-1]]
        kept.append(float(shares[shares >= threshold].mean()) >= 0.9)
    assert np.mean(kept) < 0.8


def test_a_promise_that_cannot_be_kept_has_no_threshold():
    logits, _ = drawn(300, seed=0)
    config = DiptychConfig(id2label={i: str(i) for i in range(CLASSES)})
    noise = torch.tensor(np.random.default_rng(0).integers(0, CLASSES, 300))
    config.calibration = calibrate({"both": logits}, {"both": noise}, config)
    assert precision_threshold(config, "both", 0.9) == math.inf


@pytest.mark.parametrize("coverage", [0.25, 0.5, 0.9])
def test_so_many_are_answered(coverage):
    config = calibrated()
    score = np.array(config.calibration["both"]["score"])
    assert np.mean(score >= coverage_threshold(config, "both", coverage)) == pytest.approx(coverage, abs=0.003)


@pytest.mark.parametrize("kind", SET_SCORES)
def test_sets_hold_the_true_class_as_often_as_they_should(kind):
    logits, labels = drawn(4_000, seed=1_000)
    draws = np.random.default_rng(7).random(len(labels))
    held, sizes = [], []
    for seed in range(20):
        config = calibrated(rows=400, seed=seed)
        limit = set_limit(config, "both", 0.9, kind)
        found = scores(logits, config).tolist()
        sets = [label_set(row, limit, kind, draw) for row, draw in zip(found[:500], draws, strict=False)]
        held.append(np.mean([int(label) in chosen for label, chosen in zip(labels, sets, strict=False)]))
        sizes.append(np.mean(list(map(len, sets))))
    assert 0.88 <= np.mean(held) <= 0.92
    assert 1 < np.mean(sizes) < CLASSES


def test_of_a_nearly_certain_model_ties_fall_on_one_side():
    """Nine rows of ten have scores above 0.999995, all different: as they are kept, they are equal."""
    rng = np.random.default_rng(0)
    sure = torch.tensor(np.where(rng.random(2_000) < 0.95, rng.uniform(13, 16, 2_000), rng.uniform(0, 2, 2_000)))
    logits = torch.stack([sure, torch.zeros(2_000)], dim=1).float()
    labels = (torch.tensor(rng.random(2_000)) > logits.softmax(1)[:, 0]).long()
    config = DiptychConfig(id2label={0: "a", 1: "b"})
    config.calibration = calibrate({"both": logits[:1_000]}, {"both": labels[:1_000]}, config)
    decided = [
        Decisions(config, ClassifyOptions(coverage=0.9, sets=0.9)).of(row, "both")
        for row in scores(logits[1_000:], config).tolist()
    ]
    assert np.mean([not row["abstained"] for row in decided]) >= 0.9
    hits = ["ab"[label] in row["label_set"] for label, row in zip(labels[1_000:], decided, strict=True)]
    assert np.mean(hits) >= 0.9


def test_sets_agree_with_another_library():
    crepes = pytest.importorskip("crepes", reason="crepes is not installed")
    from crepes.extras import hinge

    logits, labels = drawn(300, seed=0)
    config = calibrated(rows=300)
    known = scores(logits, config).numpy()
    theirs = crepes.ConformalClassifier().fit(hinge(known, np.arange(CLASSES), labels.numpy()))
    new, _ = drawn(200, seed=5)
    found = scores(new, config)
    sets = theirs.predict_set(hinge(found.numpy()), confidence=0.9, smoothing=False)
    limit = set_limit(config, "both", 0.9)
    ours = [[int(index in label_set(row, limit)) for index in range(CLASSES)] for row in found.tolist()]
    assert (np.array(ours) == sets).mean() > 0.998  # scores are kept to five places


def test_the_likeliest_come_first_and_adaptive_sets_add_mass():
    row = [0.1, 0.6, 0.3]
    assert label_set(row, 1.0) == [1, 2, 0]
    assert nonconformity(row, "adaptive", 1.0) == pytest.approx([1.0, 0.6, 0.9])
    assert nonconformity(row, "adaptive", 0.0) == pytest.approx([0.9, 0.0, 0.6])
    assert label_set(row, 0.85, "adaptive", 1.0) == [1]
