"""A run ends with a calibrated model, whose scores are the same on every way in."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diptych import ImageTextClassifier
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.inference.transformers_task import TASK
from diptych.pipeline.model.scores import scores
from diptych.pipeline.training import calibrate as module
from transformers import pipeline

from ...conftest import picture
from .test_train import run


@pytest.fixture(scope="module")
def calibrated(pairs, text_folder, tmp_path_factory):
    """A run with 36 validation rows, its record, and what it printed."""
    folder, said = tmp_path_factory.mktemp("calibrated") / "run", []
    splits = pairs.train_test_split(36, seed=0)
    data = {"train": splits["train"], "validation": splits["test"]}
    import datasets

    record = run(datasets.DatasetDict(data), folder, text_folder, say=said.append)
    return folder, record, said


def test_a_run_calibrates_for_each_modality_and_says_so(calibrated):
    folder, record, said = calibrated
    assert set(record["calibration"]) == {"both", "text", "image"}
    for values in record["calibration"].values():
        assert values["after"]["nll"] <= values["before"]["nll"] + 1e-6
    assert (folder / "reliability.png").stat().st_size > 5_000
    assert any("calibration on validation rows that also chose the epoch" in line for line in said)
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["calibration"]["text"]["rows"] == 36


def test_scores_are_the_same_on_every_way_in(calibrated, tmp_path):
    shutil.copytree(calibrated[0] / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for name, temperature in (("both", 1.5), ("text", 2.0), ("image", 0.7)):
        config["calibration"][name]["temperature"] = [temperature]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    classify = ImageTextClassifier.from_pretrained(tmp_path / "model")
    model = classify.model
    given = [{"image": picture("red"), "text": "a red shirt"}, {"text": "a blue shirt"}, {"image": picture("blue")}]
    found = classify(given)
    batch = classify.processor([one.get("image") for one in given], [one.get("text") for one in given])
    with torch.no_grad():
        logits = model(**batch).logits
    expected = scores(logits, model.config, torch.tensor([0, 1, 2]))
    raw = logits.softmax(1)
    assert not torch.allclose(expected, raw, atol=1e-4)
    for row, one in zip(expected.tolist(), found, strict=True):
        assert list(one["scores"].values()) == pytest.approx(row, abs=1e-6)
    task = pipeline(TASK, model=str(tmp_path / "model"))
    for row, one in zip(expected.tolist(), given, strict=True):
        by_label = {answer["label"]: answer["score"] for answer in task(one)}
        assert [by_label[name] for name in classify.labels] == pytest.approx(row, abs=1e-6)
    assert next(iter(classify.stream(iter(given))))["scores"] == pytest.approx(found[0]["scores"], abs=1e-6)


def test_rows_abstain_and_have_sets(calibrated, tmp_path):
    folder = calibrated[0]
    classify = ImageTextClassifier.from_pretrained(folder)
    given = [{"image": picture(colour, seed=i), "text": "a red shirt"} for i, colour in enumerate(["red", "blue"] * 8)]
    found = classify(given, coverage=0.5, sets=0.9)
    assert all(isinstance(one["abstained"], bool) and set(one["label_set"]) <= {"red", "blue"} for one in found)
    assert "abstained" not in classify(given[0])
    nothing = classify({"image": None, "text": None}, coverage=0.5, sets=0.9)
    assert nothing["abstained"] is nothing["label_set"] is None
    with pytest.raises(ValueError, match=r"a precision of 0\.95 takes at least 59 calibration rows"):
        classify(given[0], precision=0.95)
    with pytest.raises(ValueError, match="precision and coverage each choose who abstains"):
        classify(given[0], precision=0.9, coverage=0.5)
    (tmp_path / "t.csv").write_text("text,abstained\na red shirt,x\n,y\n")
    for suffix in (".csv", ".jsonl", ".parquet"):
        out = tmp_path / f"o{suffix}"
        classify_table(tmp_path / "t.csv", str(out), model=folder, text_only=True, sets=0.9, coverage=0.5, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert rows[0]["input_abstained"] == "x"
    assert isinstance(rows[0]["abstained"], bool)
    assert rows[1]["label_set"] is None


def test_training_on_from_a_calibrated_model_begins_uncalibrated(calibrated, pairs, text_folder, tmp_path):
    record = run(pairs, tmp_path / "again", None, model=calibrated[0], calibration=False, epochs=1)
    assert "calibration" not in record
    config = json.loads((tmp_path / "again" / "model" / "config.json").read_text())
    assert config.get("calibration") is None


def test_with_many_rows_others_calibrate_than_choose_the_epoch(pairs, text_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.pipeline.training.setup.ENOUGH_TO_CALIBRATE", 20)
    monkeypatch.setattr(module, "ENOUGH_TO_CALIBRATE", 20)
    import datasets

    said: list[str] = []
    splits = pairs.train_test_split(80, seed=0)
    data = datasets.DatasetDict(train=splits["train"], validation=splits["test"])
    record = run(data, tmp_path / "run", text_folder, say=said.append)
    mine = sum(not module.chooses_epoch(0, row) for row in range(80))
    assert record["calibration"]["both"]["rows"] == mine
    assert 25 < mine < 55
    assert any("rows that did not choose the epoch" in line for line in said)
