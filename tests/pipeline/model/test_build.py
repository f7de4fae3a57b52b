"""Building from encoders, saving, loading, and what is said of folders that are no model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diptych import BertEncoder, build_model, load_model
from diptych.pipeline.model.config import FORMAT_VERSION
from diptych.pipeline.model.folder import save_model

from ...conftest import build_tiny, picture

SAVED = Path(__file__).parents[2] / "data"


def test_the_text_trunk_has_the_weights_of_its_folder(text_folder):
    model, _ = build_tiny(text_folder)
    expected = BertEncoder.from_pretrained(text_folder, dim=16).trunk.state_dict()
    for name, value in model.text_encoder.trunk.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert model.text_encoder.pretrained
    assert not model.image_encoder.pretrained


def test_a_saved_folder_is_complete_movable_and_without_pickles(tiny, tmp_path):
    model, processor = tiny
    save_model(model, processor, tmp_path / "first" / "model")
    shutil.move(tmp_path / "first", tmp_path / "second")
    loaded, read = load_model(tmp_path / "second")  # a run's folder: the model is below it
    assert not loaded.training
    batch = processor([picture("red"), None], ["a red shirt", "a shoe"])
    again = read([picture("red"), None], ["a red shirt", "a shoe"])
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    torch.testing.assert_close(loaded(**again).logits, model(**batch).logits, atol=0, rtol=0)
    ours, theirs = loaded.config.to_dict(), model.config.to_dict()
    for field in (
        "image_encoder",
        "hidden_size",
        "fusion",
        "fusion_heads",
        "dropout",
        "id2label",
        "label2id",
        "modality_dropout",
    ):
        assert ours[field] == theirs[field], field
    assert ours["format_version"] == FORMAT_VERSION
    assert {f.suffix for f in (tmp_path / "second" / "model").iterdir()} == {".json", ".safetensors"}
    assert str(tmp_path) not in (tmp_path / "second" / "model" / "config.json").read_text()


def test_saving_replaces_a_model_and_leaves_nothing_beside_it(tiny, tmp_path):
    model, processor = tiny
    save_model(model, processor, tmp_path / "model")
    with torch.no_grad():
        model.head.bias += 1.0
    save_model(model, processor, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")[0].head.bias, model.head.bias)
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_earlier_model(tiny, tmp_path, monkeypatch):
    model, processor = tiny
    save_model(model, processor, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processor, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, processor, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_trunks_and_their_transforms_are_taken_from_an_earlier_model(tiny, tmp_path):
    model, processor = tiny
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    save_model(model, processor, tmp_path / "run" / "model")
    run = str(tmp_path / "run")
    heir, its_processor = build_model(run, run, labels=["a", "b", "c"], hidden_size=32, fusion_heads=4)
    for name in ("image_encoder", "text_encoder"):
        ours, theirs = getattr(heir, name).trunk.state_dict(), getattr(model, name).trunk.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        getattr(heir, name).unfreeze(0)  # its weights were learned, so they may be frozen
    assert its_processor.image_processor.image_mean == [0.1, 0.2, 0.3]
    assert (its_processor.image_processor.height, heir.head.out_features) == (16, 3)


def test_a_new_head_keeps_everything_else(tiny, tmp_path):
    model, processor = tiny
    save_model(model, processor, tmp_path / "model")
    heir, _ = load_model(tmp_path / "model", labels=["a", "b", "c"])
    assert heir.config.labels == ["a", "b", "c"]
    assert heir.head.out_features == 3
    assert torch.isfinite(heir.head.weight).all()
    assert torch.equal(heir.fusion.pool_text.query, model.fusion.pool_text.query)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_model_saved_by_an_earlier_format_loads_and_says_the_same(version):
    model, processor = load_model(SAVED / f"model-{version}")
    expected = json.loads((SAVED / f"model-{version}.json").read_text())
    size = 50 if version == 3 else 16
    pictures = [picture("red", size=size), picture("blue", size=size), None]
    batch = processor(pictures, ["a red shirt", None, "a blue shoe"])
    output = model(**batch)
    torch.testing.assert_close(output.logits, torch.tensor(expected["logits"]), atol=1e-4, rtol=0)
    assert model.config.labels == expected["labels"]
    if version == 3:
        torch.testing.assert_close(output.modality_weights, torch.tensor(expected["modality_weights"]))
        embedding = model.get_image_features(batch["pixel_values"][:1])[0]
        torch.testing.assert_close(embedding, torch.tensor(expected["embedding"]), atol=1e-4, rtol=0)
        assert model.alignment.scale.item() == pytest.approx(expected["logit_scale"])
        assert model.config.thresholds == [0.4, 0.5, 0.6]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_model_of_an_earlier_format_says_the_same_after_it_is_saved_again(tmp_path, version):
    model, processor = load_model(SAVED / f"model-{version}")
    save_model(model, processor, tmp_path)
    batch = processor([picture("red"), None], ["a red shirt", "a blue shoe"])
    again = load_model(tmp_path)[0]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    # equal weights at other addresses: some CPUs add in another order
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize("fusion", ["mlp", "concat"])
def test_a_late_fusion_of_format_1_has_no_gate_and_says_the_same(text_folder, tmp_path, fusion):
    """As it was: without the modality gate, and with heads for each half that are no more."""
    from safetensors.torch import load_file, save_file

    model, processor = build_tiny(text_folder, fusion=fusion, modality_gate=False)
    save_model(model.eval(), processor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    new = ("glimpses", "pattern", "window", "global_tokens", "modality_gate", "alignment_weight")
    old = {key: value for key, value in config.items() if key not in new}
    (tmp_path / "config.json").write_text(json.dumps(old | {"format_version": 1, "unimodal": 0.3}))
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {f"half_heads.{half}.weight": torch.zeros(2, 16) for half in (0, 1)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded, read = load_model(tmp_path)
    batch = read([picture("red"), None], ["a red shirt", "a blue shoe"])
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded(**batch).modality_weights is None
    assert not any("gate" in name for name, _ in loaded.named_parameters())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f), "no such folder"),
        (lambda f: (f / "config.json").unlink(), "holds no model: there is no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "holds no model"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "vit"}'),
            "holds a 'vit' model, not one trained with",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk" * 99), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer knows no words"),
        (lambda f: (f / "processor_config.json").unlink(), "cannot be loaded"),
        (lambda f: (f / "processor_config.json").write_text("[]"), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text()[:200]), "cannot be loaded"),
        (lambda f: (f / "tokenizer_config.json").write_bytes(b"\xff"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_model_is_named_as_such(tiny, tmp_path, spoil, message):
    save_model(*tiny, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_that_a_model_brings_is_never_run(tiny, tmp_path, file, monkeypatch):
    save_model(*tiny, tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "evil.Evil")
    names["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
    path = tmp_path / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": names, "tokenizer_class": "Evil"}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks whether to run the code"))
    try:
        load_model(tmp_path / "model")
    except ValueError as error:
        assert str(error).endswith("cannot be loaded: it brings code of its own, which is never run")  # noqa: PT017
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_damage_not_a_reason_to_guess(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(*tiny, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    del state["fusion.pool_text.query"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"damaged: 1 weights are missing.*fusion\.pool_text\.query"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("image_encoder", "options", "message"),
    [
        ("resnet19", {}, "unknown image encoder 'resnet19'; choose one of resnet101"),
        ("resnet-tiny", {}, "resnet-tiny has no published weights"),
        ("resnet-tiny", {"image_weights": "imagenet"}, "image_weights is 'imagenet'; choose one of pretrained, random"),
        (
            "resnet-tiny",
            {"image_weights": "random", "fusion": "magic"},
            "fusion is 'magic'; choose one of cross-modal",
        ),
    ],
)
def test_what_cannot_be_built_is_said(text_folder, image_encoder, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(image_encoder, text_folder, labels=["a", "b"], **options)
