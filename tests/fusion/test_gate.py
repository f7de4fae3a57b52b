"""The modality gate's weights, and the equal ones in its place."""

from __future__ import annotations

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion.gate import EqualWeights, ModalityGate, attention_gates, modality_gate
from hypothesis import given, settings
from hypothesis import strategies as st

from . import random_tokens, shake
from .by_hand import norm_by_hand

DIM = 16
PRESENT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5)


def halves(present: list[tuple[bool, bool]]) -> tuple[Tokens, Tokens]:
    images, texts = zip(*present, strict=True)
    rows = len(present)
    return (
        random_tokens([4] * rows, 4, DIM, present=list(images)),
        random_tokens([3] * rows, 3, DIM, present=list(texts)),
    )


@settings(deadline=None, max_examples=30)
@given(present=PRESENT, seed=st.integers(0, 1000), sharpness=st.sampled_from([1.0, 1000.0]))
def test_weights_are_non_negative_sum_to_one_and_an_absent_half_gets_exactly_zero(present, seed, sharpness):
    torch.manual_seed(seed)
    gate = shake(ModalityGate(DIM))
    with torch.no_grad():
        gate.scores[-1].weight.mul_(sharpness)
    weights = gate(*halves(present))
    assert weights.shape == (len(present), 2)
    for row, there in zip(weights.tolist(), present, strict=True):
        if there == (True, True):
            assert min(row) >= 0
            assert sum(row) == pytest.approx(1, abs=1e-6)
        else:
            assert row == [float(there[0]), float(there[1])]


def test_rows_that_have_both_halves_get_weights_of_their_own():
    torch.manual_seed(0)
    weights = shake(ModalityGate(DIM))(*halves([(True, True)] * 4))
    assert len(set(weights[:, 0].tolist())) == 4
    assert ((weights > 0) & (weights < 1)).all()


def test_both_halves_start_with_exactly_equal_weights():
    assert ModalityGate(DIM)(*halves([(True, True)] * 3)).tolist() == [[0.5, 0.5]] * 3


def test_a_gate_learns_from_its_start():
    gate = ModalityGate(DIM)
    gate(*halves([(True, True)] * 3))[:, 0].sum().backward()
    assert gate.scores[-1].weight.grad.abs().sum() > 0


def test_gradients_are_finite_whatever_is_absent():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = halves([(True, True), (True, False), (False, True), (False, False)])
    image.states.requires_grad_()
    gate(image, text)[:, 0].sum().backward()
    assert bool(image.states.grad.isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in gate.parameters())
    assert image.states.grad[0].abs().sum() > 0
    assert not image.states.grad[1:].any()


def test_padded_tokens_do_not_move_the_weights():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    weights = gate(image, text)
    text.states[0, 2:] = 50.0
    assert torch.equal(gate(image, text), weights)
    text.states[0, 1] += torch.randn(DIM)
    assert not torch.equal(gate(image, text)[0], weights[0])
    assert torch.equal(gate(image, text)[1], weights[1])


def test_either_half_can_move_the_weights():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = halves([(True, True)])
    other_image, other_text = halves([(True, True)])
    weights = gate(image, text)
    assert not torch.allclose(gate(other_image, text), weights)
    assert not torch.allclose(gate(image, other_text), weights)


def test_weights_are_a_softmax_over_scores_of_both_normed_means_by_hand():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    means = image.states[0].mean(dim=0), text.states[0, :2].mean(dim=0)
    summaries = torch.cat(
        [norm_by_hand(norm, mean) for norm, mean in zip((gate.norm_image, gate.norm_text), means, strict=True)]
    )
    scores = gate.scores(summaries)
    expected = scores.exp() / scores.exp().sum()
    torch.testing.assert_close(gate(image, text)[0], expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=15)
@given(present=PRESENT)
def test_without_a_gate_the_halves_that_are_there_weigh_the_same(present):
    weights = EqualWeights()(*halves(present))
    assert weights.tolist() == [[0.5, 0.5] if all(there) else [float(half) for half in there] for there in present]
    assert isinstance(modality_gate(DIM, False), EqualWeights)
    assert isinstance(modality_gate(DIM, True), ModalityGate)


def test_a_half_comes_in_by_its_weight_and_a_null_token_ungated():
    image, text = halves([(True, True), (False, True), (True, False)])
    weights = torch.tensor([[0.3, 0.7], [0.0, 1.0], [1.0, 0.0]])
    image_gate, text_gate = attention_gates(weights, image, text)
    assert image_gate.shape == text_gate.shape == (3, 1, 1)
    assert image_gate.flatten().tolist() == pytest.approx([0.3, 1.0, 1.0])
    assert text_gate.flatten().tolist() == pytest.approx([0.7, 1.0, 1.0])
