"""One batch is one batch: whatever trains and whatever is drawn, two processes do what one does, in float64."""

from __future__ import annotations

import json

import datasets
import pytest
from diptych.pipeline.model.folder import save_model
from safetensors.torch import load_file

from ...conftest import build_tiny
from .test_processes import launch

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from datasets import load_from_disk
from diptych import train
from diptych.pipeline.loading.loader import Collate
from diptych.pipeline.training import loop, setup
from safetensors.torch import save_file

data, out, text_folder, options = sys.argv[1:]
losses = []

class Heard(loop.Tracking):
    def step(self, loss, step):
        losses.append(float(self.accelerator.reduce(loss.detach(), "mean")))

def double(make):
    def made(*arguments, **others):
        model, processor = make(*arguments, **others)
        return model.double(), processor
    return made

collate = Collate.__call__

def doubled(self, examples):
    batch = collate(self, examples)
    return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}

Collate.__call__ = doubled
loop.Tracking = Heard
setup.build_model, setup.load_model = double(setup.build_model), double(setup.load_model)
end = loop.Fit._end_epoch

def kept(fit, model, metrics):
    end(fit, model, metrics)
    if fit.accelerator.is_main_process:
        save_file({k: v.contiguous() for k, v in fit.model.state_dict().items()}, Path(out) / "weights.safetensors")

loop.Fit._end_epoch = kept
options = json.loads(options)
if "model" not in options:
    options |= {"image_encoder": "resnet-tiny", "image_weights": "random", "image_size": (16, 16),
                "text_encoder": text_folder}
record = train(load_from_disk(data), out, quiet=True, say=lambda line: None, **options)
if os.environ.get("RANK", "0") == "0":
    start = [record["start"]["loss"]] if "loss" in record["start"] else []
    figures = start + [epoch.get("loss", epoch["train_loss"]) for epoch in record["epochs"]]
    Path(out, "found.json").write_text(json.dumps([losses, figures]))
"""
TINY = {"hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32}
LONG = {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3}
"""Twenty steps of 36 rows, the last of each epoch of four."""


@pytest.fixture
def data(pairs, tmp_path):
    """Rows of unlike length, some without an image or a text."""
    texts = ["a red shirt", "a blue shoe left", "shirt", None]
    some = pairs.select(range(36 + 12)).map(
        lambda row, index: {
            "image": None if index % 5 == 0 else row["image"],
            "text": texts[index % 4] if index % 5 else row["text"],
        },
        with_indices=True,
    )
    split = datasets.DatasetDict({"train": some.select(range(36)), "validation": some.select(range(36, 48))})
    split.save_to_disk(tmp_path / "data")
    return tmp_path / "data"


CONFIGURATIONS = {
    "defaults, the image encoder trains": {**TINY},
    "self-attention, micro-batches of a stream": {
        **TINY,
        "fusion": "self-attention",
        "gradient_accumulation_steps": 2,
        "stream": True,
    },
    "bilinear, balanced focal loss": {**TINY, "fusion": "bilinear", "class_weights": "balanced", "focal_gamma": 1.0},
    "concat with alignment": {**TINY, "fusion": "concat", "alignment_weight": 0.3},
    "pretrained, parts of both train": {"model": "START", "unfreeze_image": 1, "unfreeze_text": 1, "cache": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_two_processes_do_what_one_does(name, data, text_folder, tmp_path):
    options = {**LONG, **CONFIGURATIONS[name]}
    if options.get("model"):
        save_model(*build_tiny(text_folder), tmp_path / "start")
        options["model"] = str(tmp_path / "start")
    (tmp_path / "script.py").write_text(SCRIPT)
    found, weights = [], []
    for count in (1, 2):
        out = tmp_path / str(count)
        launch(tmp_path / "script.py", data, out, text_folder, json.dumps(options), processes=count)
        found.append(json.loads((out / "found.json").read_text()))
        weights.append(load_file(out / "weights.safetensors"))
    (losses, figures), (other_losses, other_figures) = found
    assert len(losses) == 20
    assert losses[0] != pytest.approx(losses[-1], abs=1e-3)
    assert other_losses == pytest.approx(losses, abs=1e-9)
    assert other_figures == pytest.approx(figures, abs=1e-9)
    for key, value in weights[0].items():
        assert (value - weights[1][key]).abs().max() < 1e-6, key
