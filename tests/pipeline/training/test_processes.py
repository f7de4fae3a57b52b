"""Several processes train one model (gloo, CPU): batches without an image on one of them don't stop the other."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import datasets
import pytest
import torch
from diptych.pipeline.model.folder import save_model
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


def launch(*command, processes=2):
    """Run a script in several processes; `accelerate launch --cpu` would start one, whatever number it is given."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    found = subprocess.run(
        list(map(str, [*start, *command])), capture_output=True, text=True, timeout=550, env=environment
    )
    assert found.returncode == 0, found.stderr[:6_000]
    return found.stdout


@pytest.mark.slow
def test_batches_without_an_image_hang_nobody(pairs, text_folder, tmp_path):
    few = pairs.map(lambda row, index: {**row, "image": row["image"] if index % 8 == 0 else None}, with_indices=True)
    few.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    launch(tmp_path / "script.py", tmp_path / "data", tmp_path / "run", text_folder)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["processes"] == 2
    assert all(0 < epoch["loss"] < 1 and math.isfinite(epoch["train_loss"]) for epoch in record["epochs"])


STEPS = """
import json, os, sys
from pathlib import Path
from datasets import load_from_disk
from diptych import train
from diptych.pipeline.training import loop as fit

data, out, trunks = sys.argv[1:]
losses = []

class Heard(fit.Tracking):
    def step(self, loss, step):
        losses.append(float(self.accelerator.reduce(loss.detach(), "mean")))

fit.Tracking = Heard
sizes = {"hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32, "dropout": 0.0, "modality_dropout": 0.0}
record = train(
    load_from_disk(data), out, image_encoder=trunks, text_encoder=trunks, architecture=sizes,
    unfreeze_text=0, unfreeze_image=0, alignment_weight=0.1,
    epochs=3, batch_size=12, gradient_accumulation_steps=2, learning_rate=3e-3, quiet=True, say=lambda line: None,
)
figures = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in record["epochs"]]
if os.environ.get("RANK", "0") == "0":
    Path(out, "found.json").write_text(json.dumps([losses, figures, record["problems"]]))
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(pairs, tiny, tmp_path):
    """Every step's loss and every epoch's figures; 43 rows, so that the last step has 7, the last pass forward one."""
    model, processor = tiny
    save_model(model, processor, tmp_path / "trunks")
    some = pairs.select(range(43 + 21)).map(
        lambda row, index: {**row, "image": row["image"] if index % 5 else None}, with_indices=True
    )
    split = datasets.DatasetDict({"train": some.select(range(43)), "validation": some.select(range(43, 64))})
    split.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(STEPS)
    found = []
    for count in (1, 2):
        out = tmp_path / str(count)
        launch(tmp_path / "script.py", tmp_path / "data", out, tmp_path / "trunks", processes=count)
        found.append(json.loads((out / "found.json").read_text()))
    (one, one_figures, one_problems), (two, two_figures, two_problems) = found
    assert len(one) == len(two) == 12
    assert two == pytest.approx(one, abs=1e-4)
    assert one[0] != pytest.approx(one[-1], abs=1e-2)  # it learns
    assert two_problems == one_problems == {"image_missing": 9 * 3}
    for ours, theirs in zip(one_figures, two_figures, strict=True):
        assert ours["accuracy"] == theirs["accuracy"]
        assert ours["one_half"] == theirs["one_half"]
        for name in ("train_loss", "loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


STOPPED = """
import os, sys, signal
from datasets import load_from_disk
from diptych import DiptychModel, train
from diptych.pipeline.training import loop as fit
from diptych.pipeline.runtime.signals import Interrupted

data, out, text_folder, what = sys.argv[1:]
original = fit.draw_seed

def seed(of, name, epoch, *place):
    if what == "signal" and (epoch, *place) == (2, 1, 1):  # the process that does not write hears of it
        os.kill(os.getpid(), signal.SIGTERM)
    return original(of, name, epoch, *place)

fit.draw_seed = seed
if what == "lost":
    fuse = DiptychModel.fuse

    def lost(model, *arguments, **others):
        output = fuse(model, *arguments, **others)
        if model.training and os.environ["RANK"] == "1":
            output.loss = output.loss * float("nan")
        return output

    DiptychModel.fuse = lost
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
    assert "resuming from" in call("run", "go on")
    assert figures("run") == figures("whole")
    ours, theirs = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    shown = call("lost", "lost")
    said = re.findall(r"PROCESS (\d): 1 the loss of step 1, in epoch 1, is not finite; its rows: ([\d, ]+)\.", shown)
    assert sorted(process for process, _ in said) == ["0", "1"]
    assert said[0][1] == said[1][1]
    assert len(said[0][1].split(", ")) == 4  # of the process that saw it, and no other
