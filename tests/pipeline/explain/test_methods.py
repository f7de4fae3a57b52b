"""Attributions: their axioms, on tiny models of every fusion and on the shipped one."""

from __future__ import annotations

import pytest
import torch
from diptych import load_model
from diptych.pipeline.demo.scenes import SHIPPED_MODEL, make_scenes
from diptych.pipeline.explain.explain import explain, make_pair
from diptych.pipeline.explain.integrated_gradients import TOLERANCE, integrated_gradients
from diptych.pipeline.explain.methods import METHODS
from diptych.pipeline.explain.removal import baseline, log_odds
from scipy.stats import spearmanr

from ...conftest import build_tiny, picture

FUSIONS = ("cross-modal", "self-attention", "bilinear", "concat", "mlp")


@pytest.fixture(scope="module")
def scenes():
    """The shipped model, its processor, and some pairs."""
    model, processor = load_model(SHIPPED_MODEL)
    return model, processor, make_scenes(24, seed=3)


def difference(model, pair, target):
    with torch.no_grad():
        return float(target(model(**pair.batch).logits) - target(model(**baseline(model, pair)).logits))


def test_integrated_gradients_sum_to_the_score_difference(scenes):
    model, processor, rows = scenes
    for row in rows:
        pair, _ = make_pair(processor, row["image"], row["text"])
        target = log_odds(model, 1)
        attribution = integrated_gradients(model, pair, target)
        whole = difference(model, pair, target)
        given = float(attribution.heat.sum() + attribution.words.sum())
        assert abs(given - whole) <= 0.02 * max(abs(whole), 1.0)
        assert abs(attribution.total - whole) <= 2 * TOLERANCE * max(abs(whole), 1.0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_of_every_fusion_too(fusion, text_folder):
    torch.manual_seed(0)
    model, processor = build_tiny(text_folder, fusion=fusion)
    model.eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
        if model.experts is not None and model.experts.words is not None:  # new ones are 0
            model.experts.words.pieces.weight.normal_(std=3.0)
            model.experts.words.pairs.weight.normal_(std=3.0)
            model.experts.gate.copy_(torch.tensor([3.0, -2.0, 0.5]))  # the weights change along the path
    pair, _ = make_pair(processor, picture("red"), "a red shirt left")
    target = log_odds(model, 0)
    attribution = integrated_gradients(model, pair, target)
    whole = difference(model, pair, target)
    assert abs(float(attribution.heat.sum() + attribution.words.sum()) - whole) <= 0.02 * max(abs(whole), 1.0)
    assert attribution.words.shape == (4,)


@pytest.mark.parametrize("method", METHODS)
def test_an_absent_modality_gets_nothing(method, scenes):
    model, processor, rows = scenes
    row = rows[0]
    without_text = explain(model, processor, image=row["image"], method=method)
    without_image = explain(model, processor, text=row["text"], method=method)
    assert without_text.words == []
    assert without_text.text_contribution == 0
    assert without_image.heat is None
    assert without_image.image_contribution == 0
    assert without_text.heat.abs().sum() > 0
    assert any(word.value for word in without_image.words)


@pytest.mark.parametrize("fusion", ["bilinear", "mlp"])
def test_attention_needs_attention(fusion, text_folder):
    model, processor = build_tiny(text_folder, fusion=fusion)
    with pytest.raises(ValueError, match=f"the {fusion} fusion has no attention from token to token"):
        explain(model.eval(), processor, image=picture("red"), text="a red shirt", method="attention")


def test_against_another_class_the_signs_turn(scenes):
    model, processor, rows = scenes
    pair, _ = make_pair(processor, rows[0]["image"], rows[0]["text"])
    one, other = (integrated_gradients(model, pair, log_odds(model, a, b)) for a, b in ((0, 1), (1, 0)))
    torch.testing.assert_close(one.heat, -other.heat, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(one.words, -other.words, atol=2e-2, rtol=1e-2)


def test_maps_follow_the_weights(scenes):
    """With weights drawn anew the map is another (Adebayo et al., Sanity Checks for Saliency Maps, 2018)."""
    model, processor, rows = scenes
    random, _ = load_model(SHIPPED_MODEL)
    torch.manual_seed(0)
    for module in random.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    alike = []
    for row in rows.select(range(12)):
        pair, _ = make_pair(processor, row["image"], row["text"])
        maps = [integrated_gradients(network, pair, log_odds(network, 1)).heat for network in (model, random.eval())]
        alike.append(spearmanr(*(heat.flatten() for heat in maps)).statistic)
    assert sum(alike) / len(alike) < 0.5


def test_the_heat_lies_on_the_thing_that_is_named(scenes):
    """Of two squares that differ in colour only, the one that the sentence names."""
    from diptych.pipeline.demo.drawing import Scene, Thing, draw_scene

    model, processor, _ = scenes
    things = (
        Thing("red", "square", 0.25, 0.25, 0.14, 0.0, (220, 45, 45)),
        Thing("blue", "square", 0.75, 0.75, 0.14, 0.0, (45, 95, 220)),
    )
    photo = draw_scene(Scene(things, (240, 240, 240)))
    for colour, place in (("red", 0.25), ("blue", 0.75)):
        heat = explain(model, processor, image=photo, text=f"there is a {colour} square").heat
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        assert abs(row / heat.shape[0] - place) < 0.14
        assert abs(column / heat.shape[1] - place) < 0.14
