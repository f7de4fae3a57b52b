"""`Tokens`, null tokens, modality dropout, and encoding only what is there."""

from __future__ import annotations

import pytest
import torch
from diptych.encoders import NullTokens, Tokens
from diptych.encoders.tokens import encode_present
from hypothesis import given, settings
from hypothesis import strategies as st

DIM = 4


def make_tokens(present: list[bool], tokens: int = 3, *, grid: tuple[int, int] | None = None) -> Tokens:
    """Random states, all real, for rows of which some are absent."""
    batch = len(present)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    return Tokens(torch.randn(batch, tokens, DIM), mask, torch.tensor(present), grid)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_mean_is_taken_over_the_real_tokens_only(lengths, seed):
    torch.manual_seed(seed)
    states = torch.randn(len(lengths), 5, DIM)
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    mean = Tokens(states, mask, torch.ones(len(lengths), dtype=torch.bool)).mean()
    for row, length in enumerate(lengths):
        expected = states[row, :length].mean(dim=0) if length else torch.zeros(DIM)
        torch.testing.assert_close(mean[row], expected)


def test_absent_rows_hold_the_null_token_first_and_the_rest_is_padding():
    null = NullTokens(DIM)
    image = make_tokens([True, False, True], 4, grid=(2, 2))
    text = make_tokens([False, True, True], 3)
    filled_image, filled_text = null(image, text)
    assert torch.equal(filled_image.states[1, 0], null.image)
    assert torch.equal(filled_text.states[0, 0], null.text)
    assert filled_image.mask[1].tolist() == [True, False, False, False]
    assert filled_text.mask[0].tolist() == [True, False, False]
    assert torch.equal(filled_image.mean()[1], null.image)
    assert filled_image.grid == (2, 2)
    assert filled_image.present.tolist() == [True, False, True]


def test_rows_that_are_there_stay_as_they_are():
    image, text = make_tokens([True, False]), make_tokens([False, True])
    filled_image, filled_text = NullTokens(DIM)(image, text)
    assert torch.equal(filled_image.states[0], image.states[0])
    assert torch.equal(filled_text.states[1], text.states[1])
    assert bool(filled_image.mask[0].all())
    assert bool(filled_text.mask[1].all())


def test_what_an_absent_row_held_cannot_be_told_from_the_tokens():
    null = NullTokens(DIM)
    image, text = make_tokens([True, False]), make_tokens([True, True])
    garbage = image.states.clone()
    garbage[1] = float("nan")
    mask = image.mask.clone()
    mask[1] = False
    before, _ = null(image, text)
    after, _ = null(Tokens(garbage, mask, image.present), text)
    assert torch.equal(before.states, after.states)
    assert torch.equal(before.mask, after.mask)


def test_modality_dropout_drops_the_asked_share_and_never_both():
    torch.manual_seed(0)
    rows = 4000
    null = NullTokens(DIM, dropout=0.3).train()
    image, text = null(make_tokens([True] * rows, 1), make_tokens([True] * rows, 1))
    assert bool((image.present | text.present).all())
    # four standard deviations of a share of 0.15 among 4,000 rows are 0.023
    assert (~image.present).float().mean().item() == pytest.approx(0.15, abs=0.023)
    assert (~text.present).float().mean().item() == pytest.approx(0.15, abs=0.023)
    dropped = ~image.present
    assert torch.equal(image.states[dropped, 0], null.image.expand(int(dropped.sum()), DIM))


def test_modality_dropout_never_takes_the_only_half():
    torch.manual_seed(0)
    rows = 200
    null = NullTokens(DIM, dropout=0.99).train()
    alternate = [row % 2 == 0 for row in range(rows)]
    image, text = make_tokens(alternate), make_tokens([not there for there in alternate])
    filled_image, filled_text = null(image, text)
    assert torch.equal(filled_image.present, image.present)
    assert torch.equal(filled_text.present, text.present)


@pytest.mark.parametrize(("dropout", "training"), [(0.9, False), (0.0, True)])
def test_modality_dropout_is_off_in_eval_and_at_zero(dropout, training):
    null = NullTokens(DIM, dropout=dropout).train(training)
    image, text = null(make_tokens([True] * 100), make_tokens([True] * 100))
    assert bool((image.present & text.present).all())


def test_gradient_reaches_each_null_token_once_for_every_row_it_stands_in():
    null = NullTokens(DIM)
    image, text = null(make_tokens([False, True, False, False]), make_tokens([True, False, True, True]))
    (image.states.sum() + text.states.sum()).backward()
    assert null.image.grad.tolist() == [3.0] * DIM
    assert null.text.grad.tolist() == [1.0] * DIM


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2.0])
def test_a_dropout_that_is_no_probability_is_refused_by_name_and_value(dropout):
    with pytest.raises(ValueError, match=f"modality_dropout is {dropout}"):
        NullTokens(DIM, dropout=dropout)


@settings(deadline=None, max_examples=25)
@given(present=st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_encoder_sees_the_rows_that_are_there_and_no_other(present):
    there = torch.tensor(present)
    first, second = torch.arange(len(present)), torch.arange(len(present)) * 10
    seen = []

    def encode(numbers, tens):
        seen.append((numbers.tolist(), tens.tolist()))
        return (numbers + tens).float().view(-1, 1, 1).expand(-1, 2, 3)

    features = encode_present(encode, there, (1, 3), first, second)
    rows = [row for row, is_there in enumerate(present) if is_there]
    assert seen == ([(rows, [10 * row for row in rows])] if rows else [])
    assert features.shape == (len(present), 2 if rows else 1, 3)
    assert features[:, 0, 0].tolist() == [11.0 * row if is_there else 0.0 for row, is_there in enumerate(present)]
