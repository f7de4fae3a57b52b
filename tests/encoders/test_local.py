"""Encoders that are in a cache of this machine are named to whoever cannot reach another."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from diptych import build_model, train
from diptych.encoders.local import local_encoders
from torchvision import models
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2Model

from . import tiny_vision_config


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of the Hub and of torchvision, the network closed."""

    def closed(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", closed)
    return tmp_path


def keep(model, name: str, caches: Path) -> None:
    model.save_pretrained(caches / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / "abc")


def test_what_the_caches_hold_is_named_by_kind(caches):
    assert local_encoders() == {"image": [], "text": []}
    keep(AutoModel.from_config(tiny_vision_config("vit")), "who/pictures", caches)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    keep(BertModel(BertConfig(vocab_size=9, **small)), "words", caches)
    keep(GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)), "who/writes", caches)
    half = caches / "hub" / "models--half" / "snapshots" / "abc"
    half.mkdir(parents=True)
    tiny_vision_config("vit").save_pretrained(half)  # its weights were never fetched
    file = caches / "torch" / "hub" / "checkpoints" / models.ResNet34_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    file.touch()
    assert local_encoders() == {"image": ["resnet34", "who/pictures"], "text": ["words"]}


def test_a_run_without_its_encoders_says_in_one_line_what_to_do(caches, text_folder):
    keep(AutoModel.from_config(tiny_vision_config("vit")), "who/pictures", caches)
    with pytest.raises(ValueError, match=r"no network.*bert-base-uncased") as said:
        build_model(labels=["a", "b"])
    line = str(said.value)
    assert "\n" not in line
    assert "--image-encoder one of who/pictures, which are here, or a folder" in line
    assert "--image-weights random" in line
    assert "--text-encoder (the caches here hold none), or a folder" in line
    with pytest.raises(
        ValueError, match=r"unknown image encoder 'resnet19'.*--image-encoder one of who/pictures"
    ) as said:
        build_model("resnet19", text_folder, labels=["a", "b"])
    assert "--text-encoder" not in str(said.value)


def test_a_run_that_cannot_begin_leaves_no_folder_and_a_folder_of_others_as_it_was(caches, pairs, tmp_path, capsys):
    with pytest.raises(ValueError, match="Without the network, give --image-encoder"):
        train(pairs, tmp_path / "run", say=lambda line: None, quiet=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "theirs").mkdir()
    with pytest.raises(ValueError, match="Without the network"):
        train(pairs, tmp_path / "theirs", say=lambda line: None, quiet=True)
    assert (tmp_path / "theirs").is_dir()
    assert capsys.readouterr().out == ""
