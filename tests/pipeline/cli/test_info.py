"""`diptych info MODEL` says what a model is, above all whether its scores are calibrated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diptych.pipeline.cli.info import model_facts
from diptych.pipeline.cli.main import app
from diptych.pipeline.demo.scenes import SHIPPED_MODEL
from typer.testing import CliRunner

from ..training.test_train import run

OLD = Path(__file__).parents[2] / "data"


def shown(*arguments):
    result = CliRunner().invoke(app, ["info", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_model_of_an_earlier_format_is_not_calibrated(version):
    code, text = shown(OLD / f"model-{version}")
    assert code == 0
    assert f"format {version} " in text
    assert "calibration none: scores are raw" in text
    assert {1: "cross-modal", 2: "mlp", 3: "perhaps"}[version] in text


def test_the_model_that_ships_is_not():
    assert model_facts(str(SHIPPED_MODEL))["calibration"].startswith("none: scores are raw")


def test_a_run_says_for_which_modalities_it_is(pairs, text_folder, tmp_path):
    record = run(pairs, tmp_path / "run", text_folder, epochs=1, validation_share=0.4)
    rows = record["rows"]["validation"]
    code, text = shown(tmp_path / "run")
    assert code == 0
    assert f"scores of image and text ({rows} rows), text only ({rows} rows), image only ({rows} rows)" in text
    assert "classes 2, one a row: red, blue" in text
    assert "columns image from 'image', text from 'text', label from 'label'" in text
    place = tmp_path / "run" / "model" / "config.json"
    config = json.loads(place.read_text())
    del config["calibration"]["text"]
    place.write_text(json.dumps(config))
    assert model_facts(str(tmp_path / "run"))["calibration"].endswith("image only (48 rows), not of text only")


def test_a_run_without_calibration_says_so(pairs, text_folder, tmp_path):
    run(pairs, tmp_path, text_folder, epochs=1, calibration=False)
    facts = json.loads(CliRunner().invoke(app, ["info", str(tmp_path), "--json"]).output)
    assert facts["calibration"].startswith("none: scores are raw")
    assert facts["format"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no model at"),
        ("{", "holds no model"),
        ('{"model_type": "bert"}', "holds a 'bert' model, not one trained with diptych"),
        ('{"model_type": "diptych", "format_version": 99}', "format_version is 99"),
        ('{"model_type": "diptych", "auto_map": {"AutoModel": "x.X"}}', "brings code of its own"),
    ],
)
def test_what_is_no_model_is_one_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "config.json").write_text(content)
    code, text = shown(tmp_path / "m")
    assert code == 1
    assert message in text


def test_a_model_and_the_cache_are_two_questions(tmp_path):
    shutil.copytree(OLD / "model-1", tmp_path / "m")
    code, text = shown(tmp_path / "m", "--cache")
    assert code == 1
    assert "do not go with a model" in text
