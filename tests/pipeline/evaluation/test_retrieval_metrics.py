"""Ranking figures against sorting by hand and against chance."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from diptych.pipeline.evaluation.retrieval_metrics import chance_recall_at, recall_at, zero_shot_accuracy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def recall_by_sorting(similarity: Tensor, positives: Tensor, k: int) -> float:
    """Of each query's candidates in the worst order that its similarities allow."""
    found = 0
    for scores, right in zip(similarity.tolist(), positives.tolist(), strict=True):
        worst = sorted(zip(scores, right, strict=True), key=lambda candidate: (-candidate[0], candidate[1]))
        found += any(is_right for _, is_right in worst[:k])
    return found / len(similarity)


@settings(deadline=None, max_examples=60)
@given(
    queries=st.integers(1, 4),
    candidates=st.integers(1, 6),
    levels=st.sampled_from([1, 2, 4, 1000]),
    k=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_recall_is_that_of_the_worst_order_that_ties_allow(queries, candidates, levels, k, seed):
    torch.manual_seed(seed)
    similarity = torch.randint(levels, (queries, candidates)).float()
    positives = torch.rand(queries, candidates) < 0.4
    positives[torch.arange(queries), torch.randint(candidates, (queries,))] = True
    assert recall_at(similarity, positives, [k])[k] == pytest.approx(recall_by_sorting(similarity, positives, k))


def test_recall_by_hand():
    similarity = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.3, 0.8], [0.1, 0.5, 0.9]])
    positives = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0]]).bool()  # ranks 1, 2 and 3
    assert recall_at(similarity, positives, [1, 2, 3, 10]) == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1.0, 10: 1.0})
    assert recall_at(similarity, positives | torch.tensor([False, False, True]), [1]) == {1: 1.0}


def test_a_model_that_gives_everything_the_same_score_finds_nothing():
    positives = torch.eye(5).bool()
    assert recall_at(torch.zeros(5, 5), positives, [1, 4, 5]) == {1: 0.0, 4: 0.0, 5: 1.0}
    assert zero_shot_accuracy(torch.zeros(5, 5), torch.arange(5)) == 0.0
    assert recall_at(torch.zeros(2, 3), torch.ones(2, 3).bool(), [1]) == {1: 1.0}  # nothing to mistake it for


@pytest.mark.parametrize(("candidates", "right"), [(5, 1), (5, 2), (4, 4), (3, 2)])
def test_chance_is_the_mean_over_every_order(candidates, right):
    positives = (torch.arange(candidates) < right).unsqueeze(0)
    orders = torch.tensor(list(permutations(range(candidates)))).float()
    ks = [1, 2, 3, 10]
    expected = recall_at(orders, positives.expand(len(orders), -1), ks)
    assert chance_recall_at(positives, ks) == pytest.approx(expected)


def test_chance_is_averaged_over_queries():
    positives = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    assert chance_recall_at(positives, [1, 2]) == pytest.approx({1: (1 / 4 + 2 / 4) / 2, 2: (1 / 2 + 5 / 6) / 2})


def test_chance_among_thousands_of_candidates():
    positives = torch.zeros(2, 5000).bool()
    positives[:, :3] = True
    expected = 1 - math.prod((4997 - i) / (5000 - i) for i in range(10))
    assert chance_recall_at(positives, [10])[10] == pytest.approx(expected)


def test_zero_shot_accuracy_by_hand():
    similarity = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.5, 0.5]])
    assert zero_shot_accuracy(similarity, torch.tensor([0, 1, 1, 0])) == 0.5


EYE = torch.eye(2).bool()


@pytest.mark.parametrize(
    ("similarity", "positives", "ks", "message"),
    [
        (torch.rand(2, 3), EYE, [1], r"similarity is \(2, 3\) and positives \(2, 2\); they must be alike"),
        (torch.rand(2, 2), EYE, [5, 0], "k is 0; it must be at least 1"),
        (torch.rand(0, 2), EYE[:0], [1], "there are no queries"),
        (torch.rand(2, 2), torch.tensor([[True, False], [False, False]]), [1], "query 1 has no positive candidate"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), EYE, [1], "similarity has NaN"),
    ],
)
def test_what_cannot_be_ranked_is_refused(similarity, positives, ks, message):
    with pytest.raises(ValueError, match=message):
        recall_at(similarity, positives, ks)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 2]), r"labels go from 0 to 2; they must be in \[0, 2\)"),
        (torch.tensor([-1, 1]), "labels go from -1 to 1"),
        (torch.tensor([0]), r"labels is \(1,\); it must be \(2,\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_accuracy(torch.rand(2, 2), labels)
