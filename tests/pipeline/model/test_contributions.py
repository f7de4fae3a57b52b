"""Contributions of the modalities: exact Shapley values, by their axioms."""

from __future__ import annotations

import pytest
import torch
from diptych.pipeline.model.contributions import contributions, log_odds
from diptych.pipeline.model.model import DiptychOutput

from ...conftest import build_tiny, picture

FUSIONS = ("cross-modal", "self-attention", "bilinear", "concat", "mlp")


def batch_of(processor):
    return processor([picture("red"), picture("blue"), None, None], ["a red shirt", None, "a blue shoe", None])


def values(model, batch):
    """The log-odds of the predicted class by hand: both, image only, text only, neither, each (batch,)."""
    predicted = model(**batch).logits.argmax(dim=1)
    off = torch.zeros(len(predicted), dtype=torch.bool)

    def score(**present):
        p = model(**{**batch, **present}).logits.log_softmax(dim=1).gather(1, predicted[:, None])[:, 0]
        return p - torch.log1p(-p.exp())

    return score(), score(text_present=off), score(image_present=off), score(image_present=off, text_present=off)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_they_are_shapley_values(fusion, text_folder):
    torch.manual_seed(1)
    model, processor = build_tiny(text_folder, fusion=fusion)
    model.eval()
    batch = batch_of(processor)
    with torch.no_grad():
        model.head.weight.mul_(30)
        image, text = model.encode(batch)
        output, shares = contributions(model, image, text)
        torch.testing.assert_close(output.logits, model(**batch).logits)
        assert (output.modality_weights is None) == (model(**batch).modality_weights is None)
        both, of_image, of_text, neither = values(model, batch)
    expected = torch.stack(
        [(of_image - neither + both - of_text) / 2, (of_text - neither + both - of_image) / 2], dim=1
    )
    torch.testing.assert_close(shares[0], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shares.sum(dim=1), both - neither, atol=1e-4, rtol=1e-5)
    assert shares[1, 1] == 0
    assert shares[2, 0] == 0
    assert shares[3].tolist() == [0, 0]


def test_a_modality_that_the_model_ignores_has_none_and_equal_ones_have_equal_shares(tiny, monkeypatch):
    """On a stand-in for the fusion: what it sees of the image counts nothing, or as much as the text."""
    model, processor = tiny
    batch = batch_of(processor)
    image, text = model.encode(batch)
    for of_image in (0.0, 2.0):

        def fuse(image, text, of_image=of_image):
            score = of_image * image.present + 2.0 * text.present
            return DiptychOutput(logits=torch.stack([-score, score], dim=1))

        monkeypatch.setattr(model, "fuse", fuse)
        _, shares = contributions(model, image, text)
        assert shares[0].tolist() == pytest.approx([2 * of_image, 4.0], abs=1e-5)
        assert shares[1].tolist() == pytest.approx([2 * of_image, 0.0], abs=1e-5)


def test_of_several_labels_each_has_its_own(text_folder):
    model, processor = build_tiny(text_folder, problem_type="multi_label_classification")
    model.eval()
    batch = batch_of(processor)
    with torch.no_grad():
        logits = model(**batch).logits
        _, shares = contributions(model, *model.encode(batch))
        off = torch.zeros(4, dtype=torch.bool)
        neither = model(**{**batch, "image_present": off, "text_present": off}).logits
    assert shares.shape == (4, 2, 2)
    torch.testing.assert_close(shares.sum(dim=1), logits - neither, atol=1e-5, rtol=1e-5)


def test_log_odds():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    p = logits.softmax(dim=1)
    expected = torch.stack([p[0, 2] / (1 - p[0, 2]), p[1, 0] / (1 - p[1, 0])]).log()
    torch.testing.assert_close(log_odds(logits, torch.tensor([2, 0])), expected)
