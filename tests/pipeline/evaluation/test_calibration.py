"""Temperatures that are found again, metrics against their definitions, and the reliability diagram."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diptych import DiptychConfig
from diptych.pipeline.evaluation.calibration import (
    FEW,
    MOST_ROWS,
    calibrate,
    calibration_metrics,
    expected_calibration_error,
    fit_temperature,
    fit_vector,
)
from diptych.pipeline.model.calibration import in_order_of
from diptych.pipeline.model.scores import scores
from sklearn.metrics import brier_score_loss, log_loss

from ..model.test_calibration import CLASSES, drawn


@pytest.mark.parametrize("wrong_by", [0.5, 1.0, 2.0, 5.0])
def test_a_temperature_is_found_again(wrong_by):
    logits, labels = drawn(20_000, seed=3)
    assert fit_temperature(logits * wrong_by, labels)[0] == pytest.approx(wrong_by, rel=0.04)


def test_a_temperature_that_is_chance_is_none():
    """Scores that are right as they are stay in most fits to 300 rows; three times as sharp they never do."""
    found = [fit_temperature(*drawn(300, seed=seed))[0] for seed in range(40)]
    assert found.count(1.0) >= 30
    sharp = [(logits * 3, labels) for logits, labels in (drawn(300, seed=seed) for seed in range(9))]
    assert all(fit_temperature(*rows)[0] > 1.5 for rows in sharp)


def shifted(rows, seed):
    """Logits that are too high for one class and too sharp for another, and labels."""
    logits, labels = drawn(rows, seed=seed)
    return logits * torch.tensor([1.0] * (CLASSES - 1) + [2.0]) + torch.tensor([1.0] + [0.0] * (CLASSES - 1)), labels


def test_classes_are_scaled_where_that_helps_rows_that_were_not_fitted():
    logits, labels = shifted(1_500, 0)
    scale, shift = fit_vector(logits, labels)
    assert scale[-1] < 0.8 < scale[0]
    assert shift[0] < min(shift[1:])
    other, truth = shifted(3_000, 1)
    changed = in_order_of(other, other * torch.tensor(scale) + torch.tensor(shift))
    before, after = (calibration_metrics(some.softmax(1), truth)["nll"] for some in (other, changed))
    assert after < before - 0.02
    assert torch.equal(other.argsort(1), changed.argsort(1))


@pytest.mark.parametrize("rows", [100, 1_500])
def test_classes_that_are_right_or_few_rows_are_left_alone(rows):
    logits, labels = shifted(rows, 2) if rows == 100 else drawn(rows, seed=2)
    assert fit_vector(logits, labels) is None


def test_scaled_classes_are_saved_and_used():
    config = DiptychConfig(id2label={i: str(i) for i in range(CLASSES)})
    logits, labels = shifted(1_500, 0)
    config.calibration = calibrate({"image": logits}, {"image": labels}, config)
    assert set(config.calibration) == {"image"}
    of_image, of_text = (scores(logits, config, torch.full((len(logits),), kind)) for kind in (2, 1))
    assert torch.equal(of_text, logits.softmax(1))
    assert calibration_metrics(of_image, labels)["nll"] < calibration_metrics(of_text, labels)["nll"] - 0.02
    assert torch.equal(of_image.argmax(1), of_text.argmax(1))
    known = config.calibration["image"]["score"]
    assert sorted(known) == pytest.approx(sorted(of_image.max(1).values.tolist()), abs=1e-4)


def test_of_several_labels_each_class_by_itself():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(20_000, 3)) * 2)
    labels = (torch.tensor(rng.random((20_000, 3))) < logits.sigmoid()).long()
    labels[:, 2] = 0
    found = fit_temperature(logits * torch.tensor([3.0, 0.5, 1.0]), labels, multi_label=True)
    assert found == pytest.approx([3.0, 0.5, 1.0], rel=0.06)


def test_rows_all_right_do_not_raise_confidence_without_end():
    logits = torch.eye(4).repeat(20, 1) * 3
    temperature = fit_temperature(logits, logits.argmax(1))[0]
    assert 0.4 < temperature <= 1.0
    assert fit_temperature(logits * 20, logits.argmax(1)) == [1.0]
    ones = (logits > 0).long()
    for found in fit_temperature(logits - 1.5, ones, multi_label=True):  # 80 rows right, and half of one more
        assert 1.5 / found == pytest.approx(np.log(80.5 / 0.5), rel=0.01)


def test_a_model_that_is_right_of_all_its_validation_rows_is_not_surer_than_it_is_right_of_others():
    """Of rows of which 95 % are right, 40 that happen to be right calibrate; the others judge."""
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 4, size=4_000))
    margin = torch.tensor(rng.normal(2.5, 1.2, size=4_000))
    logits = torch.nn.functional.one_hot(labels, 4) * margin[:, None] + torch.tensor(rng.normal(size=(4_000, 4))) * 0.3
    right = torch.where(logits.argmax(1) == labels)[0]
    before = calibration_metrics(logits.softmax(1), labels)["nll"]
    for seed in range(8):
        chosen = right[torch.tensor(np.random.default_rng(seed).choice(len(right), 40, replace=False))]
        temperature = fit_temperature(logits[chosen], labels[chosen])[0]
        assert calibration_metrics((logits / temperature).softmax(1), labels)["nll"] < before + 0.02


def test_metrics_are_what_they_are_called():
    logits, labels = drawn(400, seed=1)
    found = logits.softmax(1).double()
    metrics = calibration_metrics(found, labels)
    assert metrics["nll"] == pytest.approx(log_loss(labels, found.numpy(), labels=range(CLASSES)), abs=1e-6)
    truth = torch.nn.functional.one_hot(labels, CLASSES)
    assert metrics["brier"] == pytest.approx(
        sum(brier_score_loss(truth[:, k], found[:, k]) for k in range(CLASSES)), abs=1e-6
    )


def test_the_error_is_0_where_confidence_is_accuracy_and_the_distance_where_not():
    confidence = np.repeat([0.2, 0.8], 500)
    right = np.concatenate([np.arange(500) < 100, np.arange(500) < 400]).astype(float)
    right = np.concatenate([np.random.default_rng(0).permutation(part) for part in (right[:500], right[500:])])
    assert expected_calibration_error(confidence, right) < 0.06
    assert expected_calibration_error(confidence, np.ones(1000)) == pytest.approx(0.5)
    assert expected_calibration_error(np.array([]), np.array([])) == 0


def test_a_temperature_lowers_the_loss_and_keeps_the_order():
    logits, labels = drawn(2_000, seed=2)
    config = DiptychConfig(id2label={i: str(i) for i in range(CLASSES)})
    raw = (logits * 3).softmax(1)
    temperature = calibrate({"both": logits * 3}, {"both": labels}, config)["both"]["temperature"][0]
    after = (logits * 3 / temperature).softmax(1)
    assert calibration_metrics(after, labels)["nll"] < calibration_metrics(raw, labels)["nll"] - 0.1
    assert calibration_metrics(after, labels)["ece"] < 0.03 < calibration_metrics(raw, labels)["ece"]
    assert torch.equal(after.argmax(1), raw.argmax(1))


def test_few_rows_are_left_alone_and_of_many_some_are_kept():
    config = DiptychConfig(id2label={i: str(i) for i in range(CLASSES)})
    few, many = drawn(FEW - 1, seed=0), drawn(MOST_ROWS + 500, seed=0)
    found = calibrate({"text": few[0], "both": many[0]}, {"text": few[1], "both": many[1]}, config)
    assert list(found) == ["both"]
    assert found["both"]["rows"] == MOST_ROWS + 500
    assert {len(found["both"][key]) for key in ("score", "right", "adaptive", "least-ambiguous")} == {MOST_ROWS}
