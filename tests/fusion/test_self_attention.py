"""Self-attention over the joint sequence, in its four patterns, against a loop that reads the definition."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion import SelfAttentionFusion, self_attention, sparse
from diptych.fusion.self_attention import sine_code
from torch import Tensor

from . import (
    BLOCKS,
    PATTERNS,
    UNEVEN_WEIGHTS,
    doubled,
    forced,
    make_fusion,
    random_tokens,
    rows_of,
    shake,
    uneven_halves,
)
from .by_hand import attend_by_hand, feed_by_hand, norm_by_hand

DIM, REGIONS, WORDS = 8, 3, 4
TOKENS = 1 + REGIONS + WORDS
EACH = pytest.mark.parametrize("pattern", PATTERNS)
SPARSE = pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if pattern != "dense"])


def fusion_of(pattern: str = "dense", **options: Any) -> SelfAttentionFusion:
    return make_fusion(f"self-attention {pattern}", DIM, **options)


def halves() -> tuple[Tokens, Tokens]:
    return uneven_halves(DIM)


def visible(i: int, j: int, pattern: str, window: int = 0, global_tokens: tuple[int, ...] = ()) -> bool:
    """Whether the i-th real token of a row sees the j-th."""
    near = "window" in pattern and abs(i - j) <= window
    chosen = "global" in pattern and (i in global_tokens or j in global_tokens)
    return pattern == "dense" or i == j or near or chosen


def bias_by_hand(image: Tokens, text: Tokens, row: int, weights: list[float], pattern: str) -> list[list[float]]:
    """What is added to each score between real tokens: log w of the key's half, for queries outside it."""
    group = [0] + [1] * int(image.mask[row].sum()) + [2] * int(text.mask[row].sum())
    there = {0: False, 1: bool(image.present[row]), 2: bool(text.present[row])}
    log_w = {0: 0.0}
    for half in (1, 2):
        log_w[half] = (math.log(weights[half - 1]) if weights[half - 1] else -math.inf) if there[half] else 0.0

    def added(i: int, j: int) -> float:
        if not visible(i, j, pattern, **PATTERNS[pattern]):
            return -math.inf
        return log_w[group[j]] if group[i] != group[j] else 0.0

    return [[added(i, j) for j in range(len(group))] for i in range(len(group))]


