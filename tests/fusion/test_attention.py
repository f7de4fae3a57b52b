"""Attention against PyTorch's own and against a loop, and pooling by attention."""

from __future__ import annotations

import pytest
import torch
from diptych.fusion.attention import Attention, AttentionPool, feed_forward
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from . import random_tokens, shake
from .by_hand import attend_by_hand

DIM = 16


def twin(attention: Attention) -> nn.MultiheadAttention:
    """PyTorch's attention with the same weights."""
    dim = attention.query.in_features
    other = nn.MultiheadAttention(dim, attention.heads, batch_first=True)
    three = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([linear.weight for linear in three]))
        other.in_proj_bias.copy_(torch.cat([linear.bias for linear in three]))
        other.out_proj.load_state_dict(attention.out.state_dict())
    return other


@settings(deadline=None, max_examples=20)
@given(
    heads=st.sampled_from([1, 2, 4, 8]),
    queries=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_it_is_pytorchs_attention_with_the_same_weights(heads, queries, lengths, seed):
    torch.manual_seed(seed)
    attention = shake(Attention(DIM, heads=heads))
    states = torch.randn(len(lengths), queries, DIM)
    keys = random_tokens(lengths, 6, DIM)
    expected, expected_weights = twin(attention)(
        states, keys.states, keys.states, key_padding_mask=~keys.mask, average_attn_weights=False
    )
    out, weights = attention(states, keys.states, keys.mask, return_weights=True)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=0)


def test_it_is_the_formula_read_score_by_score():
    torch.manual_seed(0)
    attention = shake(Attention(8, heads=2)).double()
    states = torch.randn(2, 3, 8).double()
    keys = random_tokens([2, 4], 4, 8)
    out, weights = attention(states, keys.states.double(), keys.mask, return_weights=True)
    for row, length in enumerate([2, 4]):
        expected, expected_weights = attend_by_hand(attention, states[row], keys.states[row, :length].double())
        torch.testing.assert_close(out[row], expected)
        torch.testing.assert_close(weights[row, :, :, :length], expected_weights)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), scale=st.sampled_from([1.0, 30.0]))
def test_weights_sum_to_one_and_padded_keys_get_exactly_zero(lengths, scale):
    keys = random_tokens(lengths, 6, DIM)
    attention = Attention(DIM, heads=2)
    _, weights = attention(torch.randn(len(lengths), 3, DIM) * scale, keys.states, keys.mask, return_weights=True)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(len(lengths), 2, 3))
    assert bool((weights >= 0).all())
    for row, length in enumerate(lengths):
        assert not weights[row, :, :, length:].any()


def test_asking_for_the_weights_does_not_change_the_output():
    torch.manual_seed(0)
    attention = shake(Attention(DIM, heads=4))
    states, keys = torch.randn(3, 5, DIM), random_tokens([1, 3, 6], 6, DIM)
    plain, nothing = attention(states, keys.states, keys.mask)
    with_weights, weights = attention(states, keys.states, keys.mask, return_weights=True)
    torch.testing.assert_close(plain, with_weights, atol=1e-5, rtol=0)
    assert nothing is None
    assert weights.shape == (3, 4, 5, 6)


@pytest.mark.parametrize("return_weights", [False, True])
def test_gradients_are_those_of_finite_differences(return_weights):
    torch.manual_seed(0)
    attention = shake(Attention(4, heads=2)).double()
    states = torch.randn(2, 2, 4, dtype=torch.double, requires_grad=True)
    keys = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def outputs(states, keys):
        out, weights = attention(states, keys, mask, return_weights=return_weights)
        return (out, weights) if return_weights else out

    assert torch.autograd.gradcheck(outputs, (states, keys))


@pytest.mark.parametrize("return_weights", [False, True])
def test_dropout_works_in_training_only(return_weights):
    torch.manual_seed(0)
    attention = Attention(DIM, heads=2, dropout=0.5)
    states, keys = torch.randn(2, 3, DIM), random_tokens([6, 6], 6, DIM)

    def out():
        return attention(states, keys.states, keys.mask, return_weights=return_weights)[0]

    assert not torch.equal(out(), out())
    attention.eval()
    assert torch.equal(out(), out())


@pytest.mark.parametrize("heads", [0, -2, 3, 32])
def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers(heads):
    with pytest.raises(ValueError, match=f"heads is {heads}; .* {DIM}"):
        Attention(DIM, heads=heads)


def test_a_pool_sees_the_real_tokens_and_no_padding():
    torch.manual_seed(0)
    pool = shake(AttentionPool(DIM, heads=2))
    tokens = random_tokens([2, 5], 5, DIM)
    changed = tokens.states.clone()
    changed[0, 2:] = 100.0
    assert torch.equal(pool(tokens.states, tokens.mask), pool(changed, tokens.mask))
    alone = pool(tokens.states[:1, :2], tokens.mask[:1, :2])
    torch.testing.assert_close(pool(tokens.states, tokens.mask)[:1], alone, atol=1e-5, rtol=0)
    changed[0, 1] += 1.0
    assert not torch.allclose(pool(tokens.states, tokens.mask)[0], pool(changed, tokens.mask)[0])


def test_a_pool_is_attention_by_its_learned_query():
    torch.manual_seed(0)
    pool = shake(AttentionPool(8, heads=2))
    tokens = random_tokens([3, 1], 3, 8)
    pooled = pool(tokens.states, tokens.mask)
    assert pooled.shape == (2, 8)
    for row, length in enumerate([3, 1]):
        expected, _ = attend_by_hand(pool.attention, pool.query.unsqueeze(0), tokens.states[row, :length])
        torch.testing.assert_close(pooled[row], expected[0])


def test_feed_forward_norms_its_input_first():
    torch.manual_seed(0)
    network = feed_forward(DIM, 32, 0.0)
    states = torch.randn(2, 3, DIM)
    torch.testing.assert_close(network(states), network(states * 7 + 2), atol=1e-4, rtol=0)
    assert network(states).shape == states.shape


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 3), tokens=st.integers(1, 7), heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_pooling_is_its_attention_of_one_query_and_so_are_its_gradients(batch, tokens, heads, seed):
    torch.manual_seed(seed)
    pool = shake(AttentionPool(DIM, heads=heads)).double()
    states = torch.randn(batch, tokens, DIM, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (batch, 1))
    weights = torch.randn(batch, DIM, dtype=torch.float64)
    inputs = [states, *pool.parameters()]
    plain, _ = pool.attention(pool.query.expand(batch, 1, -1), states, mask)
    found = pool(states, mask)
    torch.testing.assert_close(found, plain.squeeze(1))
    expected = torch.autograd.grad((plain.squeeze(1) * weights).sum(), inputs)
    for gradient, like in zip(torch.autograd.grad((found * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(gradient, like)
