"""Fine-tuning from data to a folder that classifies."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate import Accelerator
from diptych import evaluate, load_model, train
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.training.optim import parameter_groups

from ...conftest import build_tiny

TINY = {"hidden_size": 16, "fusion_heads": 2, "fusion_layers": 1, "fusion_hidden_size": 32}


def tiny_build(text_folder):
    """Options of a model that is built in no time."""
    return {
        "image_encoder": "resnet-tiny",
        "image_weights": "random",
        "image_size": (16, 16),
        "text_encoder": text_folder,
        "architecture": TINY,
    }


def run(data, out, text_folder, **options):
    defaults = {
        **({} if "model" in options else tiny_build(text_folder)),
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "say": lambda line: None,
        "quiet": True,
    }
    return train(data, out, **(defaults | options))


@pytest.fixture(scope="module")
def trained(pairs, text_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    said: list[str] = []
    record = run(pairs, folder, text_folder, say=said.append)
    return folder, record, said


def test_it_learns_and_keeps_the_best_epoch(trained, pairs):
    folder, record, _ = trained
    assert record["best"]["accuracy"] == max(epoch["accuracy"] for epoch in record["epochs"])
    assert record["best"]["accuracy"] >= 0.9
    assert record["epochs"][-1]["train_loss"] < record["epochs"][0]["train_loss"]
    assert evaluate(folder, pairs, quiet=True)["accuracy"] >= 0.9


def test_it_says_what_it_does(trained):
    folder, _, said = trained
    text = "\n".join(said)
    assert "columns: image from 'image', text from 'text', label from 'label'" in text
    assert "86 rows to train on, 10 to validate (a stratified 10%, seed 0), 2 classes" in text
    assert "macro_f1" in text
    assert str(folder) in text


def test_whoever_waits_for_epochs_hears_each_and_may_end_the_run(pairs, text_folder, tmp_path):
    heard = []

    def listen(epoch):
        heard.append(epoch["epoch"])
        if epoch["epoch"] == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        run(pairs, tmp_path / "run", text_folder, epochs=3, after_epoch=listen)
    assert heard == [1, 2]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"


def test_the_record_of_a_run_is_saved(trained):
    folder, record, _ = trained
    saved = json.loads((folder / "run.json").read_text())
    assert saved == json.loads(json.dumps(record))
    assert saved["run"]["learning_rate"] == 3e-3
    assert [set(epoch) >= {"accuracy", "macro_f1", "auroc", "loss", "seconds"} for epoch in saved["epochs"]] == [
        True
    ] * 3


def test_a_seed_gives_the_same_run_twice(trained, pairs, text_folder, tmp_path):
    folder, _, _ = trained
    run(pairs, tmp_path, text_folder)
    first, second = (load_model(f)[0].state_dict() for f in (folder, tmp_path))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_accumulated_batches_give_the_step_of_one(pairs, text_folder, tmp_path):
    plain = {"architecture": TINY | {"dropout": 0.0, "modality_dropout": 0.0, "fusion": "mlp"}}
    options = {"epochs": 1, "flip": False, "crop": False, "colour": False, "unfreeze_text": 0, "learning_rate": 1e-3}
    start = tmp_path / "start"
    run(pairs, start, text_folder, epochs=1, **plain)
    frozen = {"model": start, "unfreeze_image": 0}  # batch norm would see smaller batches
    run(pairs, tmp_path / "a", text_folder, **options, **frozen)
    run(pairs, tmp_path / "b", text_folder, **options, **frozen, gradient_accumulation_steps=2)
    first, second = (load_model(tmp_path / f)[0].state_dict() for f in "ab")
    moved = load_model(start)[0].state_dict()
    assert not torch.equal(first["head.weight"], moved["head.weight"])
    torch.testing.assert_close(first["head.weight"], second["head.weight"], atol=2e-4, rtol=0)


@pytest.mark.slow
def test_mixed_precision_learns_too_and_saves_32_bits(pairs, text_folder, tmp_path):
    record = run(pairs, tmp_path, text_folder, precision="bf16")
    assert record["best"]["accuracy"] >= 0.9
    assert {p.dtype for p in load_model(tmp_path)[0].parameters()} == {torch.float32}
    run(pairs, tmp_path, text_folder, epochs=1, overwrite=True)  # and back


def test_the_precision_of_a_run_stays_with_it(pairs, text_folder, tmp_path):
    run(pairs, tmp_path, text_folder, epochs=1, precision="bf16")
    assert Accelerator().mixed_precision == "no"


def test_a_run_obeys_what_the_launcher_was_told(pairs, text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert run(pairs, tmp_path / "told", text_folder, epochs=1)["run"]["precision"] == "bf16"
    assert run(pairs, tmp_path / "asked", text_folder, epochs=1, precision="no")["run"]["precision"] == "no"


def test_starting_from_a_model_keeps_its_head_if_the_labels_are_the_same(trained, pairs, text_folder, tmp_path):
    folder, record, _ = trained
    slow = {"epochs": 1, "learning_rate": 1e-9}
    again = run(pairs, tmp_path / "same", text_folder, model=folder, **slow)
    assert again["best"]["accuracy"] == pytest.approx(record["best"]["accuracy"])
    other = pairs.rename_column("label", "old").add_column("label", ["warm", "cold"] * 48)
    said: list[str] = []
    run(other, tmp_path / "other", text_folder, model=folder, say=said.append, **slow)
    assert any("the head is new" in line for line in said)
    assert load_model(tmp_path / "other")[0].config.labels == ["cold", "warm"]


def test_frozen_trunks_come_out_as_they_went_in(trained, pairs, text_folder, tmp_path):
    folder, _, _ = trained
    run(pairs, tmp_path, text_folder, model=folder, epochs=1, unfreeze_image=1, unfreeze_text=0)
    before, after = (load_model(f)[0] for f in (folder, tmp_path))
    changed = {
        name.rsplit(".", 1)[0]
        for name, value in before.state_dict().items()
        if not torch.equal(value, after.state_dict()[name])
    }
    assert not {name for name in changed if name.startswith("text_encoder.trunk")}
    image = {name.split(".")[2] for name in changed if name.startswith("image_encoder.trunk")}
    assert image == {"layer3"}
    assert any(name.startswith("fusion") for name in changed)


def test_learning_rates_follow_the_parts(text_folder):
    model, _ = build_tiny(text_folder)
    model.text_encoder.unfreeze(1)
    groups = parameter_groups(model, TrainConfig(learning_rate=1e-3, encoder_learning_rate=1e-5, weight_decay=0.1))
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["image.stem"] == 1e-3  # random: learns like a new part
    assert rates["text.layer1"] == 1e-5
    assert "text.layer0" not in rates
    assert rates["head"] == 1e-3
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    decays = [(p.dim() > 1 and group["name"] != "words", group) for group in groups for p in group["params"]]
    assert all(is_matrix == (group["weight_decay"] > 0) for is_matrix, group in decays)


def test_a_flip_is_off_where_texts_speak_of_sides(pairs, text_folder, tmp_path):
    said: list[str] = []
    sided = pairs.remove_columns("text").add_column("text", ["a red shirt left"] * 96)
    run(sided, tmp_path, text_folder, epochs=1, say=said.append)
    assert "augmentation: crop, colour (texts speak of sides: no flip)" in said


def test_rows_with_one_half_are_trained_on_and_counted(pairs, text_folder, tmp_path):
    rows = [dict(row) for row in pairs]
    rows[0]["text"], rows[1]["image"] = None, None
    for row in rows:
        row["label"] = int(row["label"])
    record = run(rows, tmp_path, text_folder, epochs=1, validation_share=0.05)
    assert record["problems"] == {"text_missing": 1, "image_missing": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"warmup_ratio": 1.0}, "warmup_ratio is 1.0; it must be at least 0 and below 1"),
        ({"precision": "int8"}, "precision is 'int8'; choose one of no, fp16, bf16"),
        ({"batch_size": 9, "gradient_accumulation_steps": 2}, "batch_size is 9; it must be a multiple of 2"),
        ({"unfreeze_image": 0}, "random: frozen, they would never learn"),
        ({"label_column": "colour"}, "no label column 'colour'; it has 'image', 'text', 'label'"),
    ],
)
def test_what_cannot_be_trained_is_said(pairs, text_folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(pairs, tmp_path, text_folder, **options)


def test_one_class_is_nothing_to_learn(pairs, text_folder, tmp_path):
    with pytest.raises(ValueError, match=r"all 48 rows have the same label in 'label'"):
        run(pairs.filter(lambda row: row["label"] == 0), tmp_path, text_folder)


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_done(pairs, text_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written to .*choose another --out"):
        run(pairs, tmp_path / "file" / "run", text_folder)


def test_labels_of_a_validation_split_must_be_known(pairs, text_folder, tmp_path):
    from datasets import DatasetDict

    named = pairs.remove_columns("label").add_column("label", ["red", "blue"] * 48)
    odd = named.remove_columns("label").add_column("label", ["red", "green"] * 48)
    with pytest.raises(ValueError, match=r"label 'green' in 'label' .row 1. is unknown to the model, which knows 2"):
        run(DatasetDict(train=named, validation=odd), tmp_path, text_folder)
