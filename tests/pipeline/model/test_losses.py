"""The loss of the classes against sums written out by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from diptych.pipeline.model.losses import ClassLoss, balanced_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from ...conftest import build_tiny, picture

SWITCHES = {
    "weights": [None, (0.5, 2.0, 1.5)],
    "focal_gamma": [0.0, 0.5, 2.0],
    "smoothing": [0.0, 0.1, 0.5],
}


def by_hand(logits: np.ndarray, labels: np.ndarray, weights: Any, gamma: float, smoothing: float) -> float:
    """One label a row: every row and class one after another."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        loss = 0.0
        for c in range(len(row)):
            target = (1 - smoothing) * (c == label) + smoothing / len(row)
            loss += target * (1 - p[c]) ** gamma * -math.log(p[c])
        losses.append((1.0 if weights is None else weights[label]) * loss)
    return float(np.mean(losses))


def several_by_hand(logits: np.ndarray, labels: np.ndarray, weights: Any, gamma: float, smoothing: float) -> float:
    """Any number of labels a row, likewise."""
    losses = []
    for row, truth in zip(logits, labels, strict=True):
        for c, z in enumerate(row):
            p = 1 / (1 + math.exp(-z))
            target = 1 - smoothing / 2 if truth[c] else smoothing / 2
            loss = target * (1 - p) ** gamma * -math.log(p) + (1 - target) * p**gamma * -math.log(1 - p)
            losses.append((1.0 if weights is None else weights[int(truth[c])][c]) * loss)
    return float(np.mean(losses))


@given(
    st.integers(0, 2**31),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_combination_is_the_formula(seed, weighted, gamma, smoothing, several):
    generator = np.random.default_rng(seed)
    rows, classes = int(generator.integers(1, 6)), int(generator.integers(1, 5))
    logits = generator.normal(scale=2, size=(rows, classes))
    labels = generator.integers(0, 2, (rows, classes)) if several else generator.integers(0, classes, rows)
    weights = generator.uniform(0.1, 3, (2, classes) if several else classes) if weighted else None
    tensor = None if weights is None else torch.tensor(weights)
    loss = ClassLoss(several, tensor, focal_gamma=gamma, smoothing=smoothing)
    found = loss(torch.tensor(logits), torch.tensor(labels))
    expected = (several_by_hand if several else by_hand)(logits, labels, weights, gamma, smoothing)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_with_every_switch_off_it_is_torchs_own():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels, truth = torch.tensor([0, 1, 2, 3, 3, 3, 0]), (logits > 0.3).long()
    torch.testing.assert_close(ClassLoss()(logits, labels), F.cross_entropy(logits, labels))
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(ClassLoss(smoothing=0.2)(logits, labels), smoothed)
    several = F.binary_cross_entropy_with_logits(logits, truth.float())
    torch.testing.assert_close(ClassLoss(multi_label=True)(logits, truth), several)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_changes_the_loss(switch, several):
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]])
    labels = torch.tensor([[1, 0, 0], [0, 1, 1]]) if several else torch.tensor([0, 2])
    found = []
    for value in SWITCHES[switch]:
        weights = None if value is None else torch.tensor([value, value] if several else value)
        options = {switch: weights if switch == "weights" else value}
        found.append(float(ClassLoss(several, **options)(logits, labels)))
    assert len({round(loss, 4) for loss in found}) == len(found)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_rows_have_finite_losses_and_gradients(gamma, several):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([[1, 0], [1, 0]]) if several else torch.tensor([0, 0])
    loss = ClassLoss(several, focal_gamma=gamma)(logits, labels)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_balanced_weights_are_scikit_learns_with_a_mean_of_1(labels):
    found = balanced_weights(torch.bincount(torch.tensor(labels), minlength=5))
    there = np.unique(labels)
    torch.testing.assert_close(
        found[there], torch.tensor(compute_class_weight("balanced", classes=there, y=labels)).float()
    )
    assert float(found[torch.tensor(labels)].mean()) == pytest.approx(1.0, rel=1e-5)
    assert (found[[c for c in range(5) if c not in labels]] == 1).all()
    totals = {c: float(found[c]) * n for c, n in Counter(labels).items()}
    assert max(totals.values()) == pytest.approx(min(totals.values()), rel=1e-5)


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_each_multi_label_class_is_balanced_for_itself(rows):
    present = torch.tensor(rows).sum(dim=0)
    found = balanced_weights(torch.stack([len(rows) - present, present]))
    for c in range(3):
        column = torch.tensor([row[c] for row in rows])
        torch.testing.assert_close(found[:, c], balanced_weights(torch.bincount(column, minlength=2)))


def test_a_batch_shared_by_two_processes_gives_the_gradient_of_the_whole():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 0, 0, 0, 1, 2])
    loss = ClassLoss(weights=balanced_weights(torch.bincount(labels)), focal_gamma=1.0, smoothing=0.1)
    halves = (loss(logits[:3], labels[:3]) + loss(logits[3:], labels[3:])) / 2
    torch.testing.assert_close(loss(logits, labels), halves)


def test_the_model_learns_by_it(text_folder):
    model, processor = build_tiny(text_folder, labels=["a", "b"])
    batch = processor([picture("red"), picture("blue")], ["a red shirt", "a shoe"])
    labels = torch.tensor([0, 1])
    model.eval().requires_grad_(False)
    output = model(**batch, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
    model.class_loss = ClassLoss(focal_gamma=2.0, weights=torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(model(**batch, labels=labels).loss, model.class_loss(output.logits, labels))
    assert float(model(**batch, labels=labels).loss) != pytest.approx(float(output.loss))