def fuse_by_hand(
    fusion: SelfAttentionFusion, image: Tokens, text: Tokens, row: int, bias: list[list[float]]
) -> tuple[Tensor, list[Tensor]]:
    """Features (dim,) of one row's real tokens, packed, and each layer's weights (heads, queries, keys)."""
    states = [fusion.summary]
    states += [region + fusion.modality[0] for region in image.states[row, image.mask[row]]]
    for place, word in enumerate(text.states[row, text.mask[row]]):
        angles = [place / 10_000 ** (2 * k / DIM) for k in range(DIM // 2)]
        code = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        states.append(word + fusion.modality[1] + fusion.position_scale * code)
    joint, maps = torch.stack(states), []
    for block in fusion.blocks:
        normed = norm_by_hand(block.norm, joint)
        seen, weights = attend_by_hand(block.attention, normed, normed, bias)
        maps.append(weights)
        joint = joint + seen
        joint = joint + feed_by_hand(block.feed_forward, joint)
    return norm_by_hand(fusion.norm, joint[0]), maps


@EACH
@pytest.mark.parametrize("return_attentions", [False, True])
@torch.no_grad()
def test_features_and_maps_are_those_of_the_loop(pattern, return_attentions):
    fusion = fusion_of(pattern).double()
    image, text = (doubled(tokens) for tokens in halves())
    fused = fusion(image, text, modality_weights=UNEVEN_WEIGHTS.double(), return_attentions=return_attentions)
    for row in range(5):
        bias = bias_by_hand(image, text, row, UNEVEN_WEIGHTS[row].tolist(), pattern)
        features, maps = fuse_by_hand(fusion, image, text, row, bias)
        torch.testing.assert_close(fused.features[row], features, atol=1e-6, rtol=0)
        if return_attentions:
            real = torch.cat([torch.tensor([True]), image.mask[row], text.mask[row]])
            found = fused.attentions["joint"][row][:, :, real][..., real]
            torch.testing.assert_close(found, torch.stack(maps), atol=1e-6, rtol=0)


@EACH
def test_a_map_sums_to_one_over_the_keys_and_padding_and_what_the_pattern_hides_get_exactly_0(pattern):
    image, text = halves()
    joint = fusion_of(pattern, heads=4)(image, text, return_attentions=True).attentions["joint"]
    assert joint.shape == (5, 2, 4, TOKENS, TOKENS)
    torch.testing.assert_close(joint.sum(dim=-1), torch.ones(5, 2, 4, TOKENS))
    for row in range(5):
        real = torch.cat([torch.tensor([True]), image.mask[row], text.mask[row]])
        assert not joint[row][..., ~real].any()
        among = joint[row][:, :, real][..., real]
        for i in range(int(real.sum())):
            for j in range(int(real.sum())):
                assert bool(among[..., i, j].all()) == visible(i, j, pattern, **PATTERNS[pattern])


@EACH
def test_at_w_0_nobody_outside_a_half_sees_it_but_the_half_sees_itself(pattern):
    image, text = (rows_of(tokens, [0]) for tokens in halves())
    joint = fusion_of(pattern)(image, text, modality_weights=forced(0.0, 1.0, 1), return_attentions=True)
    seen = joint.attentions["joint"][0, :, :, :, 1 : 1 + REGIONS]  # what each query gives the regions
    inside = torch.zeros(TOKENS, dtype=torch.bool)
    inside[1 : 1 + REGIONS] = True
    assert not seen[:, :, ~inside].any()
    assert seen[:, :, inside].sum(dim=-1).min() > 0


# The sparse form


def long_halves() -> tuple[Tokens, Tokens]:
    """Two rows of 311 tokens at most, more than are computed in one masked call; the second is padded."""
    torch.manual_seed(1)
    return random_tokens([60, 7], 60, DIM), random_tokens([250, 201], 250, DIM)


def run(fusion: SelfAttentionFusion, image: Tokens, text: Tokens, *, dense: bool) -> tuple[Tensor, list[Tensor]]:
    """Features, and the gradients of the tokens, of the weights and of every parameter."""
    fusion.zero_grad()
    weights = UNEVEN_WEIGHTS[: len(image.states)].clone().requires_grad_()
    leaves = [tokens.states.detach().requires_grad_() for tokens in (image, text)]
    image, text = (replace(tokens, states=leaf) for tokens, leaf in zip((image, text), leaves, strict=True))
    fused = fusion(image, text, modality_weights=weights, return_attentions=dense)
    fused.features.square().sum().backward()
    parameters = [p.grad for name, p in fusion.named_parameters() if not name.startswith("gate.")]
    return fused.features.detach(), [*(leaf.grad for leaf in leaves), weights.grad, *parameters]


@SPARSE
@pytest.mark.parametrize("make", [halves, long_halves])
def test_sparse_attention_is_the_dense_form_forward_and_backward(pattern, make):
    fusion = fusion_of(pattern)
    features, gradients = run(fusion, *make(), dense=False)
    expected, expected_gradients = run(fusion, *make(), dense=True)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)
    assert all(gradient.any() for gradient in gradients[:3])


@EACH
def test_only_the_sparse_patterns_go_through_sparse_attention(pattern, monkeypatch):
    calls = []

    def attend(*args, **options):
        calls.append(1)
        return sparse.sparse_attention(*args, **options)

    monkeypatch.setattr(self_attention, "sparse_attention", attend)
    fusion_of(pattern)(*halves())
    assert len(calls) == (0 if pattern == "dense" else 2)  # one a layer


def test_a_row_that_ends_before_a_position_has_no_such_global_token():
    image, text = halves()
    one, two = (fusion_of("global", global_tokens=(0, last))(image, text).features for last in (2, 7))
    only = fusion_of("global", global_tokens=(0,))(image, text).features
    assert (one - only).abs().amax(dim=1).min() > 1e-4
    differs = (two - only).abs().amax(dim=1) > 1e-4
    assert differs.tolist() == [True, False, False, False, False]  # the first row alone has 8 tokens


# Positions and modalities


def test_the_order_of_words_counts_and_that_of_regions_is_in_their_states():
    fusion = fusion_of()
    image, text = (rows_of(tokens, [0]) for tokens in halves())
    features = fusion(image, text).features
    turned = replace(text, states=text.states.flip(1))
    assert (fusion(image, turned).features - features).abs().max() > 1e-3
    shuffled = replace(image, states=image.states.flip(1))
    torch.testing.assert_close(fusion(shuffled, text).features, features, atol=1e-5, rtol=0)
    with torch.no_grad():
        fusion.position_scale.zero_()
    torch.testing.assert_close(fusion(image, turned).features, fusion(image, text).features, atol=1e-5, rtol=0)


def test_a_region_and_a_word_with_the_same_states_are_told_apart():
    fusion = fusion_of()
    with torch.no_grad():
        fusion.position_scale.zero_()
    image, text = (rows_of(tokens, [0]) for tokens in halves())
    weights = forced(0.5, 0.5, 1)
    features = fusion(image, text, modality_weights=weights).features
    assert (fusion(text, image, modality_weights=weights).features - features).abs().max() > 1e-3
    with torch.no_grad():
        fusion.modality[1] = fusion.modality[0]
    features = fusion(image, text, modality_weights=weights).features
    torch.testing.assert_close(fusion(text, image, modality_weights=weights).features, features, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("length", "dim"), [(1, 4), (5, 8), (7, 6)])
def test_the_code_of_a_position_tells_it_from_all_others(length, dim):
    code = sine_code(length, dim)
    assert code.shape == (length, dim)
    assert code[0].tolist() == [0.0] * (dim // 2) + [1.0] * (dim // 2)
    assert len({tuple(row) for row in code.tolist()}) == length


# Switches


@pytest.mark.parametrize(
    ("one", "two"),
    [
        *(({"pattern": "dense"}, {"pattern": pattern, "window": 1}) for pattern in PATTERNS if pattern != "dense"),
        ({"pattern": "sliding-window"}, {"pattern": "sliding-window+global"}),
        ({"pattern": "global"}, {"pattern": "sliding-window+global"}),
        ({"pattern": "sliding-window", "window": 1}, {"pattern": "sliding-window", "window": 4}),
        ({"pattern": "global", "global_tokens": (0,)}, {"pattern": "global", "global_tokens": (0, 5)}),
        ({"layers": 1}, {"layers": 2}),
        ({"heads": 2}, {"heads": 4}),
    ],
    ids=str,
)
def test_a_switch_changes_the_features(one, two):
    usual = BLOCKS | {"window": 2, "global_tokens": (0, 3)}
    torch.manual_seed(0)
    first, second = (SelfAttentionFusion(DIM, **(usual | options)).eval() for options in (two, one))
    shake(first)
    second.load_state_dict({key: first.state_dict()[key] for key in second.state_dict()})
    image, text = (rows_of(tokens, [0]) for tokens in halves())
    assert (first(image, text).features - second(image, text).features).abs().max() > 1e-3


def test_a_window_as_wide_as_the_sequence_or_all_tokens_global_is_dense():
    image, text = halves()
    expected = fusion_of()(image, text).features
    for options in (
        {"pattern": "sliding-window", "window": TOKENS},
        {"pattern": "global", "global_tokens": (*range(8),)},
    ):
        torch.testing.assert_close(fusion_of(**options)(image, text).features, expected, atol=1e-5, rtol=0)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "full"}, "unknown pattern 'full'; choose one of dense, sliding-window, global, sliding-window"),
        ({"pattern": "sliding-window", "window": 0}, "window is 0; it must be at least 1"),
        ({"pattern": "sliding-window", "window": -3}, "window is -3; it must be at least 1"),
        ({"pattern": "global", "global_tokens": ()}, r"global_tokens is \[\]; give different positions from 0"),
        ({"pattern": "global", "global_tokens": (0, -1)}, r"global_tokens is \[0, -1\]; give different positions"),
        ({"pattern": "global", "global_tokens": (2, 2)}, r"global_tokens is \[2, 2\]; give different positions"),
        ({"heads": 3}, f"heads is 3; it must be at least 1 and divide the hidden size, {DIM}"),
        ({"heads": 0}, "heads is 0; it must be at least 1"),
    ],
)
def test_bad_options_are_refused_with_field_value_and_range(options, message):
    with pytest.raises(ValueError, match=message):
        SelfAttentionFusion(DIM, **(BLOCKS | options))


def test_more_global_tokens_than_the_sequence_has_are_refused():
    fusion_of("global", global_tokens=tuple(range(TOKENS)))(*halves())
    with pytest.raises(ValueError, match="global_tokens names 9 positions; the sequence has 8 tokens"):
        fusion_of("global", global_tokens=tuple(range(TOKENS + 1)))(*halves())
