"""A model that was trained without images, or without texts, does without them afterwards."""

from __future__ import annotations

import pandas as pd
import pytest
from diptych import ImageTextClassifier

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
        table = pd.DataFrame([{"photo": "no such.png", "title": "a red shirt"}] * 2)
        if lacking == "image":
            assert classifier(table)["score"].tolist() == pytest.approx([alone["score"]] * 2)
    finally:
        model.config.columns = before
