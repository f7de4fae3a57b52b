"""A model knows the columns that it was trained on: other commands use them where the data has them."""

from __future__ import annotations

import pytest
from diptych import ImageTextClassifier, evaluate, train
from diptych.pipeline.batch_inference.classify_table import classify_table

from ...conftest import picture

SMALL = {"image_encoder": "resnet-tiny", "image_weights": "random", "image_size": (8, 8), "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def model(text_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    columns = {"image_column": "second", "text_column": "words", "label_column": "season"}
    train(rows(), folder / "out", text_encoder=text_folder, quiet=True, say=lambda _: None, cache=False,
          fusion="mlp", hidden_size=16, processes=1, **SMALL, **columns)  # fmt: skip
    return folder / "out"


def rows(count: int = 8) -> list[dict]:
    return [
        {
            "image": "gone.png", "second": picture(("red", "blue")[i % 2], seed=i, size=8), "text": "no",
            "words": f"a {('red', 'blue')[i % 2]} shirt", "label": "other", "season": ("fall", "summer")[i % 2],
        }
        for i in range(count)
    ]  # fmt: skip


def test_evaluate_judges_what_was_trained_on(model):
    said: list[str] = []
    found = evaluate(model, rows(), quiet=True, say=said.append)
    assert found["columns"] == "image from 'second', text from 'words', label from 'season'"
    assert said[-1].endswith("(as in training)")


def test_what_is_named_goes_before_what_is_remembered(model):
    with pytest.raises(ValueError, match="label 'other' in 'label'"):
        evaluate(model, rows(), quiet=True, label_column="label")


def test_columns_that_the_data_lacks_are_looked_for(model):
    data = [{"image": row["second"], "text": row["words"], "label": row["season"]} for row in rows()]
    assert evaluate(model, data, quiet=True)["columns"] == "image from 'image', text from 'text', label from 'label'"


def test_classify_reads_them_and_needs_no_label(model, tmp_path):
    import datasets

    data = datasets.Dataset.from_list(rows()).remove_columns("season")
    assert set(ImageTextClassifier.from_pretrained(model)(data)["status"]) == {"ok"}
    assert classify_table(data, str(tmp_path / "out.jsonl"), model=model, quiet=True, say=lambda _: None) == {"ok": 8}
