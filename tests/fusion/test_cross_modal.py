"""Cross-modal attention: its formulas by hand, and the modality weights that nothing gets around."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diptych.encoders import NullTokens, Tokens
from diptych.fusion import CrossModalFusion
from diptych.fusion.cross_modal import CrossModalBlock
from torch import Tensor, nn
from torch.nn import functional as F

from . import attend_by_hand, random_tokens, shake

DIM = 16
REGIONS, WORDS = 4, 5


def make_fusion(*, layers: int = 2, heads: int = 2, dim: int = DIM, seed: int = 0) -> CrossModalFusion:
    torch.manual_seed(seed)
    return shake(CrossModalFusion(dim, layers=layers, heads=heads, hidden=2 * dim, dropout=0.1)).eval()


def pair(seed: int = 1, *, batch: int = 3) -> tuple[Tokens, Tokens]:
    torch.manual_seed(seed)
    return random_tokens([REGIONS] * batch, REGIONS, DIM), random_tokens([2, 5, 3][:batch], WORDS, DIM)


def forced(image: float, text: float, batch: int = 3) -> Tensor:
    return torch.tensor([[image, text]] * batch)


# The leak test: a weight of 0 shuts a half out, whatever it holds


@pytest.mark.parametrize("layers", [1, 3])
def test_with_image_weight_0_any_two_images_give_identical_features_and_no_gradient(layers):
    fusion = make_fusion(layers=layers)
    (image, text), (other, _) = pair(1), pair(2)
    image.states.requires_grad_()
    weights = forced(0.0, 1.0)
    features = fusion(image, text, modality_weights=weights).features
    assert torch.equal(features, fusion(other, text, modality_weights=weights).features)
    features.square().sum().backward()
    assert not image.states.grad.any()
    assert features.abs().min() > 0


@pytest.mark.parametrize("layers", [1, 3])
def test_with_text_weight_0_any_two_texts_give_identical_features_and_no_gradient(layers):
    fusion = make_fusion(layers=layers)
    (image, text), (_, other) = pair(1), pair(2)
    text.states.requires_grad_()
    weights = forced(1.0, 0.0)
    features = fusion(image, text, modality_weights=weights).features
    assert torch.equal(features, fusion(image, other, modality_weights=weights).features)
    features.square().sum().backward()
    assert not text.states.grad.any()
    assert features.abs().min() > 0


def test_between_the_ends_features_depend_on_both_halves():
    fusion = make_fusion()
    (image, text), (other_image, other_text) = pair(1), pair(2)
    image.states.requires_grad_()
    text.states.requires_grad_()
    features = fusion(image, text, modality_weights=forced(0.5, 0.5)).features
    for ends in ((0.0, 1.0), (1.0, 0.0)):
        assert (fusion(image, text, modality_weights=forced(*ends)).features - features).abs().max() > 1e-2
    for halves in ((other_image, text), (image, other_text)):
        assert (fusion(*halves, modality_weights=forced(0.5, 0.5)).features - features).abs().max() > 1e-2
    features.square().sum().backward()
    assert image.states.grad.abs().amax(dim=(1, 2)).min() > 0
    assert text.states.grad.abs().amax(dim=(1, 2)).min() > 0


def test_a_weight_lets_a_half_into_the_other_and_not_only_into_the_sum():
    """With one block and the text's summary alone in z, the image can be seen through attention."""
    fusion = make_fusion(layers=1)
    with torch.no_grad():  # silence the image's own summary
        fusion.norm_image.weight.zero_()
        fusion.norm_image.bias.zero_()
    (image, text), (other, _) = pair(1), pair(2)
    weights = forced(0.5, 0.5)
    one, two = (fusion(i, text, modality_weights=weights).features for i in (image, other))
    assert (one - two).abs().max() > 1e-3


def test_each_row_is_weighed_by_its_own_weights():
    fusion = make_fusion()
    image, text = pair()
    mixed = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    features = fusion(image, text, modality_weights=mixed).features
    for row in range(3):
        alone = fusion(image, text, modality_weights=mixed[row].expand(3, 2)).features[row]
        torch.testing.assert_close(features[row], alone, atol=1e-6, rtol=0)


def test_without_forced_weights_the_gate_gives_them():
    fusion = make_fusion()
    image, text = pair()
    fused = fusion(image, text)
    weights, summaries = fusion.gate(image, text)
    assert torch.equal(fused.modality_weights, weights)
    assert torch.equal(fused.summaries, summaries)
    again = fusion(image, text, modality_weights=fused.modality_weights)
    assert torch.equal(fused.features, again.features)
    assert (fused.features - fusion(image, text, modality_weights=forced(0.5, 0.5)).features).abs().max() > 1e-4


