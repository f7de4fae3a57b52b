"""The modality gate's weights, and the terms that keep it open and teach it."""

from __future__ import annotations

import math

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion import balance_loss, unimodal_loss
from diptych.fusion.gate import ModalityGate, attention_gates
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from . import random_tokens, shake

DIM = 16
PRESENT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5)
BOTH = torch.tensor([[True, True]])


def halves(present: list[tuple[bool, bool]]) -> tuple[Tokens, Tokens]:
    images, texts = zip(*present, strict=True)
    rows = len(present)
    return (
        random_tokens([4] * rows, 4, DIM, present=list(images)),
        random_tokens([3] * rows, 3, DIM, present=list(texts)),
    )


def weigh(gate: ModalityGate, image: Tokens, text: Tokens) -> Tensor:
    weights, _ = gate(image, text)
    return weights


@settings(deadline=None, max_examples=30)
@given(present=PRESENT, seed=st.integers(0, 1000), sharpness=st.sampled_from([1.0, 1000.0]))
def test_weights_are_non_negative_sum_to_one_and_an_absent_half_gets_exactly_zero(present, seed, sharpness):
    torch.manual_seed(seed)
    gate = shake(ModalityGate(DIM))
    with torch.no_grad():
        gate.scores[-1].weight.mul_(sharpness)
    weights = weigh(gate, *halves(present))
    assert weights.shape == (len(present), 2)
    for row, there in zip(weights.tolist(), present, strict=True):
        if there == (True, True):
            assert min(row) >= 0
            assert sum(row) == pytest.approx(1, abs=1e-6)
        else:
            assert row == [float(there[0]), float(there[1])]


def test_rows_that_have_both_halves_get_weights_of_their_own():
    torch.manual_seed(0)
    weights = weigh(shake(ModalityGate(DIM)), *halves([(True, True)] * 4))
    assert len(set(weights[:, 0].tolist())) == 4
    assert ((weights > 0) & (weights < 1)).all()


def test_both_halves_start_with_exactly_equal_weights():
    assert weigh(ModalityGate(DIM), *halves([(True, True)] * 3)).tolist() == [[0.5, 0.5]] * 3


def test_a_gate_learns_from_its_start():
    gate = ModalityGate(DIM)
    weigh(gate, *halves([(True, True)] * 3))[:, 0].sum().backward()
    assert gate.scores[-1].weight.grad.abs().sum() > 0


def test_gradients_are_finite_whatever_is_absent():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = halves([(True, True), (True, False), (False, True), (False, False)])
    image.states.requires_grad_()
    weigh(gate, image, text)[:, 0].sum().backward()
    assert bool(image.states.grad.isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in gate.parameters())
    assert image.states.grad[0].abs().sum() > 0
    assert not image.states.grad[1:].any()


def test_padded_tokens_do_not_move_the_weights():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    weights = weigh(gate, image, text)
    text.states[0, 2:] = 50.0
    assert torch.equal(weigh(gate, image, text), weights)
    text.states[0, 1] += torch.randn(DIM)
    assert not torch.equal(weigh(gate, image, text)[0], weights[0])
    assert torch.equal(weigh(gate, image, text)[1], weights[1])


def test_either_half_can_move_the_weights():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = halves([(True, True)])
    other_image, other_text = halves([(True, True)])
    weights = weigh(gate, image, text)
    assert not torch.allclose(weigh(gate, other_image, text), weights)
    assert not torch.allclose(weigh(gate, image, other_text), weights)


def test_summaries_are_each_half_by_itself():
    torch.manual_seed(0)
    gate = shake(ModalityGate(DIM))
    image, text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    _, summaries = gate(image, text)
    assert summaries.shape == (2, 2, DIM)
    _, other = gate(random_tokens([4, 4], 4, DIM), text)
    assert torch.equal(summaries[:, 1], other[:, 1])
    assert not torch.allclose(summaries[:, 0], other[:, 0])
    mean = text.states[0, :2].mean(dim=0)
    expected = (mean - mean.mean()) / mean.std(correction=0) * gate.norm_text.weight + gate.norm_text.bias
    torch.testing.assert_close(summaries[0, 1], expected, atol=1e-4, rtol=0)


