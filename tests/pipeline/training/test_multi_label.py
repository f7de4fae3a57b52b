"""Rows of several labels, from data to a table of predictions."""

from __future__ import annotations

import csv
import json

import datasets
import pyarrow.parquet as pq
import pytest
import transformers
from diptych import ImageTextClassifier, evaluate, train
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.cli.classify import prediction_text
from diptych.pipeline.cli.evaluate import evaluation_text
from diptych.pipeline.inference.transformers_task import TASK
from diptych.pipeline.model.folder import load_model, save_model
from typer.testing import CliRunner

from ...conftest import build_tiny, picture
from .test_train import run

NAMES = ["red", "blue", "shoe"]
SEVERAL = {"labels": NAMES, "problem_type": "multi_label_classification"}


def rows_of(count: int) -> list[dict]:
    """Red or blue pictures of shirts and shoes; of a grey one neither colour, so that a shirt has no label."""
    rows = []
    for i in range(count):
        colour, thing = ("red", "blue", "grey")[i % 3], ("shirt", "shoe")[i // 3 % 2]
        labels = [name for name in NAMES if name in (colour, thing)]
        rows.append({"image": picture(colour, seed=i), "text": f"a {thing}", "label": labels})
    return rows


@pytest.fixture(scope="module")
def tagged():
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.Sequence(datasets.ClassLabel(names=NAMES)),
        }
    )
    return datasets.Dataset.from_list(rows_of(96), features=features)


@pytest.fixture(scope="module")
def trained(tagged, text_folder, tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("run"), []
    return folder, run(tagged, folder, text_folder, epochs=4, say=said.append), said


@pytest.fixture
def saved(text_folder, tmp_path):
    """A random model with thresholds at which rows get all, some or none of the labels."""
    model, processor = build_tiny(text_folder, **SEVERAL)
    classify = ImageTextClassifier(model, processor)
    found = classify([{"image": row["image"], "text": row["text"]} for row in rows_of(6)])
    middle = [sorted(one["scores"][name] for one in found)[2 + i] for i, name in enumerate(NAMES)]
    model.config.set_thresholds(middle)
    save_model(model, processor, tmp_path / "model")
    return tmp_path / "model"


def test_it_learns_several_labels_and_says_so(trained, tagged):
    folder, record, said = trained
    text = "\n".join(said)
    assert "labels: lists in 'label', so a row may have several or none (multi-label)" in text
    assert "mean_average_precision" in text
    assert "micro_f1" in text
    assert record["best"]["mean_average_precision"] == max(e["mean_average_precision"] for e in record["epochs"])
    config = load_model(folder)[0].config
    assert config.problem_type == "multi_label_classification"
    assert config.thresholds == record["best"]["thresholds"]
    assert config.thresholds != [0.5, 0.5, 0.5]
    assert "multi_label_classification" in (folder / "model" / "config.json").read_text()
    found = evaluate(folder, tagged, quiet=True)
    assert found["mean_average_precision"] >= 0.9
    assert {"micro_f1", "macro_f1", "loss"} <= set(found["text_only"])
    assert found["image_only"]["mean_average_precision"] < found["mean_average_precision"]
    assert "mAP" in evaluation_text(found)


def test_evaluation_measures_the_labels_that_the_classifier_gives(saved, tagged):
    found = evaluate(saved, tagged, quiet=True)
    predictions = ImageTextClassifier.from_pretrained(saved)(tagged.remove_columns("label"))["label"]
    truth = [{NAMES[index] for index in row} for row in tagged["label"]]
    hits = sum(len(t & set(p)) for t, p in zip(truth, predictions, strict=True))
    assert found["micro_f1"] == pytest.approx(2 * hits / (sum(map(len, truth)) + sum(map(len, predictions))))


def test_every_form_of_output_says_the_same(saved, tmp_path):
    rows = rows_of(6)
    rows[4]["text"] = None
    classify = ImageTextClassifier.from_pretrained(saved)
    found = classify([{"image": row["image"], "text": row["text"]} for row in rows] + [{"image": None, "text": None}])
    for one in found[:-1]:
        limits = zip(one["scores"].items(), classify.model.config.thresholds, strict=True)
        assert one["label"] == [name for (name, score), limit in limits if score >= limit]
        assert one["score"] == max(one["scores"].values())
    assert {len(one["label"]) for one in found[:-1]} > {1}
    assert (found[-1]["label"], found[-1]["score"], found[-1]["status"]) == (None, None, "both_missing")
    assert found[4]["status"] == "text_missing"

    for number, row in enumerate(rows):
        row["image"].save(tmp_path / f"{number}.png")
    table = tmp_path / "rows.jsonl"
    lines = [{"image": f"{number}.png", "text": row["text"]} for number, row in enumerate(rows)]
    table.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"image": None, "text": None}]))
    labels = [one["label"] for one in found]
    outs = [tmp_path / f"out.{kind}" for kind in ("jsonl", "csv", "parquet")]
    for out in outs:
        classify_table(table, str(out), model=saved, say=lambda line: None, quiet=True)
    assert [json.loads(line)["label"] for line in outs[0].read_text().splitlines()] == labels
    with outs[1].open(newline="") as file:
        assert [json.loads(row["label"]) if row["label"] else None for row in csv.DictReader(file)] == labels
    read = pq.read_table(outs[2])
    assert read["label"].to_pylist() == labels
    assert str(read.schema.field("label").type).startswith("list<")


