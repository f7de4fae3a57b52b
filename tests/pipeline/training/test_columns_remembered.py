"""A model knows the columns that it was trained on: other commands use them where the data has them."""

from __future__ import annotations

import pytest
from diptych import ImageTextClassifier, evaluate, load_model, train
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.explain.many import compare_methods, explain_rows

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


def test_explain_reads_them_and_what_is_named_goes_before(model, tmp_path):
    network, processor = load_model(model)
    said: list[str] = []
    found = explain_rows(network, processor, rows(), tmp_path / "a", rows=[1], say=said.append)
    assert [(row["status"], row["text"]) for row in found] == [("ok", "a blue shirt")]
    assert said[-1].endswith("(as in training)")
    found = explain_rows(network, processor, rows(), tmp_path / "b", rows=[1], text_column="text", image_column="image")
    assert [(row["status"], row["text"]) for row in found] == [("image_missing", "no")]


def test_explain_finds_photos_as_all_others_do(model, tmp_path):
    (tmp_path / "photos").mkdir()
    lines = ["second,words"]
    for number, row in enumerate(rows()):
        row["second"].save(tmp_path / "photos" / f"{number}.png")
        lines.append(f"{number},{row['words']}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    network, processor = load_model(model)
    found = explain_rows(network, processor, tmp_path / "t.csv", tmp_path / "out", rows=[0, 7])
    assert [row["status"] for row in found] == ["ok", "ok"]
    with pytest.raises(ValueError, match="--image-folder is nowhere, which is no folder"):
        explain_rows(network, processor, tmp_path / "t.csv", tmp_path / "x", rows=[0], image_folder="nowhere")
    found = explain_rows(network, processor, rows(), tmp_path / "y", rows=[0], text_only=True)
    assert (found[0]["status"], found[0]["image_contribution"]) == ("ok", 0)
    compared = compare_methods(network, processor, tmp_path / "t.csv", most=1)
    assert {values["rows"] for values in compared.values()} == {1}


def test_columns_that_the_data_lacks_are_looked_for(model):
    data = [{"image": row["second"], "text": row["words"], "label": row["season"]} for row in rows()]
    assert evaluate(model, data, quiet=True)["columns"] == "image from 'image', text from 'text', label from 'label'"


def test_classify_reads_them_and_needs_no_label(model, tmp_path):
    import datasets

    data = datasets.Dataset.from_list(rows()).remove_columns("season")
    assert set(ImageTextClassifier.from_pretrained(model)(data)["status"]) == {"ok"}
    assert classify_table(data, str(tmp_path / "out.jsonl"), model=model, quiet=True, say=lambda _: None) == {"ok": 8}
