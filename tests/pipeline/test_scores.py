"""From raw logits to scores."""

from __future__ import annotations

import math

import pytest
import torch
from diptych.pipeline.config import DiptychConfig
from diptych.pipeline.scores import scores
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
