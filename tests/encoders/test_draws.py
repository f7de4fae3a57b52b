"""Dropout row by row: it follows from seed and row, not from the batch around the row."""

from __future__ import annotations

import pytest
import torch
from diptych.encoders.draws import RowDraws, packed_tokens, row_uniform, some_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

CPU = torch.device("cpu")


def dropped(rows, shape, *, seed=3, p=0.4):
    """What two dropouts, one after the other, make of ones."""
    with RowDraws(seed, rows, CPU):
        return [F.dropout(torch.ones(len(rows), *shape), p) for _ in range(2)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=6, unique=True),
    st.integers(1, 5),
    st.integers(0, 4),
    st.integers(1, 3),
)
def test_a_rows_draws_are_its_own_however_it_is_padded_and_whatever_stands_beside_it(rows, tokens, padding, dim):
    for shape, wide in (((tokens, dim), (tokens + padding, dim)), ((2, tokens, 3), (2, tokens + padding, 3 + padding))):
        together = dropped(rows, wide)
        for index, row in enumerate(rows):
            for alone, both in zip(dropped([row], shape), together, strict=True):
                inside = both[index][tuple(slice(size) for size in shape)]
                assert torch.equal(alone[0], inside)


def test_other_seeds_rows_and_calls_draw_otherwise():
    (first, second), (other, _) = dropped([1, 2], (40, 8)), dropped([1, 2], (40, 8), seed=4)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_mean_stays_and_so_many_are_dropped(p):
    found = torch.cat(dropped(range(64), (30, 64), p=p))
    assert (found == 0).float().mean() == pytest.approx(p, abs=0.02)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])


def test_nothing_is_dropped_in_evaluation():
    with RowDraws(0, [1, 2], CPU):
        assert torch.equal(nn.Dropout(0.5).eval()(torch.ones(2, 9)), torch.ones(2, 9))


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention_is_the_fused_one_with_the_weights_dropped(mask):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    seen = torch.rand(3, 1, 5, 5) > 0.3
    seen[..., 0] = True
    given = {None: None, "bool": seen, "float": torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e9)}
    with RowDraws(0, [4, 5, 6], CPU):
        found = F.scaled_dot_product_attention(query, key, value, given[mask], dropout_p=1e-12)
        assert not torch.equal(F.scaled_dot_product_attention(query, key, value, given[mask], dropout_p=0.5), found)
    expected = F.scaled_dot_product_attention(query, key, value, given[mask])
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), (query, key, value)),
        torch.autograd.grad(expected.sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_packed_tokens_draw_what_they_draw_padded():
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    places = mask.flatten().nonzero()[:, 0]
    with RowDraws(0, [7, 8, 9], CPU):
        padded = F.dropout(torch.ones(3, 3, 16), 0.5)
    with RowDraws(0, [7, 8, 9], CPU), packed_tokens(places, 3):
        packed = F.dropout(torch.ones(6, 16), 0.5)
    assert torch.equal(packed, padded[mask])


def test_what_sees_some_rows_draws_for_these_and_leaves_the_others_count_alone():
    present = torch.tensor([True, False, True])
    with RowDraws(0, [7, 8, 9], CPU):
        after = F.dropout(torch.ones(3, 50), 0.5)
    with RowDraws(0, [7, 8, 9], CPU):
        with some_rows(present, scope=3):
            some = F.dropout(torch.ones(2, 50), 0.5)
        assert torch.equal(F.dropout(torch.ones(3, 50), 0.5), after)
    with RowDraws(0, [9], CPU), some_rows(present[:1], scope=3):
        assert torch.equal(F.dropout(torch.ones(1, 50), 0.5)[0], some[1])


def test_uniform_draws_follow_the_row_where_rows_are_known():
    with RowDraws(0, [7, 8], CPU):
        both = row_uniform(2, CPU)
    with RowDraws(0, [8], CPU):
        assert row_uniform(1, CPU)[0] == both[1]
    torch.manual_seed(0)
    assert not torch.equal(row_uniform(2, CPU), row_uniform(2, CPU))
    with RowDraws(0, list(range(4000)), CPU):
        assert row_uniform(4000, CPU).mean() == pytest.approx(0.5, abs=0.03)
