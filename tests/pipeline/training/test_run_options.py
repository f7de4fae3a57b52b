"""What is asked of a run reaches it: from the command line to the configuration, and from there to the loss."""

from __future__ import annotations

import importlib

import pytest
import torch
from diptych import train
from diptych.pipeline.cli.main import app
from diptych.pipeline.model.losses import balanced_weights
from diptych.pipeline.training.loop import Fit
from typer.testing import CliRunner

from .test_train import run


class Enough(BaseException):
    """All that is to be seen has been seen."""


def test_every_option_reaches_the_configuration(monkeypatch):
    asked = {}

    def train(data, out, **options):
        asked.update(options)
        raise Enough

    monkeypatch.setattr(importlib.import_module("diptych.pipeline.training.train"), "train", train)
    wanted = {
        "unfreeze_text": 2,
        "unfreeze_at": 3,
        "weight_decay": 0.1,
        "warmup_ratio": 0.2,
        "max_grad_norm": 2.0,
        "dropout": 0.2,
        "hidden_size": 64,
        "fusion_layers": 3,
        "fusion_heads": 4,
        "validation_share": 0.2,
        "layer_decay": 0.9,
        "class_weights": "balanced",
        "focal_gamma": 2.0,
        "label_smoothing": 0.1,
        "patience": 4,
        "keep": 3,
    }
    words = [word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(Enough):
        CliRunner().invoke(app, ["train", "data", "--out", "out", *words], catch_exceptions=False)
    assert {name: asked[name] for name in wanted} == wanted


@pytest.mark.parametrize("balanced", [False, True])
def test_the_loss_is_the_one_that_was_chosen(pairs, text_folder, tmp_path, monkeypatch, balanced):
    seen = {}

    def stop(fit, rows, **_):
        training = rows.training
        seen.update(loss=fit.model.class_loss, labels=[training.labels[row] for row in training.rows])
        raise Enough

    monkeypatch.setattr(Fit, "run", stop)
    rows = pairs.select([*range(0, 96, 2), *range(1, 20, 2)])  # 48 red, 10 blue
    options = {"class_weights": "balanced"} if balanced else {}
    with pytest.raises(Enough):
        run(rows, tmp_path, text_folder, focal_gamma=1.5, label_smoothing=0.2, **options)
    loss = seen["loss"]
    assert (loss.multi_label, loss.focal_gamma, loss.smoothing) == (False, 1.5, 0.2)
    if balanced:  # by the rows that are trained on
        assert torch.equal(loss.weights, balanced_weights(torch.bincount(torch.tensor(seen["labels"]))))
        assert loss.weights[1] > 4 * loss.weights[0]
    else:
        assert loss.weights is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 1000}, r"workers is 1000, and there are \d+ CPUs; give \d+ or fewer"),
        ({"window": 4}, "window is 4, but nothing slides: give pattern sliding-window too"),
        ({"window": 4, "pattern": "global"}, "window is 4, but nothing slides"),
        (
            {"fusion": "mlp", "fusion_layers": 3},
            "fusion_layers is 3, which the mlp fusion doesn't have; it goes with c",
        ),
        ({"fusion": "concat", "fusion_hidden_size": 64}, "fusion_hidden_size is 64, which the concat fusion doesn't"),
        ({"architecture": {"fusion": "bilinear"}, "fusion_layers": 1}, "fusion_layers is 1, which the bilinear fusion"),
        ({"shuffle_buffer": 50}, "shuffle_buffer is 50, but without stream all rows are shuffled: leave it out"),
        ({"text_only": True, "alignment_weight": 1.0}, "text_only leaves no pairs to align"),
        ({"image_only": True, "objective": "align"}, "image_only leaves no pairs to align"),
    ],
)
def test_what_no_run_can_do_is_refused_before_anything_is_read(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        train("no such data", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
