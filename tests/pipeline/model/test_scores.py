"""From raw logits to scores."""

from __future__ import annotations

import math

import pytest
import torch
from diptych.pipeline.model.config import DiptychConfig
from diptych.pipeline.model.scores import chosen, scores
from torch import Tensor


def config(labels: int) -> DiptychConfig:
    return DiptychConfig(num_labels=labels)


def test_scores_are_shares_of_the_exponentials():
    found = scores(torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]]), config(2))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_row_sums_to_1_whatever_its_precision(classes, dtype):
    logits: Tensor = torch.randn(5, classes, generator=torch.Generator().manual_seed(0)).mul(20).to(dtype)
    found = scores(logits, config(classes))
    assert found.dtype == torch.float32
    assert found.shape == (5, classes)
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(5))


def test_large_logits_stay_finite():
    assert scores(torch.tensor([[1e30, -1e30]]), config(2)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("width", [1, 3])
def test_another_number_of_logits_than_of_labels_is_refused(width):
    with pytest.raises(ValueError, match=f"there are {width} logits a row for 2 labels"):
        scores(torch.zeros(4, width), config(2))


def several(*thresholds: float) -> DiptychConfig:
    options = {"thresholds": thresholds} if thresholds else {}
    return DiptychConfig(
        id2label={0: "a", 1: "b", 2: "c"}, label2id={}, problem_type="multi_label_classification", **options
    )


def test_multi_label_scores_are_each_its_own():
    found = scores(torch.tensor([[0.0, math.log(3.0), -math.log(4.0)]]), several())
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.75, 0.2]]))


@pytest.mark.parametrize(
    ("row", "thresholds", "label"),
    [
        ([0.5, 0.4, 0.9], (), ["a", "c"]),
        ([0.1, 0.2, 0.3], (), []),
        ([0.1, 0.2, 0.3], (0.2, 0.2, 0.1), ["b", "c"]),
        ([0.9, 0.9, 0.9], (0.95, 0.9, 0.95), ["b"]),
    ],
)
def test_multi_label_classes_are_those_that_reach_their_thresholds(row, thresholds, label):
    assert chosen(row, several(*thresholds)) == label


def test_otherwise_the_likeliest_is_chosen():
    assert chosen([0.2, 0.5, 0.3], DiptychConfig(id2label={0: "a", 1: "b", 2: "c"}, label2id={})) == "b"
