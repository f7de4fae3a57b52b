"""What evaluation says of both halves and of each alone."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from diptych import ImageTextClassifier, evaluate
from diptych.pipeline.model.folder import save_model

from ...conftest import build_tiny


@pytest.fixture
def rows(pairs):
    """Twelve labelled rows, of which one lacks its image, two their text and one both."""
    table = [{**pairs[index], "label": ("no", "yes")[index % 3 == 0]} for index in range(12)]
    table[2]["image"] = None
    table[5]["text"] = " "
    table[6]["text"] = None
    table[9] |= {"image": None, "text": ""}
    return table


@pytest.fixture
def saved(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    return tmp_path / "model"


def accuracy(classifier, rows, *halves):
    """Share of the rows that have one of `halves` which the classifier gets right, given these halves only."""
    found = [classifier({key: row[key] for key in halves}) for row in rows]
    return np.mean([one["label"] == row["label"] for one, row in zip(found, rows, strict=True) if one["label"]])


def test_each_half_is_judged_alone(saved, rows):
    found = evaluate(saved, Dataset.from_list(rows), quiet=True)
    classifier = ImageTextClassifier.from_pretrained(saved)
    assert found["rows"] == 12
    assert (found["one_half"], found["without_prediction"]) == (3, 1)
    assert (found["text_only"]["rows"], found["image_only"]["rows"]) == (9, 10)
    assert found["accuracy"] == pytest.approx(accuracy(classifier, rows, "image", "text"))
    assert found["text_only"]["accuracy"] == pytest.approx(accuracy(classifier, rows, "text"))
    assert found["image_only"]["accuracy"] == pytest.approx(accuracy(classifier, rows, "image"))
    assert {"macro_f1", "auroc", "loss"} < set(found["text_only"])


def test_a_half_that_no_row_has_is_asked_for_and_gets_no_figures(saved, rows):
    nobody = Dataset.from_list([{**row, "image": None} for row in rows[:4]])
    with pytest.raises(ValueError, match=r"no row has an image that can be used in 'image' .* or give --text-only to"):
        evaluate(saved, nobody, image_column="image", quiet=True)
    found = evaluate(saved, nobody, text_only=True, quiet=True)
    assert found["image_only"] == {"rows": 0}
    assert found["text_only"]["accuracy"] == found["accuracy"]


def test_a_model_without_classes_is_refused(text_folder, rows, tmp_path):
    save_model(*build_tiny(text_folder, labels=[], alignment_weight=1.0), tmp_path)
    with pytest.raises(ValueError, match="no classes"):
        evaluate(tmp_path, Dataset.from_list(rows), quiet=True)