def test_parquet_keeps_lists_where_the_first_thousand_are_empty(tmp_path):
    from diptych.pipeline.data.writer import RowWriter

    with RowWriter(tmp_path / "out.parquet", labels=NAMES, multi_label=True) as writer:
        for number in range(1001):
            writer.write({"row": number, "label": [] if number < 1000 else ["red"]})
    assert pq.read_table(tmp_path / "out.parquet")["label"].to_pylist()[-2:] == [[], ["red"]]


def test_transformers_pipeline_gives_every_score_of_its_own(saved):
    pair = {"image": picture("red"), "text": "a shoe"}
    found = transformers.pipeline(TASK, model=str(saved))(pair)
    expected = ImageTextClassifier.from_pretrained(saved)(pair)["scores"]
    assert {one["label"]: one["score"] for one in found} == pytest.approx(expected, abs=1e-6)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)


def test_a_pair_is_shown_with_all_its_labels_or_none(saved):
    from diptych.pipeline.data.rows import Pair

    pair = Pair(0, picture("red"), "a shoe")
    found = ImageTextClassifier.from_pretrained(saved)(image=pair.image, text=pair.text)
    assert prediction_text({**found, "label": ["red", "shoe"]}, pair).splitlines()[0] == "red, shoe"
    assert prediction_text({**found, "label": []}, pair).splitlines()[0] == "no label"


def test_csv_with_json_lists_is_trained_and_evaluated_by_commands(text_folder, tmp_path):
    from diptych.pipeline.cli.main import app

    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label"])
        for number, row in enumerate(rows_of(24)):
            row["image"].save(tmp_path / f"{number}.png")
            writer.writerow([f"{number}.png", row["text"], json.dumps(row["label"])])
    data, out = str(tmp_path / "train.csv"), str(tmp_path / "run")
    options = ["--image-encoder", "resnet-tiny", "--image-weights", "random", "--image-size", "16"]
    options += ["--text-encoder", text_folder, "--epochs", "1", "--batch-size", "8", "--class-weights", "balanced"]
    options += ["--focal-gamma", "1", "--label-smoothing", "0.1", "--patience", "2", "--quiet"]
    found = CliRunner().invoke(app, ["train", data, "--out", out, *options])
    assert found.exit_code == 0, found.output
    shown = CliRunner().invoke(app, ["evaluate", out, data, "--quiet"])
    assert shown.exit_code == 0, shown.output
    assert "macro F1" in shown.output
    assert "mAP" in shown.output


def test_a_single_label_model_starts_a_multi_label_one_with_a_new_head(tiny, tagged, text_folder, tmp_path):
    save_model(*tiny, tmp_path / "start")
    said: list[str] = []
    run(tagged, tmp_path / "run", text_folder, model=tmp_path / "start", epochs=1, say=said.append)
    assert any("the head is new" in line for line in said)
    model = load_model(tmp_path / "run")[0]
    assert (model.config.labels, model.config.multi_label) == (NAMES, True)
    again, _ = load_model(tmp_path / "run", labels=["a", "b"])
    assert (again.config.multi_label, again.config.thresholds) == (False, None)


def test_a_validation_split_without_any_label_is_refused(tagged, text_folder, tmp_path):
    nothing = tagged.select(range(6)).map(lambda row: {**row, "label": []})
    data = datasets.DatasetDict(train=tagged, validation=nothing)
    with pytest.raises(ValueError, match="no row to validate with has a label in 'label', so that nothing can be"):
        train(data, tmp_path, text_encoder=text_folder, image_encoder="resnet-tiny", image_weights="random")


def test_one_label_a_row_is_refused_by_a_model_of_lists(saved, pairs):
    with pytest.raises(ValueError, match="one label for each row, where the model gives lists of labels"):
        evaluate(saved, pairs, quiet=True)
