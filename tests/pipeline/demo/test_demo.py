"""`diptych demo` and the shipped model."""

from __future__ import annotations

import csv
import json

import pytest
from diptych import DiptychModel, ImageTextClassifier, make_scenes
from diptych.pipeline.cli.main import app
from diptych.pipeline.demo import demo as demo_module
from diptych.pipeline.demo.scenes import KINDS, SHIPPED_MODEL
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def shipped():
    return ImageTextClassifier.from_pretrained(SHIPPED_MODEL, device="cpu")


def test_the_shipped_model_is_right_on_scenes_it_never_saw(shipped):
    scenes = make_scenes(400, seed=987_654)
    pairs = [{"image": row["image"], "text": row["text"]} for row in scenes]
    hits = [p["label"] == ("false", "true")[row["label"]] for p, row in zip(shipped(pairs), scenes, strict=True)]
    assert sum(hits) / len(hits) >= 0.95
    for kind in KINDS:
        of_kind = [hit for hit, row in zip(hits, scenes, strict=True) if row["kind"] == kind]
        assert sum(of_kind) / len(of_kind) >= 0.85, kind  # 100 rows: five points of slack below the promised 90 %


def test_neither_half_alone_says_anything(shipped):
    scenes = make_scenes(200, seed=987_655)
    for half in ("image", "text"):
        found = shipped([{half: row[half]} for row in scenes])
        hits = [p["label"] == ("false", "true")[row["label"]] for p, row in zip(found, scenes, strict=True)]
        assert sum(hits) == 100  # exactly: every half occurs as often with a true as with a false other half


def test_the_shipped_folder_is_small_and_holds_no_pickle():
    files = list(SHIPPED_MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) < 10_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert next(DiptychModel.from_pretrained(SHIPPED_MODEL).parameters()).dtype.is_floating_point


def test_without_a_model_the_shipped_one_is_used_and_named(shipped, tmp_path):
    row = make_scenes(4, seed=5, size=96)[0]
    row["image"].save(tmp_path / "scene.png")
    result = CliRunner().invoke(app, ["classify", str(tmp_path / "scene.png"), row["text"]])
    assert result.exit_code == 0
    assert result.stdout.split()[0] == ("false", "true")[row["label"]]
    assert "using the shipped Scenes model" in result.stderr


def test_the_demo_goes_all_the_way(shipped, tmp_path, monkeypatch):
    monkeypatch.setitem(demo_module.FINE_TUNING, "epochs", 2)
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert metrics["shipped_right"] >= 7
    assert metrics["before"] < 0.3
    assert metrics["after"] >= 0.85
    with Image.open(tmp_path / "demo" / "demo.png") as picture:
        assert picture.width > 800
    assert (tmp_path / "demo" / "run" / "model" / "model.safetensors").is_file()
    with (tmp_path / "demo" / "pairs" / "metadata.csv").open(newline="") as file:
        *_, hardest = csv.DictReader(file)
    judged = shipped({"image": tmp_path / "demo" / "pairs" / hardest["file_name"], "text": hardest["text"]})
    assert judged["scores"][hardest["label"]] < 0.9  # all others are judged right, and surely
    again = CliRunner().invoke(app, ["evaluate", str(SHIPPED_MODEL), str(tmp_path / "demo" / "pairs"), "--json"])
    assert json.loads(again.stdout)["rows"] == 9


def test_a_demo_that_cannot_write_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "file" / "demo")])
    assert result.exit_code == 1
    assert "cannot be written to" in result.stderr


@pytest.mark.parametrize("name", ["pairs/metadata.csv", "demo.png", "run/model/config.json"])
def test_a_demo_takes_no_folder_of_others(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds files already, and they are not of this version: choose another" in result.stderr
    assert (tmp_path / name).read_text() == "mine"