# The formulas


def norm(layer: nn.LayerNorm, states: Tensor) -> Tensor:
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def feed(network: nn.Sequential, states: Tensor) -> Tensor:
    first, second = network[1], network[4]
    return F.linear(F.gelu(F.linear(norm(network[0], states), first.weight, first.bias)), second.weight, second.bias)


def fuse_by_hand(fusion: CrossModalFusion, image: Tensor, text: Tensor, w_image: float, w_text: float) -> Tensor:
    """Features of one row's real regions (regions, dim) and words (words, dim)."""
    for block in fusion.blocks:
        regions, words = norm(block.norm_image, image), norm(block.norm_text, text)
        text = text + w_image * attend_by_hand(block.text_to_image, words, regions)[0]
        image = image + w_text * attend_by_hand(block.image_to_text, regions, words)[0]
        text = text + feed(block.text_feed_forward, text)
        image = image + feed(block.image_feed_forward, image)
    image_summary = attend_by_hand(fusion.pool_image.attention, fusion.pool_image.query[None], image)[0]
    text_summary = attend_by_hand(fusion.pool_text.attention, fusion.pool_text.query[None], text)[0]
    return (w_image * norm(fusion.norm_image, image_summary) + w_text * norm(fusion.norm_text, text_summary))[0]


@pytest.mark.parametrize("layers", [1, 2])
def test_features_are_the_three_formulas_by_hand(layers):
    fusion = make_fusion(layers=layers).double()
    image, text = pair()
    image, text = replace(image, states=image.states.double()), replace(text, states=text.states.double())
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
    regions, words = norm(block.norm_image, image[0]), norm(block.norm_text, text[0])
    expected = text[0] + 0.25 * attend_by_hand(block.text_to_image, words, regions)[0]
    torch.testing.assert_close(new_text.states[0], expected + feed(block.text_feed_forward, expected))
    expected = image[0] + 0.75 * attend_by_hand(block.image_to_text, regions, words)[0]
    torch.testing.assert_close(new_image.states[0], expected + feed(block.image_feed_forward, expected))


def test_gradients_are_those_of_finite_differences():
    fusion = make_fusion(layers=1, dim=4).double()
    torch.manual_seed(0)
    image = torch.randn(1, 2, 4, dtype=torch.double, requires_grad=True)
    text = torch.randn(1, 3, 4, dtype=torch.double, requires_grad=True)
    present, regions, words = torch.tensor([True]), torch.tensor([[True, True]]), torch.tensor([[True, True, False]])

    def features(image, text):
        return fusion(Tokens(image, regions, present), Tokens(text, words, present)).features

    assert torch.autograd.gradcheck(features, (image, text))


# Padding and order


def test_more_padding_changes_nothing():
    fusion = make_fusion()
    image, text = pair()
    padding, off = torch.randn(3, 4, DIM) * 10, torch.zeros(3, 4, dtype=torch.bool)
    longer = replace(text, states=torch.cat([text.states, padding], 1), mask=torch.cat([text.mask, off], 1))
    wider = replace(image, states=torch.cat([image.states, padding], 1), mask=torch.cat([image.mask, off], 1))
    one, two = fusion(image, text), fusion(wider, longer)
    torch.testing.assert_close(one.features, two.features, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.modality_weights, two.modality_weights, atol=1e-5, rtol=0)


def test_what_the_padding_holds_changes_nothing():
    fusion = make_fusion()
    image, text = pair()
    other = replace(text, states=torch.where(text.mask.unsqueeze(-1), text.states, 100.0))
    assert torch.equal(fusion(image, text).features, fusion(image, other).features)


def test_rows_do_not_depend_on_their_place_in_the_batch():
    fusion = make_fusion()
    image, text = pair()
    order = torch.tensor([2, 0, 1])

    def moved(tokens: Tokens) -> Tokens:
        return Tokens(tokens.states[order], tokens.mask[order], tokens.present[order])

    one, two = fusion(image, text), fusion(moved(image), moved(text))
    torch.testing.assert_close(one.features[order], two.features, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.modality_weights[order], two.modality_weights, atol=1e-5, rtol=0)


# Attention maps