def test_balance_is_zero_where_the_means_are_equal_however_far_each_row_leans():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.2, 0.8], [0.8, 0.2]])
    assert balance_loss(weights, torch.ones(4, 2, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)


def test_balance_is_the_divergence_computed_by_hand():
    weights = torch.tensor([[0.9, 0.1], [0.7, 0.3]])  # means 0.8 and 0.2
    expected = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)  # 0.2231
    assert balance_loss(weights, torch.ones(2, 2, dtype=torch.bool)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("side", [0, 1])
def test_balance_rises_as_one_half_is_shut_out(side):
    losses = []
    for small in (0.5, 0.3, 0.1, 0.01, 1e-4):
        weights = torch.tensor([[small, 1 - small]])
        losses.append(balance_loss(weights.flip(1) if side else weights, BOTH).item())
    assert losses == sorted(losses)
    assert losses[-1] > 3


@pytest.mark.parametrize("difference", [1.0, 4.0, 8.0, 12.0])
def test_balance_still_pulls_at_a_gate_that_has_closed(difference):
    """The gradient of the entropy of the weights would be about 1e-4 at a difference of 12."""
    scores = torch.tensor([[0.0, difference]], requires_grad=True)
    balance_loss(scores.softmax(dim=-1), BOTH).backward()
    # d KL / d score = weight - 1/2, by hand
    small = 1 / (1 + math.exp(difference))
    assert scores.grad[0].tolist() == pytest.approx([small - 0.5, 0.5 - small], abs=1e-3)


def test_the_weights_of_rows_with_one_half_do_not_count():
    present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    rows = [[0.9, 0.1], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    weights = torch.tensor(rows, requires_grad=True)
    loss = balance_loss(weights, present)
    assert loss.item() == pytest.approx(balance_loss(torch.tensor([rows[0], *[[0.3, 0.7]] * 3]), present).item())
    loss.backward()
    assert weights.grad[0].abs().min() > 0
    assert not weights.grad[1:].any()


def test_a_batch_in_which_no_row_has_both_halves_is_in_balance():
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = balance_loss(weights, torch.tensor([[True, False], [True, False]]))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert not weights.grad.any()


def unimodal_rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the halves of four rows, three classes; weights; labels."""
    torch.manual_seed(seed)
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.0, 1.0], [0.6, 0.4]])
    return torch.randn(4, 2, 3), weights, torch.tensor([0, 2, 1, 2])


def test_unimodal_loss_is_each_halfs_own_and_that_of_their_mixture_by_hand():
    logits, weights, labels = unimodal_rows()
    present = [(True, True), (True, False), (False, True), (True, True)]
    own, mixture = [], []
    for row, there in enumerate(present):
        chances = [logits[row, half].softmax(dim=0)[labels[row]].item() for half in range(2)]
        own += [-math.log(chance) for chance, is_there in zip(chances, there, strict=True) if is_there]
        mixture.append(-math.log(sum(weights[row, half].item() * chances[half] for half in range(2))))
    loss = unimodal_loss(logits, weights, labels, torch.tensor(present))
    assert loss.item() == pytest.approx(sum(own) / len(own) + sum(mixture) / len(mixture), abs=1e-5)


def test_unimodal_loss_moves_the_weight_to_the_half_that_knows():
    logits = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]])
    scores = torch.zeros(3, 2, requires_grad=True)
    labels = torch.tensor([0, 0, 1])  # the image is right, is wrong, knows nothing
    unimodal_loss(logits, scores.softmax(dim=1), labels, torch.ones(3, 2, dtype=torch.bool)).backward()
    assert (-scores.grad[:, 0]).sign().tolist() == [1.0, -1.0, -1.0]


def test_through_the_mixture_only_the_weights_learn():
    logits, weights, labels = unimodal_rows()
    present = torch.ones(4, 2, dtype=torch.bool)
    gradients = []
    for these in (weights, weights.flip(1)):
        logits = logits.detach().requires_grad_()
        unimodal_loss(logits, these, labels, present).backward()
        gradients.append(logits.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0


def test_absent_halves_do_not_enter_the_unimodal_loss():
    logits, weights, labels = unimodal_rows()
    present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    logits.requires_grad_()
    weights = torch.where(present, weights, 0.0).requires_grad_()
    loss = unimodal_loss(logits, weights, labels, present)
    loss.backward()
    assert not logits.grad[~present].any()
    assert logits.grad[present].abs().amax(dim=1).min() > 0
    assert bool(weights.grad.isfinite().all())
    shorter = unimodal_loss(logits[:3], weights[:3], labels[:3], present[:3])
    assert loss.item() == pytest.approx(shorter.item())  # a row without any half does not count


def test_an_absent_half_cannot_know_the_label():
    present, label, weights = torch.tensor([[True, False]]), torch.tensor([0]), torch.tensor([[1.0, 0.0]])
    losses = []
    for claim in (-30.0, 30.0):
        logits = torch.tensor([[[-30.0, 0.0], [claim, 0.0]]])
        losses.append(unimodal_loss(logits, weights, label, present).item())
    assert losses == pytest.approx([60.0, 60.0])  # 30 of the image's own and 30 of a mixture of it alone


def test_a_batch_without_any_half_has_no_unimodal_loss():
    logits, weights, labels = unimodal_rows()
    assert unimodal_loss(logits, weights * 0, labels, torch.zeros(4, 2, dtype=torch.bool)).item() == 0


def test_a_half_comes_in_by_its_weight_and_a_null_token_ungated():
    image, text = halves([(True, True), (False, True), (True, False)])
    weights = torch.tensor([[0.3, 0.7], [0.0, 1.0], [1.0, 0.0]])
    image_gate, text_gate = attention_gates(weights, image, text)
    assert image_gate.shape == text_gate.shape == (3, 1, 1)
    assert image_gate.flatten().tolist() == pytest.approx([0.3, 1.0, 1.0])
    assert text_gate.flatten().tolist() == pytest.approx([0.7, 1.0, 1.0])


def test_rows_with_one_half_do_not_dilute_the_balance():
    lone = balance_loss(torch.tensor([[0.9, 0.1]]), torch.tensor([[True, True]]))
    weights = torch.tensor([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0]])
    present = torch.tensor([[True, True], [True, False], [False, True]])
    assert balance_loss(weights, present).item() == pytest.approx(lone.item())
