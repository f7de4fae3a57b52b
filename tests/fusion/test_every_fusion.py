"""What holds for every fusion: padding, order and absent halves change nothing, and a weight of 0 shuts a half out."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from diptych.encoders import NullTokens, Tokens
from diptych.fusion import Fused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from . import FUSIONS, doubled, forced, lengthen, make_fusion, random_tokens, refill, rows_of

DIM, REGIONS, WORDS = 16, 4, 5
KINDS = pytest.mark.parametrize("kind", FUSIONS)
EACH = pytest.mark.parametrize(("kind", "gated"), [(kind, gated) for kind in FUSIONS for gated in (True, False)])
FEW = settings(deadline=None, max_examples=6)
PRESENT = st.sampled_from([(True, True), (True, True), (True, False), (False, True), (False, False)])
ROWS = st.lists(st.tuples(PRESENT, st.integers(1, REGIONS), st.integers(1, WORDS)), min_size=1, max_size=4)
HALVES = pytest.mark.parametrize("half", ["image", "text"])


@functools.cache
def fusion_of(kind: str, gated: bool = True) -> Any:
    return make_fusion(kind, DIM, gated=gated)


def batch(rows: list, seed: int = 1) -> tuple[Tokens, Tokens]:
    """Tokens as a fusion gets them: absent halves hold their null tokens."""
    torch.manual_seed(seed)
    present, regions, words = zip(*rows, strict=True)
    images, texts = ([there[half] for there in present] for half in (0, 1))
    image = random_tokens(list(regions), REGIONS, DIM, present=images)
    text = random_tokens(list(words), WORDS, DIM, present=texts)
    with torch.no_grad():
        return NullTokens(DIM)(image, text)


def pair(seed: int = 1) -> tuple[Tokens, Tokens]:
    """Three rows that have both halves."""
    return batch([((True, True), REGIONS, words) for words in (2, 5, 3)], seed)


def assert_same(one: Fused, two: Fused) -> None:
    torch.testing.assert_close(one.features, two.features, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.modality_weights, two.modality_weights, atol=1e-5, rtol=0)


def differ(one: Tensor, two: Tensor) -> bool:
    """Whether every row differs."""
    return bool((one - two).abs().amax(dim=1).min() > 1e-3)


def finite(*tensors: Tensor | None) -> bool:
    return all(tensor is None or bool(tensor.isfinite().all()) for tensor in tensors)


# Padding, order, absent halves


@EACH
@FEW
@given(rows=ROWS, more=st.integers(1, 4), what=st.sampled_from([0.0, -1.0, 1e3]), seed=st.integers(0, 99))
def test_neither_more_padding_nor_what_it_holds_changes_anything(kind, gated, rows, more, what, seed):
    fusion = fusion_of(kind, gated)
    image, text = batch(rows, seed)
    fused = fusion(image, text)
    assert_same(fusion(refill(image, what), refill(text, what)), fused)
    assert_same(fusion(lengthen(image, more, what), lengthen(text, more, what)), fused)


@EACH
@FEW
@given(rows=ROWS, data=st.data(), seed=st.integers(0, 99))
def test_neither_the_order_of_the_rows_nor_the_other_rows_change_a_row(kind, gated, rows, data, seed):
    fusion = fusion_of(kind, gated)
    image, text = batch(rows, seed)
    fused = fusion(image, text)
    order = data.draw(st.permutations(range(len(rows))))
    moved = fusion(rows_of(image, order), rows_of(text, order))
    assert_same(moved, Fused(fused.features[order], fused.modality_weights[order]))
    alone = [fusion(rows_of(image, [row]), rows_of(text, [row])) for row in range(len(rows))]
    features, weights = (torch.cat([getattr(f, name) for f in alone]) for name in ("features", "modality_weights"))
    assert_same(Fused(features, weights), fused)


@EACH
@FEW
@given(rows=ROWS, seed=st.integers(0, 99))
def test_weights_sum_to_one_and_that_of_an_absent_half_is_exactly_0(kind, gated, rows, seed):
    weights = fusion_of(kind, gated)(*batch(rows, seed)).modality_weights
    assert weights.shape == (len(rows), 2)
    for (there, _, _), row in zip(rows, weights.tolist(), strict=True):
        if all(there):
            assert min(row) > 0
            assert sum(row) == pytest.approx(1, abs=1e-6)
            assert gated or row == [0.5, 0.5]
        else:
            assert row == [float(half) for half in there]


@EACH
@pytest.mark.parametrize("what", [1e3, float("nan")])
def test_what_stands_in_an_absent_half_changes_nothing_and_gets_no_gradient(kind, gated, what):
    fusion, null = fusion_of(kind, gated), NullTokens(DIM)
    image, text = pair()
    image = replace(image, present=torch.tensor([False, True, True]))
    text = replace(text, present=torch.tensor([True, False, True]))
    fused = fusion(*null(image, text))
    for tokens in (image, text):
        tokens.states[~tokens.present] = what
        tokens.states.requires_grad_()
    again = fusion(*null(image, text))
    assert torch.equal(again.features, fused.features)
    again.features.square().sum().backward()
    for tokens in (image, text):
        assert not tokens.states.grad[~tokens.present].any()
        assert finite(tokens.states.grad)


@EACH
@HALVES
def test_a_null_token_is_heard_although_its_half_weighs_nothing(kind, gated, half):
    fusion, null = fusion_of(kind, gated), NullTokens(DIM)
    image, text = pair()
    there = torch.tensor([False, True, True])
    given_tokens = (replace(image, present=there), text) if half == "image" else (image, replace(text, present=there))
    fused = fusion(*null(*given_tokens))
    fused.features.square().sum().backward()
    assert fused.modality_weights[0].tolist() == [float(half == "text"), float(half == "image")]
    assert getattr(null, half).grad.abs().max() > 0
    with torch.no_grad():
        getattr(null, half).normal_()
    features = fusion(*null(*given_tokens)).features
    assert differ(features[:1], fused.features[:1])
    torch.testing.assert_close(features[1:], fused.features[1:], atol=1e-6, rtol=0)


@EACH
def test_a_row_without_any_half_gives_finite_features_and_gradients(kind, gated):
    fusion, null = make_fusion(kind, DIM, gated=gated), NullTokens(DIM)
    there = torch.tensor([False, True, True])
    fused = fusion(*null(*(replace(tokens, present=there) for tokens in pair())))
    fused.features.square().sum().backward()
    assert fused.modality_weights[0].tolist() == [0.0, 0.0]
    assert finite(fused.features, *(p.grad for p in (*fusion.parameters(), *null.parameters())))


# The modality weights


@KINDS
@HALVES
@FEW
@given(seed=st.integers(0, 99))
def test_with_its_weight_0_any_two_of_a_half_give_identical_features_and_no_gradient(kind, half, seed):
    fusion = fusion_of(kind)
    (image, text), (other_image, other_text) = pair(seed), pair(seed + 100)
    weights = forced(0.0, 1.0) if half == "image" else forced(1.0, 0.0)
    shut, heard = (image, text) if half == "image" else (text, image)
    shut.states.requires_grad_()
    heard.states.requires_grad_()
    features = fusion(image, text, modality_weights=weights).features
    other = (other_image, text) if half == "image" else (image, other_text)
    assert torch.equal(fusion(*other, modality_weights=weights).features, features)
    features.square().sum().backward()
    assert not shut.states.grad.any()
    assert finite(heard.states.grad)
    assert heard.states.grad.abs().amax(dim=(1, 2)).min() > 0


@KINDS
def test_between_the_ends_features_depend_on_both_halves(kind):
    fusion = fusion_of(kind)
    (image, text), (other_image, other_text) = pair(1), pair(2)
    for tokens in (image, text):
        tokens.states.requires_grad_()
    features = fusion(image, text, modality_weights=forced(0.5, 0.5)).features
    for ends in ((0.0, 1.0), (1.0, 0.0)):
        assert differ(fusion(image, text, modality_weights=forced(*ends)).features, features)
    for halves in ((other_image, text), (image, other_text)):
        assert differ(fusion(*halves, modality_weights=forced(0.5, 0.5)).features, features)
    features.square().sum().backward()
    for tokens in (image, text):
        assert tokens.states.grad.abs().amax(dim=(1, 2)).min() > 0


@KINDS
def test_no_gradient_is_nan_where_a_weight_is_0_or_1(kind):
    fusion = make_fusion(kind, DIM)
    image, text = pair()
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], requires_grad=True)
    for tokens in (image, text):
        tokens.states.requires_grad_()
    for return_attentions in (False, True):
        features = fusion(image, text, modality_weights=weights, return_attentions=return_attentions).features
        features.square().sum().backward()
    assert finite(features, weights.grad, image.states.grad, text.states.grad, *(p.grad for p in fusion.parameters()))
    assert weights.grad[2].abs().max() > 0


@KINDS
def test_a_gate_that_leans_to_the_end_gives_finite_gradients(kind):
    fusion = make_fusion(kind, DIM)
    with torch.no_grad():
        fusion.gate.scores[-1].weight.mul_(1e4)
    fused = fusion(*pair())
    assert {0.0, 1.0} >= set(fused.modality_weights.flatten().tolist())
    fused.features.square().sum().backward()
    assert finite(*(p.grad for p in fusion.parameters()))


@KINDS
def test_each_row_is_weighed_by_its_own_weights(kind):
    fusion = fusion_of(kind)
    image, text = pair()
    mixed = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.3, 0.7]])
    features = fusion(image, text, modality_weights=mixed).features
    for row in range(3):
        alone = fusion(image, text, modality_weights=mixed[row].expand(3, 2)).features[row]
        torch.testing.assert_close(features[row], alone, atol=1e-5, rtol=0)


@EACH
def test_without_forced_weights_the_gate_gives_them(kind, gated):
    fusion = fusion_of(kind, gated)
    image, text = pair()
    fused = fusion(image, text)
    assert torch.equal(fused.modality_weights, fusion.gate(image, text))
    again = fusion(image, text, modality_weights=fused.modality_weights)
    assert torch.equal(fused.features, again.features)


@KINDS
def test_the_gate_is_a_switch(kind):
    gated, plain = make_fusion(kind, DIM), make_fusion(kind, DIM, gated=False)
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if not key.startswith("gate.")})
    image, text = pair()
    fused = gated(image, text)
    assert (plain(image, text).features - fused.features).abs().max() > 1e-3
    torch.testing.assert_close(
        plain(image, text).features, gated(image, text, modality_weights=forced(0.5, 0.5)).features
    )
    fused.features.square().sum().backward()
    assert gated.gate.scores[-1].weight.grad.abs().max() > 0  # it learns from what the features are for
    assert not list(plain.gate.parameters())


# Training


@KINDS
def test_gradients_are_those_of_finite_differences(kind):
    fusion = make_fusion(kind, 4).double()
    torch.manual_seed(0)
    image, text = (doubled(random_tokens(lengths, 3, 4)) for lengths in ([2, 3], [3, 1]))
    weights = forced(0.3, 0.7, 2).double()
    inputs = [tensor.requires_grad_() for tensor in (image.states, text.states, weights)]

    def features(image_states: Tensor, text_states: Tensor, weights: Tensor | None) -> Tensor:
        halves = replace(image, states=image_states), replace(text, states=text_states)
        return fusion(*halves, modality_weights=weights).features

    assert torch.autograd.gradcheck(features, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda i, t: features(i, t, None), inputs[:2], fast_mode=True)  # through the gate


@EACH
def test_every_parameter_learns(kind, gated):
    fusion = make_fusion(kind, DIM, gated=gated)
    fusion(*pair()).features.square().sum().backward()
    assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == []


@KINDS
def test_dropout_works_in_training_only_and_on_the_features_too(kind):
    fusion = make_fusion(kind, DIM)
    image, text = pair()
    assert torch.equal(fusion(image, text).features, fusion(image, text).features)
    fusion.train()
    one, two = (fusion(image, text).features for _ in range(2))
    assert not torch.equal(one, two)
    if kind not in ("concat", "mlp"):
        assert 0 < (one == 0).float().mean() < 0.4  # of a tenth


@KINDS
def test_half_precision_gives_nearly_the_same(kind):
    fusion = make_fusion(kind, DIM)
    image, text = batch([((True, True), 4, 5), ((True, True), 2, 1), ((False, True), 3, 3), ((True, False), 4, 2)])
    expected = fusion(image, text).features
    with torch.autocast("cpu", torch.bfloat16):
        features = fusion(image, text).features
    assert (features - expected).abs().max() < 0.1 * expected.abs().max()
    features.square().sum().backward()
    assert finite(*(p.grad for p in fusion.parameters()))


# Attention maps


@KINDS
def test_maps_come_on_request_and_do_not_change_the_features(kind):
    fusion = fusion_of(kind)
    image, text = pair()
    plain, asked = fusion(image, text), fusion(image, text, return_attentions=True)
    assert plain.attentions == {}
    assert bool(asked.attentions) == (kind != "mlp")
    assert_same(asked, plain)
    assert plain.features.shape == (3, fusion.out_dim)
