"""What is asked of a run reaches it: from the command line to the configuration, and from there to the loss."""

from __future__ import annotations

import importlib

import datasets
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
        ({"epochs": 5, "recipe": "best"}, "recipe is 'best' and epochs is 5, and each says how long: give one of them"),
        ({"unfreeze_at": 2}, "unfreeze_at is 2, but no part of an encoder trains: choose some by unfreeze_image or"),
        ({"layer_decay": 0.9}, "layer_decay is 0.9, but no part of an encoder trains"),
        ({"encoder_learning_rate": 1e-4}, "encoder_learning_rate is 0.0001, but no part of an encoder trains"),
        ({"text_only": True, "image_folder": "photos"}, "image_folder is 'photos', but with text_only it is not read"),
        ({"image_only": True, "text_column": "a"}, "text_column is 'a', but with image_only it is not read"),
        ({"text_only": "no"}, "text_only is 'no'; it must be True or False"),
        ({"overwrite": "no"}, "overwrite is 'no'; it must be True or False"),
        ({"resume": 1}, "resume is 1; it must be True or False"),
        ({"image_size": 224}, r"image_size is 224; it must be \(height, width\) in pixels, such as \(224, 224\)"),
        ({"image_folder": 5}, "image_folder is 5, of type int; it must be text"),
        ({"architecture": "mlp"}, "architecture is 'mlp'; it must be a dict"),
        ({"hidden_size": 8, "architecture": {"hidden_size": 16}}, "hidden_size is 8, and another in architecture"),
        ({"text_only": True, "alignment_weight": 1.0}, "text_only leaves no pairs to align"),
        ({"image_only": True, "objective": "align"}, "image_only leaves no pairs to align"),
    ],
)
def test_what_no_run_can_do_is_refused_before_anything_is_read(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        train("no such data", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_options_of_other_data_are_refused(pairs, text_folder, tmp_path):
    with pytest.raises(ValueError, match="shuffle_buffer is 50, but all rows are held and shuffled: leave it out, or"):
        run(pairs, tmp_path, text_folder, shuffle_buffer=50)
    with pytest.raises(
        ValueError, match="there is no field of the architecture 'fusion_layer'; did you mean 'fusion_l"
    ):
        run(pairs, tmp_path, text_folder, architecture={"fusion_layer": 3})
    with pytest.raises(ValueError, match=r"max_length is 1024, but the text encoder .* reads at most"):
        run(pairs, tmp_path, text_folder, max_length=1024)


def test_a_share_that_is_not_held_out_is_told(pairs, text_folder, tmp_path):
    said: list[str] = []
    both = datasets.DatasetDict(train=pairs, validation=pairs)
    run(both, tmp_path, text_folder, epochs=1, validation_share=0.2, say=said.append)
    assert "validation_share 0.2 is not used: the data has a split to validate with" in said


def test_a_run_goes_on_from_the_model_that_it_started_from(pairs, text_folder, tmp_path):
    run(pairs, tmp_path / "first", text_folder, epochs=1)
    run(pairs, tmp_path / "run", text_folder, epochs=1, model=tmp_path / "first")
    for other, said in (
        ({}, "started from .*, not from new weights: give --model"),
        ({"model": tmp_path / "run"}, "started from .*, not from .*run: give --model .*, or choose another --out"),
    ):
        with pytest.raises(ValueError, match=said):
            run(pairs, tmp_path / "run", text_folder, epochs=1, resume=True, **other)
    same = f"{tmp_path}/run/../first"
    assert run(pairs, tmp_path / "run", text_folder, epochs=1, resume=True, model=same)["state"] == "done"
