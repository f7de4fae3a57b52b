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

data, out, text_folder, configurations = sys.argv[1:]
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
        save_file({k: v.contiguous() for k, v in fit.model.state_dict().items()}, run / "weights.safetensors")

loop.Fit._end_epoch = kept
for name, options in json.loads(configurations).items():
    run = Path(out, name)
    losses.clear()
    if "model" not in options:
        options |= {"image_encoder": "resnet-tiny", "image_weights": "random", "image_size": (16, 16),
                    "text_encoder": text_folder}
    record = train(load_from_disk(data), run, quiet=True, say=lambda line: None, **options)
    if os.environ.get("RANK", "0") == "0":
        start = [record["start"]["loss"]] if "loss" in record["start"] else []
        figures = start + [epoch.get("loss", epoch["train_loss"]) for epoch in record["epochs"]]
        (run / "found.json").write_text(json.dumps([losses, figures]))
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
    "concat with alignment": {"hidden_size": 16, "fusion_heads": 2, "fusion": "concat", "alignment_weight": 0.3},
    "pretrained, parts of both train": {"unfreeze_image": 1, "unfreeze_text": 1, "cache": False},
}


@pytest.mark.slow
def test_two_processes_do_what_one_does(data, text_folder, tmp_path):
    save_model(*build_tiny(text_folder), tmp_path / "start")
    given = {name: {**LONG, **options} for name, options in CONFIGURATIONS.items()}
    given["pretrained, parts of both train"]["model"] = str(tmp_path / "start")
    (tmp_path / "script.py").write_text(SCRIPT)
    for count in (1, 2):
        script = (tmp_path / "script.py", data, tmp_path / str(count), text_folder, json.dumps(given))
        launch(*script, processes=count)
    for name in CONFIGURATIONS:
        runs = [tmp_path / count / name for count in ("1", "2")]
        (losses, figures), (other_losses, other_figures) = (
            json.loads((run / "found.json").read_text()) for run in runs
        )
        weights, others = (load_file(run / "weights.safetensors") for run in runs)
        assert len(losses) == 20, name
        assert losses[0] != pytest.approx(losses[-1], abs=1e-3), name
        assert other_losses == pytest.approx(losses, abs=1e-9), name
        assert other_figures == pytest.approx(figures, abs=1e-9), name
        for key, value in weights.items():
            assert (value - others[key]).abs().max() < 1e-6, (name, key)
