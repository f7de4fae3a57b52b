"""Runs in which parts join late and rows have several labels: stopped and gone on with, shared by two processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import datasets
import pytest
import torch
from safetensors.torch import load_file

from .test_checkpoints import killed_after
from .test_multi_label import rows_of
from .test_train import run

EVERYTHING = {
    "epochs": 3,
    "batch_size": 8,
    "unfreeze_text": 2,
    "unfreeze_at": 2,
    "learning_rate": 1e-2,
    "encoder_learning_rate": 1e-2,
    "layer_decay": 0.7,
    "class_weights": "balanced",
    "focal_gamma": 1.0,
    "label_smoothing": 0.1,
    "patience": 3,
}
"""With 40 rows of 48 trained on, epochs of five steps; parts of the text trunk join at step 6."""


def figures(record):
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["epochs"]]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def tagged():
    rows = [{**row, "label": row["label"]} for row in rows_of(48)]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def whole(tagged, text_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(tagged, folder, text_folder, **EVERYTHING, validation_share=1 / 6)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(3, marks=pytest.mark.slow, id="before parts join"),
        pytest.param(7, id="just after"),
        pytest.param(12, marks=pytest.mark.slow, id="in the last epoch"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights_thresholds_and_figures(tagged, text_folder, tmp_path, whole, step):
    options = {**EVERYTHING, "validation_share": 1 / 6, "checkpoint_steps": 1}
    with killed_after(step):
        run(tagged, tmp_path, text_folder, **options)
    record = run(tagged, tmp_path, text_folder, **options, resume=True)
    assert figures(record) == figures(whole[1])
    ours, theirs = weights(tmp_path), weights(whole[0])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    configs = [json.loads((folder / "model" / "config.json").read_text()) for folder in (tmp_path, whole[0])]
    assert configs[0]["thresholds"] == configs[1]["thresholds"] == record["best"]["thresholds"]


SCRIPT = """
import json, sys
from datasets import load_from_disk
from diptych import train
from diptych.pipeline.training import objective

data, out, text_folder, options = sys.argv[1:]
objective.epoch_score = lambda epoch, metric: (epoch["epoch"], 0.0)  # the last one is kept
train(
    load_from_disk(data), out, image_encoder="resnet-tiny", image_weights="random", image_size=(16, 16),
    text_encoder=text_folder, quiet=True, validation_share=1 / 6, flip=False, crop=False, colour=False,
    architecture={
        "hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32, "fusion": "mlp", "dropout": 0.0,
        "modality_dropout": 0.0,
    },
    **json.loads(options),
)
"""


@pytest.mark.slow
def test_two_processes_share_late_joiners_and_the_weighted_loss(tagged, text_folder, tmp_path):
    """Both unfreeze after the model is wrapped: its gradients must be averaged then, as in one process."""
    tagged.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = shutil.copytree(text_folder, tmp_path / "bert")
    losses = {}
    for name, count in (("1", 1), ("2", 2)):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        out = tmp_path / name
        command = [*launch, tmp_path / "script.py", tmp_path / "data", out, folder, json.dumps(EVERYTHING)]
        found = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr[-3_000:]
        losses[name] = [epoch["train_loss"] for epoch in json.loads((out / "run.json").read_text())["epochs"]]
    assert losses["1"] == pytest.approx(losses["2"], abs=1e-4)
    layer = "encoder.layer.1.output.dense.weight"
    start = load_file(folder / "model.safetensors")[layer]
    one, two = (weights(tmp_path / name)[f"text_encoder.trunk.{layer}"] - start for name in "12")
    assert one.norm() > 0.01  # what joined late has moved,
    assert (one - two).norm() < 0.05 * one.norm()  # and the same way
