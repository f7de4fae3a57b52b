"""Bilinear attention against a loop that reads the definition, pair by pair and glimpse by glimpse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion import BilinearFusion
from torch import Tensor

from . import FUSIONS, UNEVEN_WEIGHTS, doubled, forced, make_fusion, shake, uneven_halves
from .by_hand import attend_by_hand, feed_by_hand, norm_by_hand

DIM, REGIONS, WORDS = 8, 3, 4
USUAL = FUSIONS["bilinear"][1]


def fusion_of(**options: Any) -> BilinearFusion:
    return make_fusion("bilinear", DIM, **options)


def halves() -> tuple[Tokens, Tokens]:
    return uneven_halves(DIM)


def map_by_hand(fusion: BilinearFusion, regions: Tensor, words: Tensor, glimpse: int) -> Tensor:
    """One softmax over all pairs: (regions, words)."""
    attention = fusion.attention
    scores = regions.new_zeros(len(regions), len(words))
    for i, region in enumerate(regions):
        for j, word in enumerate(words):
            product = attention.regions(region).clamp(min=0) * attention.words(word).clamp(min=0)
            scores[i, j] = torch.dot(attention.glimpses[glimpse], product) / len(product) ** 0.5
    return scores.exp() / scores.exp().sum()


def fuse_by_hand(
    fusion: BilinearFusion, image: Tokens, text: Tokens, row: int, w_image: float, w_text: float
) -> tuple[Tensor, Tensor]:
    """Features (dim,) of one row's real tokens, and its maps (glimpses, regions, words)."""
    own_regions, own_words = image.states[row, image.mask[row]], text.states[row, text.mask[row]]
    regions, words = norm_by_hand(fusion.before_regions, own_regions), norm_by_hand(fusion.before_words, own_words)
    found, maps = torch.zeros_like(regions[0]), []
    for glimpse, out in enumerate(fusion.out):
        weights = map_by_hand(fusion, regions, words, glimpse)
        maps.append(weights)
        pooled = torch.zeros_like(fusion.pooled_regions[glimpse](regions[0]))
        for i, region in enumerate(regions):
            for j, word in enumerate(words):
                of_region = fusion.pooled_regions[glimpse](region)
                of_word = fusion.pooled_words[glimpse](word + found)
                pooled = pooled + weights[i, j] * of_region * of_word
        found = found + out(pooled)
    summaries = []
    for pool, norm, states in (
        (fusion.pool_image, fusion.norm_image, own_regions),
        (fusion.pool_text, fusion.norm_text, own_words),
    ):
        summaries.append(norm_by_hand(norm, attend_by_hand(pool.attention, pool.query[None], states)[0][0]))
    product = (w_image if image.present[row] else 1.0) * (w_text if text.present[row] else 1.0)
    mixed = product * norm_by_hand(fusion.norm_pairs, found) + w_image * summaries[0] + w_text * summaries[1]
    return mixed + feed_by_hand(fusion.feed_forward, mixed), torch.stack(maps)


@pytest.mark.parametrize("glimpses", [1, 3])
@torch.no_grad()
def test_features_and_maps_are_those_of_the_loop(glimpses):
    fusion = fusion_of(glimpses=glimpses).double()
    image, text = (doubled(tokens) for tokens in halves())
    fused = fusion(image, text, modality_weights=UNEVEN_WEIGHTS.double(), return_attentions=True)
    for row in range(5):
        features, maps = fuse_by_hand(fusion, image, text, row, *UNEVEN_WEIGHTS[row].tolist())
        torch.testing.assert_close(fused.features[row], features, atol=1e-6, rtol=0)
        found = fused.attentions["pairs"][row, 0][:, image.mask[row]][..., text.mask[row]]
        torch.testing.assert_close(found, maps, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_each_glimpse_sums_to_one_over_all_pairs_and_padding_gets_exactly_0(scale):
    image, text = halves()
    image.states.mul_(scale)
    pairs = fusion_of(glimpses=3)(image, text, return_attentions=True).attentions["pairs"]
    assert pairs.shape == (5, 1, 3, REGIONS, WORDS)
    torch.testing.assert_close(pairs.sum(dim=(-1, -2)), torch.ones(5, 1, 3))
    real = (image.mask.unsqueeze(2) & text.mask.unsqueeze(1))[:, None, None].expand_as(pairs)
    assert bool((pairs[real] > 0).all())
    assert not pairs[~real].any()


def test_the_glimpses_look_at_different_pairs():
    pairs = fusion_of(glimpses=2)(*halves(), return_attentions=True).attentions["pairs"]
    assert (pairs[0, 0, 0] - pairs[0, 0, 1]).abs().max() > 1e-2


def test_the_pair_term_alone_hears_both_halves():
    fusion = fusion_of()
    with torch.no_grad():  # silence each half's own summary
        for norm in (fusion.norm_image, fusion.norm_text):
            norm.weight.zero_()
            norm.bias.zero_()
    image, text = halves()
    weights = forced(0.5, 0.5, 5)
    features = fusion(image, text, modality_weights=weights).features
    for half in (image, text):
        kept = half.states.clone()
        half.states[:, 0] += torch.randn(DIM)
        assert (fusion(image, text, modality_weights=weights).features - features).abs().amax(dim=1).min() > 1e-3
        half.states.copy_(kept)


@pytest.mark.parametrize(
    ("one", "two"), [({"glimpses": 1}, {"glimpses": 2}), ({"heads": 2}, {"heads": 4})], ids=["glimpses", "heads"]
)
def test_a_switch_changes_the_features(one, two):
    torch.manual_seed(0)
    fewer, more = (BilinearFusion(DIM, **(USUAL | options)).eval() for options in (one, two))
    shake(more)
    own, names = more.state_dict(), fewer.state_dict()
    fewer.load_state_dict({key: own[key][: len(value)] if value.dim() else own[key] for key, value in names.items()})
    image, text = halves()
    assert (fewer(image, text).features - more(image, text).features).abs().max() > 1e-3


@pytest.mark.parametrize(("rank", "hidden"), [(1, 12), (20, 12), (6, 3)])
def test_rank_and_hidden_width_are_free(rank, hidden):
    fusion = fusion_of(rank=rank, hidden=hidden)
    assert fusion.attention.glimpses.shape == (2, rank)
    assert fusion.feed_forward[1].out_features == hidden
    assert fusion(*halves()).features.shape == (5, DIM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"glimpses": 0}, "glimpses is 0; it must be at least 1"),
        ({"glimpses": -1}, "glimpses is -1; it must be at least 1"),
        ({"heads": 3}, f"heads is 3; it must be at least 1 and divide the hidden size, {DIM}"),
    ],
)
def test_bad_options_are_refused_with_field_value_and_range(options, message):
    with pytest.raises(ValueError, match=message):
        BilinearFusion(DIM, **(USUAL | options))