def test_attention_maps_have_a_row_that_sums_to_one_for_each_layer_head_and_query():
    fusion = make_fusion(layers=3, heads=4)
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
    fusion = make_fusion(layers=2)
    image, text = pair()
    maps = fusion(image, text, return_attentions=True).attentions
    block = fusion.blocks[0]
    regions, words = norm(block.norm_image, image.states[1]), norm(block.norm_text, text.states[1])  # no padding
    torch.testing.assert_close(maps["image_to_text"][1, 0], attend_by_hand(block.image_to_text, regions, words)[1])
    torch.testing.assert_close(maps["text_to_image"][1, 0], attend_by_hand(block.text_to_image, words, regions)[1])
    assert not torch.allclose(maps["image_to_text"][:, 0], maps["image_to_text"][:, 1])


def test_asking_for_maps_does_not_change_the_features():
    fusion = make_fusion()
    image, text = pair()
    plain = fusion(image, text)
    assert plain.attentions == {}
    torch.testing.assert_close(plain.features, fusion(image, text, return_attentions=True).features)


# A half that is absent


def without_image(null: Tensor) -> tuple[Tokens, Tokens]:
    """The pair of which row 0 lost its image, filled with the given null token."""
    image, text = pair()
    image = replace(image, present=torch.tensor([False, True, True]))
    tokens = NullTokens(DIM)
    with torch.no_grad():
        tokens.image.copy_(null)
    return tokens(image, text)


def test_an_absent_image_weighs_nothing_and_its_null_token_is_heard_through_the_text():
    fusion = make_fusion()
    torch.manual_seed(3)
    one, two = (fusion(*without_image(torch.randn(DIM))) for _ in range(2))
    assert one.modality_weights[0].tolist() == two.modality_weights[0].tolist() == [0.0, 1.0]
    assert (one.features[0] - two.features[0]).abs().max() > 1e-3
    assert torch.equal(one.features[1:], two.features[1:])


def test_the_same_token_of_a_present_image_with_weight_0_is_not_heard():
    fusion = make_fusion()
    torch.manual_seed(3)
    features = []
    for _ in range(2):
        image, text = without_image(torch.randn(DIM))
        image = replace(image, present=torch.tensor([True, True, True]))
        features.append(fusion(image, text, modality_weights=forced(0.0, 1.0)).features)
    assert torch.equal(features[0], features[1])


def test_gradient_reaches_the_null_token_of_an_absent_half():
    fusion, null = make_fusion(), NullTokens(DIM)
    image, text = pair()
    image = replace(image, present=torch.tensor([False, True, True]))
    text = replace(text, present=torch.tensor([True, False, True]))
    fusion(*null(image, text)).features.square().sum().backward()
    assert null.image.grad.abs().max() > 0
    assert null.text.grad.abs().max() > 0


def test_a_row_without_any_half_gives_finite_features_and_gradients():
    fusion, null = make_fusion(), NullTokens(DIM)
    image, text = pair()
    image = replace(image, present=torch.tensor([False, True, True]))
    text = replace(text, present=torch.tensor([False, True, True]))
    fused = fusion(*null(image, text))
    fused.features.square().sum().backward()
    assert fused.modality_weights[0].tolist() == [0.0, 0.0]
    assert bool(fused.features.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in (*fusion.parameters(), *null.parameters()))


# Switches


def test_the_number_of_layers_and_of_heads_changes_the_features():
    image, text = pair()
    base = make_fusion(layers=2, heads=2)
    fewer = make_fusion(layers=1, heads=2)
    own = base.state_dict()
    fewer.load_state_dict({key: own[key] for key in fewer.state_dict()})
    other_heads = make_fusion(layers=2, heads=4)
    other_heads.load_state_dict(own)
    features = base(image, text).features
    for other in (fewer, other_heads):
        assert (other(image, text).features - features).abs().max() > 1e-3


def test_dropout_works_in_training_only_and_on_the_features_too():
    fusion = make_fusion()
    image, text = pair()
    assert torch.equal(fusion(image, text).features, fusion(image, text).features)
    assert bool(fusion(image, text).features.all())
    fusion.train()
    one, two = (fusion(image, text).features for _ in range(2))
    assert not torch.equal(one, two)
    assert 0 < (one == 0).float().mean() < 0.3  # of a tenth


def test_every_parameter_learns():
    fusion = make_fusion()
    image, text = pair()
    fusion(image, text).features.square().sum().backward()
    assert [name for name, parameter in fusion.named_parameters() if parameter.grad is None] == []


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads is 3"):
        CrossModalFusion(DIM, layers=1, heads=3, hidden=8, dropout=0.0)
