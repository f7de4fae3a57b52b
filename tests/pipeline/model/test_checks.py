"""What is wrong with a model folder is told when it is loaded, in one line, however it is loaded."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
import torch
from diptych import DiptychConfig, DiptychModel, build_model, load_model
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.model.tokenizer import load_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from ...conftest import build_tiny, picture


@pytest.fixture
def folder(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    return tmp_path / "model"


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refused(folder, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def change_weight(folder, name, value):
    state = load_file(folder / "model.safetensors")
    if value is None:
        del state[name]
    else:
        state[name] = value(state.get(name))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "head.weight",
            lambda w: w.index_fill(0, torch.tensor(0), float("nan")),
            "head.weight has values that",
        ),
        (
            "text_encoder.projection.1.bias",
            lambda w: w - float("inf"),
            "projection.1.bias has values that are not",
        ),
        (
            "image_encoder.trunk.bn1.running_var",
            lambda w: w * float("nan"),
            "running_var has values that are not",
        ),
        ("fusion.layers.9.weight", lambda _: torch.zeros(2), r"1 weights are .* fusion\.layers\.9\.weight first"),
        ("head.weight", lambda w: torch.zeros(3, w.shape[1]), r"1 weights are .*of another shape.* head\.weight first"),
        ("head.bias", None, r"1 weights are missing.* head\.bias first"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(folder, name, value, message):
    change_weight(folder, name, value)
    refused(folder, message)
    for load in (DiptychModel, AutoModel):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(folder)


def test_a_configuration_of_fewer_layers_than_there_are_weights_is_refused(text_folder, tmp_path):
    model, processor = build_tiny(text_folder, fusion_layers=2)
    save_model(model, processor, tmp_path)
    edit(tmp_path / "config.json", lambda config: config.update(fusion_layers=1))
    refused(tmp_path, "weights are missing, left over")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config.json",
            {"_attn_implementation": "kernels-community/x"},
            "asks for _attn_implementation 'kernels-",
        ),
        ("config.json", {"attn_implementation": "flash_attention_2"}, "config.json asks for attn_implementation"),
        (
            "config.json",
            {"text_config.auto_map": {"AutoModel": "a.B"}},
            "it brings code of its own, which is never",
        ),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "asks for quantization_config"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "it brings code of its own"),
        ("processor_config.json", {"image_processor.auto_map": {"x": "a.B"}}, "it brings code of its own"),
        ("config.json", {"id2label": {"0": "no", "2": "yes"}}, "the labels have the ids 0, 2; they must count from 0"),
        ("config.json", {"id2label": {"0": "no", "1": "no"}}, "the label 'no' stands twice"),
        ("processor_config.json", {"max_length": 41}, "max_length is 41 word pieces; it must be .* at most 40"),
        (
            "processor_config.json",
            {"max_length": 2},
            r"max_length is 2 .* at least 3 \(2 are special",
        ),
    ],
)
def test_what_a_file_asks_for_is_refused(folder, file, change, message):
    def apply(content):
        for path, value in change.items():
            *outer, key = path.split(".")
            place = content
            for name in outer:
                place = place[name]
            place[key] = value

    edit(folder / file, apply)
    refused(folder, message)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../other.safetensors", "/x.safetensors", "a/b.safetensors"])
def test_an_index_names_only_weights_of_the_folder(folder, name):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(["head.weight"], name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, re.escape(f"names {name!r}; weights are .safetensors files of the folder itself"))


def test_shards_of_the_folder_itself_are_loaded(tiny, folder):
    model, processor = tiny
    shard = "model-00001-of-00001.safetensors"
    names = dict.fromkeys(load_file(folder / "model.safetensors"), shard)
    (folder / "model.safetensors").rename(folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    batch = processor([picture("red")], ["a red shirt"])
    torch.testing.assert_close(load_model(folder)[0](**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


def test_an_adapter_is_not_part_of_a_model(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    refused(folder, "adapter_config.json names the weights of another model")


def test_words_beyond_the_embeddings_are_refused_when_loaded_and_when_built(folder, text_folder, tmp_path):
    message = r"gives ids up to 14, and its text encoder has embeddings of 13: .*resize_token_embeddings\(15\)"
    tokenizer = AutoTokenizer.from_pretrained(text_folder)
    tokenizer.add_tokens(["zebra", "yak"])
    tokenizer.save_pretrained(folder)
    refused(folder, message)
    copy = tmp_path / "text"
    AutoModel.from_pretrained(text_folder).save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    with pytest.raises(ValueError, match=f"text encoder .*text cannot be used: its tokenizer {message}"):
        build_tiny(str(copy))


def test_another_familys_tokenizer_is_refused(text_folder, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    RobertaModel(RobertaConfig(vocab_size=40, max_position_embeddings=20, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(text_folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pads with id 0, and its text encoder counts positions from padding id 1 on"):
        build_tiny(str(tmp_path))


def test_a_tokenizer_without_padding_is_refused(text_folder, tmp_path):
    AutoModel.from_pretrained(text_folder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(text_folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its tokenizer has no pad token: name one"):
        build_tiny(str(tmp_path))


def test_why_there_is_no_tokenizer_is_told(text_folder, tmp_path):
    AutoModel.from_pretrained(text_folder).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"there is no tokenizer at .* that can be used: .{5,}; a text enc"):
        build_model("resnet-tiny", str(tmp_path), labels=["a", "b"], image_weights="random")


def test_a_sentencepiece_model_without_its_package_is_told(text_folder, tmp_path, monkeypatch):
    AutoModel.from_pretrained(text_folder).save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"a model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if "piece" in name else find(name, *args))
    with pytest.raises(ValueError, match="it is a SentencePiece model, and that package is not installed: pip install"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("id2label", [{0: "a", 2: "b"}, {1: "a", 2: "b"}, {0: "a", 1: "a"}])
def test_labels_count_from_0_and_each_stands_once(id2label):
    with pytest.raises(ValueError, match=r"the labels have the ids|the label 'a' stands twice"):
        DiptychConfig(id2label=id2label)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [(["yes", "no"], {0: 1, 1: 0}), (["maybe", "yes"], {1: 1}), (["no", "yes"], {0: 0, 1: 1}), (["a", "b", "c"], {})],
)
@pytest.mark.parametrize("multi_label", [False, True])
def test_rows_of_the_head_belong_to_the_names_of_labels(tiny, folder, labels, kept, multi_label):
    model, processor = tiny
    heir, _ = load_model(folder, labels=labels, multi_label=multi_label)
    batch = processor([picture("red")], ["a red shirt"])
    logits = heir(**batch).logits[0]
    layers = [(heir.head, model.head)] + [
        (getattr(heir.experts, n), getattr(model.experts, n)) for n in ("image", "text")
    ]
    assert heir.config.labels == labels
    assert heir.config.multi_label is multi_label
    for index in range(len(labels)):
        if index in kept:
            assert all(torch.equal(new.weight[index], old.weight[kept[index]]) for new, old in layers)
            assert torch.equal(
                heir.experts.words.pieces.weight[:, index], model.experts.words.pieces.weight[:, kept[index]]
            )
        else:
            assert not any(torch.equal(heir.head.weight[index], row) for row in model.head.weight)
    save_model(heir, processor, folder)
    torch.testing.assert_close(load_model(folder)[0](**batch).logits[0], logits, atol=1e-6, rtol=0)


def test_other_labels_leave_nothing_behind_that_was_of_the_old_ones(folder):
    edit(folder / "config.json", lambda config: config.update(calibration={"both": {"temperature": 2.0}}))
    heir, _ = load_model(folder, labels=["no", "yes", "perhaps"])
    assert heir.config.calibration is heir.config.thresholds is None


def test_a_label_cannot_stand_twice(folder):
    with pytest.raises(ValueError, match="the label 'a' stands twice"):
        load_model(folder, labels=["a", "b", "a"])
