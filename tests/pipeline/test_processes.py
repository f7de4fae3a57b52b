"""Several processes train one model (gloo, CPU): batches without an image on one of them don't stop the other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from datasets import load_from_disk
from diptych import train

data, out, text_folder = sys.argv[1:]
train(
    load_from_disk(data), out, image_encoder="resnet-tiny", image_weights="random", image_size=(16, 16),
    text_encoder=text_folder, architecture={"hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32},
    epochs=2, batch_size=8, quiet=True, say=lambda line: None,
)
"""


def launch(*command):
    """Run a script in two processes; `accelerate launch --cpu` would start one, whatever number it is given."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    found = subprocess.run(
        list(map(str, [*start, *command])), capture_output=True, text=True, timeout=120, env=environment
    )
    assert found.returncode == 0, found.stderr[-3_000:]
    return found.stdout


@pytest.mark.slow
def test_batches_without_an_image_hang_nobody(pairs, text_folder, tmp_path):
    few = pairs.map(lambda row, index: {**row, "image": row["image"] if index % 8 == 0 else None}, with_indices=True)
    few.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    launch(tmp_path / "script.py", tmp_path / "data", tmp_path / "run", text_folder)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["processes"] == 2
    assert all(0 < epoch["train_loss"] < 5 for epoch in record["epochs"])


STOPPED = """
import os, sys, signal
from datasets import load_from_disk
from diptych import train
from diptych.pipeline import fit
from diptych.pipeline.stopping import Interrupted

data, out, text_folder, what = sys.argv[1:]
original = fit.draw_seed

def seed(of, name, epoch, batch, process):
    if what == "signal" and (epoch, batch, process) == (2, 1, 1):  # the process that does not write hears of it
        os.kill(os.getpid(), signal.SIGTERM)
    return original(of, name, epoch, batch, process)

fit.draw_seed = seed
if what == "lost":
    fuse = fit.DiptychModel.fuse

    def lost(model, *arguments, **others):
        output = fuse(model, *arguments, **others)
        if model.training and os.environ["RANK"] == "1":
            output.loss = output.loss * float("nan")
        return output

    fit.DiptychModel.fuse = lost
try:
    train(
        load_from_disk(data), out, image_encoder="resnet-tiny", image_weights="random", image_size=(16, 16),
        text_encoder=text_folder, architecture={"hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32},
        epochs=2, batch_size=8, quiet=True, resume=what == "go on",
    )
except (Interrupted, ValueError) as error:
    print(f"PROCESS {os.environ['RANK']}: {getattr(error, 'code', 1)} {error}", flush=True)
"""


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_weights(pairs, text_folder, tmp_path):
    """A signal, or a loss that is not finite, which only one of them has; rows with one half are counted once."""
    few = pairs.select(range(42)).map(
        lambda row, index: {**row, "image": None if index % 3 == 0 else row["image"]}, with_indices=True
    )
    few.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(STOPPED)

    def call(out, what):
        return launch(tmp_path / "script.py", tmp_path / "data", tmp_path / out, text_folder, what)

    def figures(out):
        record = json.loads((tmp_path / out / "run.json").read_text())
        epochs = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["epochs"]]
        return record["state"], epochs, record["problems"], record["steps"]

    call("whole", "")
    shown = call("run", "signal")
    assert "PROCESS 0: 143 stopped by SIGTERM after step 7, in epoch 2; saved" in shown
    assert "PROCESS 1: 143 \n" in shown
    assert figures("run")[0] == "interrupted"
    assert "going on from" in call("run", "go on")
    assert figures("run") == figures("whole")
    ours, theirs = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    shown = call("lost", "lost")
    said = re.findall(r"PROCESS (\d): 1 the loss of step 1, in epoch 1, is not finite; its rows: ([\d, ]+)\.", shown)
    assert sorted(process for process, _ in said) == ["0", "1"]
    assert said[0][1] == said[1][1]
    assert len(said[0][1].split(", ")) == 4  # of the process that saw it, and no other
