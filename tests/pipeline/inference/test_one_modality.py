"""A model that was trained without images, or without texts, does without them afterwards."""

from __future__ import annotations

import pandas as pd
import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.inference.transformers_task import ImageTextClassificationPipeline

from ...conftest import picture


@pytest.mark.parametrize("lacking", ["image", "text"])
def test_a_model_that_was_trained_without_a_modality_does_without_it(tiny, lacking):
    model, processor = tiny
    classifier = ImageTextClassifier(model, processor)
    pair = {"image": picture("red"), "text": "a red shirt"}
    alone = classifier({name: value for name, value in pair.items() if name != lacking})
    before = model.config.columns
    model.config.columns = {"image": "photo", "text": "title", "label": "y", lacking: None}
    try:
        with pytest.warns(UserWarning, match=f"the model was trained without {lacking}s: the {lacking} is left out"):
            found = classifier(pair)
        assert found["scores"] == alone["scores"]
        assert found[f"{lacking}_contribution"] == 0
        assert found["status"] == "ok"
        with pytest.warns(UserWarning, match=f"the {lacking} is left out"):
            explained = classifier.explain(**pair)
        assert explained.scores == pytest.approx(alone["scores"], abs=1e-5)
        with pytest.warns(UserWarning, match=f"the {lacking} is left out"):
            (ranked, *_) = ImageTextClassificationPipeline(model=model, processor=processor)(pair)
        assert ranked["score"] == pytest.approx(alone["score"], abs=1e-5)
        only = {"image": "text_only", "text": "image_only"}
        with pytest.raises(ValueError, match="nothing is left to read, as the model was trained on one modality"):
            classifier(
                pd.DataFrame([{"photo": "a.png", "title": "a"}]),
                **{only["text" if lacking == "image" else "image"]: True},
            )
        table = pd.DataFrame([{"photo": "no such.png", "title": "a red shirt"}] * 2)
        if lacking == "image":
            assert classifier(table)["score"].tolist() == pytest.approx([alone["score"]] * 2)
    finally:
        model.config.columns = before


@pytest.mark.parametrize("wrap", [dict, lambda pair: [pair]])
@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (
            {"img": "x.png", "text": "a red shirt"},
            "the pair has no 'image', but 'img', which is not read: call it 'image'",
        ),
        ({"image": "x.png", "caption": "a red shirt"}, "the pair has no 'text', but 'caption', which is not read"),
    ],
)
def test_a_half_under_another_name_is_not_left_out_in_silence(tiny, wrap, pair, said):
    classify = ImageTextClassifier(*tiny)
    with pytest.raises(ValueError, match=said):
        classify(wrap(pair))
    with pytest.raises(ValueError, match=said):
        next(iter(classify(iter([pair]))))
    assert classify({"text": "a red shirt", "id": 7, "photo": None})["status"] == "image_missing"


def test_what_a_model_does_not_read_may_have_any_name(tiny, monkeypatch):
    monkeypatch.setattr(tiny[0].config, "columns", {"image": None, "text": "title", "label": "y"})
    assert ImageTextClassifier(*tiny)({"text": "a red shirt", "path": "x.png"})["status"] == "ok"
