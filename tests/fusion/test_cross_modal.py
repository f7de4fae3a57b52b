"""Cross-modal attention: its formulas by hand, its maps, its switches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion import CrossModalFusion
from diptych.fusion.cross_modal import CrossModalBlock
from torch import Tensor

from . import doubled, forced, make_fusion, random_tokens, shake
from .by_hand import attend_by_hand, feed_by_hand, norm_by_hand

DIM = 16
REGIONS, WORDS = 4, 5


def fusion_of(**options: Any) -> CrossModalFusion:
    return make_fusion("cross-modal", DIM, **options)


def pair(seed: int = 1, *, batch: int = 3) -> tuple[Tokens, Tokens]:
    torch.manual_seed(seed)
    return random_tokens([REGIONS] * batch, REGIONS, DIM), random_tokens([2, 5, 3][:batch], WORDS, DIM)


def test_a_weight_lets_a_half_into_the_other_and_not_only_into_the_sum():
    """With one block and the text's summary alone in z, the image can be seen through attention."""
    fusion = fusion_of(layers=1)
    with torch.no_grad():  # silence the image's own summary
        fusion.norm_image.weight.zero_()
        fusion.norm_image.bias.zero_()
    (image, text), (other, _) = pair(1), pair(2)
    weights = forced(0.5, 0.5)
    one, two = (fusion(i, text, modality_weights=weights).features for i in (image, other))
    assert (one - two).abs().max() > 1e-3


# The formulas


def fuse_by_hand(fusion: CrossModalFusion, image: Tensor, text: Tensor, w_image: float, w_text: float) -> Tensor:
    """Features of one row's real regions (regions, dim) and words (words, dim)."""
    for block in fusion.blocks:
        regions, words = norm_by_hand(block.norm_image, image), norm_by_hand(block.norm_text, text)
        text = text + w_image * attend_by_hand(block.text_to_image, words, regions)[0]
        image = image + w_text * attend_by_hand(block.image_to_text, regions, words)[0]
        text = text + feed_by_hand(block.text_feed_forward, text)
        image = image + feed_by_hand(block.image_feed_forward, image)
    image_summary = attend_by_hand(fusion.pool_image.attention, fusion.pool_image.query[None], image)[0]
    text_summary = attend_by_hand(fusion.pool_text.attention, fusion.pool_text.query[None], text)[0]
    of_image, of_text = norm_by_hand(fusion.norm_image, image_summary), norm_by_hand(fusion.norm_text, text_summary)
    return (w_image * of_image + w_text * of_text)[0]


@pytest.mark.parametrize("layers", [1, 2])
def test_features_are_the_three_formulas_by_hand(layers):
    fusion = fusion_of(layers=layers).double()
    image, text = pair()
    image, text = doubled(image), doubled(text)
    weights = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5]]).double()
    with torch.no_grad():
        features = fusion(image, text, modality_weights=weights).features
        for row in range(3):
            real = text.states[row, text.mask[row]]
            expected = fuse_by_hand(fusion, image.states[row], real, *weights[row].tolist())
            torch.testing.assert_close(features[row], expected)


def test_one_block_gives_each_half_what_it_sees_in_the_other_before_the_block():
    torch.manual_seed(0)
    block = shake(CrossModalBlock(8, heads=2, hidden=8, dropout=0.0)).double()
    image, text = torch.randn(1, 3, 8).double(), torch.randn(1, 2, 8).double()
    there = torch.ones(1, 3, dtype=torch.bool)
    gates = torch.tensor([[[0.25]]]).double(), torch.tensor([[[0.75]]]).double()
    present = torch.tensor([True])
    new_image, new_text, _, _ = block(Tokens(image, there, present), Tokens(text, there[:, :2], present), gates)
    regions, words = norm_by_hand(block.norm_image, image[0]), norm_by_hand(block.norm_text, text[0])
    expected = text[0] + 0.25 * attend_by_hand(block.text_to_image, words, regions)[0]
    torch.testing.assert_close(new_text.states[0], expected + feed_by_hand(block.text_feed_forward, expected))
    expected = image[0] + 0.75 * attend_by_hand(block.image_to_text, regions, words)[0]
    torch.testing.assert_close(new_image.states[0], expected + feed_by_hand(block.image_feed_forward, expected))


# Attention maps


def test_attention_maps_have_a_row_that_sums_to_one_for_each_layer_head_and_query():
    fusion = fusion_of(layers=3, heads=4)
    image, text = pair()
    maps = fusion(image, text, return_attentions=True).attentions
    assert set(maps) == {"image_to_text", "text_to_image"}
    assert maps["image_to_text"].shape == (3, 3, 4, REGIONS, WORDS)
    assert maps["text_to_image"].shape == (3, 3, 4, WORDS, REGIONS)
    for weights in maps.values():
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    padded = ~text.mask[:, None, None, None, :].expand(maps["image_to_text"].shape)
    assert padded.any()
    assert not maps["image_to_text"][padded].any()


def test_attention_maps_are_the_first_blocks_own_weights():
    fusion = fusion_of(layers=2)
    image, text = pair()
    maps = fusion(image, text, return_attentions=True).attentions
    block = fusion.blocks[0]
    regions, words = norm_by_hand(block.norm_image, image.states[1]), norm_by_hand(block.norm_text, text.states[1])
    torch.testing.assert_close(maps["image_to_text"][1, 0], attend_by_hand(block.image_to_text, regions, words)[1])
    torch.testing.assert_close(maps["text_to_image"][1, 0], attend_by_hand(block.text_to_image, words, regions)[1])
    assert not torch.allclose(maps["image_to_text"][:, 0], maps["image_to_text"][:, 1])


# A half that is absent


def test_a_token_that_is_heard_as_the_null_of_an_absent_image_is_not_as_a_present_one_of_weight_0():
    fusion = fusion_of()
    image, text = pair()
    image = replace(image, mask=torch.arange(REGIONS).expand(3, -1) < 1)
    other = replace(image, states=torch.randn_like(image.states))
    for there, same in ((torch.tensor([False] * 3), False), (torch.tensor([True] * 3), True)):
        halves = (replace(tokens, present=there) for tokens in (image, other))
        one, two = (fusion(half, text, modality_weights=forced(0.0, 1.0)).features for half in halves)
        assert torch.equal(one, two) == same


# Switches


def test_the_number_of_layers_and_of_heads_changes_the_features():
    image, text = pair()
    base = fusion_of(layers=2, heads=2)
    fewer = fusion_of(layers=1, heads=2)
    own = base.state_dict()
    fewer.load_state_dict({key: own[key] for key in fewer.state_dict()})
    other_heads = fusion_of(layers=2, heads=4)
    other_heads.load_state_dict(own)
    features = base(image, text).features
    for other in (fewer, other_heads):
        assert (other(image, text).features - features).abs().max() > 1e-3


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads is 3"):
        CrossModalFusion(DIM, layers=1, heads=3, hidden=8, dropout=0.0)
