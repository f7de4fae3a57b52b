"""What the weights of a model need in order to be built again."""

from __future__ import annotations

import json
import re

import pytest
from diptych.fusion import PATTERNS
from diptych.pipeline.model.config import FORMAT_VERSION, DiptychConfig
from diptych.pipeline.runtime.choices import FUSIONS
from transformers import AutoConfig, BertConfig, DistilBertConfig, ViTConfig

TEXT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
IMAGE = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
FIELDS = {  # none of them its default
    "image_encoder": "resnet18",
    "image_config": IMAGE,
    "text_config": TEXT,
    "region_grid": 5,
    "pool_words": True,
    "hidden_size": 24,
    "fusion": "self-attention",
    "fusion_layers": 3,
    "fusion_heads": 6,
    "fusion_hidden_size": 40,
    "glimpses": 3,
    "pattern": "sliding-window+global",
    "window": 17,
    "global_tokens": [0, 4, 2],
    "modality_gate": False,
    "dropout": 0.25,
    "modality_dropout": 0.0,
    "experts": False,
    "alignment_weight": 0.75,
    "thresholds": [0.25, 0.5, 0.75],
    "calibration": {"both": {"temperature": 1.5}},
    "columns": {"image": "photo", "text": "caption", "label": "kind"},
}
OTHERS = {"problem_type": "multi_label_classification"}  # of transformers, and ours to read
NAMES = [name for name in DiptychConfig.__annotations__ if name not in ("model_type", "format_version")]


GLOBAL = "global_tokens is {}; give different positions from 0 (the summary token) up"


def test_the_fields_of_this_test_are_all_there_are():
    assert sorted(FIELDS) == sorted(NAMES)
    default = DiptychConfig()
    assert all(getattr(default, name) != value for name, value in FIELDS.items())


@pytest.mark.parametrize("load", [DiptychConfig.from_pretrained, AutoConfig.from_pretrained])
def test_every_field_survives_saving(load, tmp_path):
    config = DiptychConfig(**FIELDS, **OTHERS, id2label={0: "yes", 1: "no", 2: "東京"})
    config.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is DiptychConfig
    for name, value in FIELDS.items():
        if name not in ("text_config", "image_config"):
            assert getattr(config, name) == value, name
            assert getattr(again, name) == value, name
    assert isinstance(again.text_config, BertConfig)
    assert all(getattr(again.text_config, name) == value for name, value in TEXT.items())
    assert again.text_config.to_dict() == config.text_config.to_dict()
    assert isinstance(again.image_config, ViTConfig)
    assert all(getattr(again.image_config, name) == value for name, value in IMAGE.items())
    assert again.format_version == FORMAT_VERSION
    assert again.multi_label
    assert again.labels == ["yes", "no", "東京"]
    assert {**again.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}


def test_defaults_are_those_of_the_design():
    config = DiptychConfig()
    assert (config.image_encoder, config.hidden_size, config.fusion) == ("resnet50", 512, "cross-modal")
    assert (config.text_config.model_type, config.text_config.hidden_size) == ("bert", 768)
    assert (config.region_grid, config.fusion_layers, config.fusion_hidden_size) == (4, 1, 512)
    assert (config.pattern, config.global_tokens, config.alignment_weight) == ("dense", [0], 0.0)
    assert config.format_version == FORMAT_VERSION


@pytest.mark.parametrize("text", [None, {"model_type": "distilbert", "dim": 12}, DistilBertConfig(dim=12)])
def test_the_text_encoder_is_given_as_a_dict_or_a_config_or_left_to_be_bert(text):
    found = DiptychConfig(text_config=text).text_config
    assert found.model_type == ("bert" if text is None else "distilbert")
    assert text is None or found.hidden_size == 12


def test_a_dict_that_is_given_stays_as_it_is():
    text = dict(TEXT)
    DiptychConfig(text_config=text)
    assert text == TEXT


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_is_accepted(fusion):
    assert DiptychConfig(fusion=fusion).fusion == fusion


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_accepted_by_self_attention(pattern):
    assert DiptychConfig(fusion="self-attention", pattern=pattern).pattern == pattern


@pytest.mark.parametrize("fusion", FUSIONS)
def test_all_fusions_but_the_articles_learn_modality_weights_unless_it_is_said(fusion):
    assert DiptychConfig(fusion=fusion).modality_gate == (fusion != "concat")
    for gate in (True, False):
        assert DiptychConfig(fusion=fusion, modality_gate=gate).modality_gate is gate


@pytest.mark.parametrize(
    ("saved", "gate"),
    [
        ({"fusion": "cross-modal", "unimodal": 0.3}, True),
        ({"fusion": "concat", "unimodal": 0.3}, False),
        ({"fusion": "mlp", "unimodal": 0.3}, False),
        ({"fusion": "mlp", "format_version": 2}, True),
    ],
    ids=str,
)
def test_an_earlier_format_is_read_and_saved_in_this_one(saved, gate, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "diptych", "format_version": 1} | saved))
    for _ in range(2):  # as it was, and as it is saved again
        config = DiptychConfig.from_pretrained(tmp_path)
        assert (config.fusion, config.modality_gate) == (saved["fusion"], gate)
        assert config.format_version == FORMAT_VERSION
        assert (config.region_grid, config.pool_words, config.fusion_hidden_size) == (0, False, 1024)
        assert "unimodal" not in config.to_dict()
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize("side", [None, 0, 4, 7])
def test_a_region_grid_is_kept_and_a_new_model_has_four_to_a_side(side, tmp_path):
    DiptychConfig(region_grid=side).save_pretrained(tmp_path)
    assert DiptychConfig.from_pretrained(tmp_path).region_grid == (4 if side is None else side)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions_that_read_means_get_means_unless_it_is_said(fusion, tmp_path):
    pooled = fusion in ("concat", "mlp")
    config = DiptychConfig(fusion=fusion)
    assert (config.region_grid, config.pool_words) == ((1, True) if pooled else (4, False))
    DiptychConfig(fusion=fusion, region_grid=4, pool_words=not pooled).save_pretrained(tmp_path)
    again = DiptychConfig.from_pretrained(tmp_path)
    assert (again.region_grid, again.pool_words) == (4, not pooled)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_feed_forward_layers_of_new_cross_modal_models_are_as_wide_as_the_tokens(fusion, tmp_path):
    assert DiptychConfig(fusion=fusion).fusion_hidden_size == (512 if fusion == "cross-modal" else 1024)
    DiptychConfig(fusion=fusion, fusion_hidden_size=768).save_pretrained(tmp_path)
    assert DiptychConfig.from_pretrained(tmp_path).fusion_hidden_size == 768


@pytest.mark.parametrize("field", ["alignment_weight"])
@pytest.mark.parametrize("weight", [0, 0.0, 0.5, 10])
def test_a_weight_in_the_loss_is_at_least_0(field, weight):
    assert getattr(DiptychConfig(**{field: weight}), field) == weight


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fusion", "sum", "fusion is 'sum'; choose one of " + ", ".join(FUSIONS)),
        ("region_grid", -1, "region_grid is -1; it must be at least 1, or 0 for the image trunk's own grid"),
        ("hidden_size", 0, "hidden_size is 0; it must be at least 1"),
        ("fusion_layers", 0, "fusion_layers is 0; it must be at least 1"),
        ("fusion_heads", -2, "fusion_heads is -2; it must be at least 1"),
        ("fusion_hidden_size", 0, "fusion_hidden_size is 0; it must be at least 1"),
        ("hidden_size", 20, "hidden_size is 20; it must be a multiple of 4 and of fusion_heads (8)"),
        ("fusion_heads", 7, "hidden_size is 512; it must be a multiple of 4 and of fusion_heads (7)"),
        ("alignment_weight", -0.1, "alignment_weight is -0.1; it must be at least 0"),
        ("alignment_weight", -1.0, "alignment_weight is -1.0; it must be at least 0"),
        ("alignment_weight", float("nan"), "alignment_weight is nan; it must be at least 0"),
        ("glimpses", 0, "glimpses is 0; it must be at least 1"),
        ("pattern", "full", "unknown pattern 'full'; choose one of " + ", ".join(PATTERNS)),
        (
            "pattern",
            "global",
            "pattern is 'global', which the cross-modal fusion doesn't have; it goes with self-attention",
        ),
        ("window", 0, "window is 0; it must be at least 1 (tokens on each side)"),
        ("window", -5, "window is -5; it must be at least 1 (tokens on each side)"),
        ("global_tokens", [], GLOBAL.format("[]")),
        ("global_tokens", (0, -2), GLOBAL.format("[0, -2]")),
        ("global_tokens", [3, 3], GLOBAL.format("[3, 3]")),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
        ("dropout", -0.1, "dropout is -0.1; it must be at least 0 and below 1"),
        ("modality_dropout", 1.5, "modality_dropout is 1.5; it must be at least 0 and below 1"),
        ("modality_dropout", float("nan"), "modality_dropout is nan; it must be at least 0 and below 1"),
    ],
)
def test_a_field_out_of_its_range_is_named_with_what_is_allowed(field, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DiptychConfig(**{field: value})


def test_a_width_must_be_a_multiple_of_4_for_the_positions():
    with pytest.raises(ValueError, match=re.escape("hidden_size is 6; it must be a multiple of 4")):
        DiptychConfig(hidden_size=6, fusion_heads=2)


def test_a_model_of_a_later_version_is_refused(tmp_path):
    message = f"format_version is {FORMAT_VERSION + 1}: this model was saved by a later Diptych"
    with pytest.raises(ValueError, match=message):
        DiptychConfig(format_version=FORMAT_VERSION + 1)
    DiptychConfig(**FIELDS, **OTHERS, num_labels=3).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match=f"{message}.*upgrade diptych"):
        DiptychConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("id2label", "expected"),
    [
        ({0: "b", 1: "a"}, ["b", "a"]),
        ({2: "z", 0: "y", 1: "x"}, ["y", "x", "z"]),
        ({"1": "b", "0": "a"}, ["a", "b"]),
        ({number: str(number) for number in range(12)}, [str(number) for number in range(12)]),
    ],
    ids=["two", "out of order", "keys of JSON", "twelve"],
)
def test_labels_stand_in_the_order_of_the_logits_before_and_after_saving(id2label, expected, tmp_path):
    config = DiptychConfig(id2label=id2label)
    assert config.labels == expected
    assert config.num_labels == len(expected)
    config.save_pretrained(tmp_path)
    assert DiptychConfig.from_pretrained(tmp_path).labels == expected


def test_a_model_may_have_no_classes_before_and_after_saving(tmp_path):
    DiptychConfig(id2label={}, label2id={}).save_pretrained(tmp_path)
    again = DiptychConfig.from_pretrained(tmp_path)
    assert (again.num_labels, again.labels) == (0, [])


def test_labels_without_names_are_numbered():
    assert DiptychConfig(num_labels=3).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"thresholds": [0.5, 0.5]},
            "thresholds go with problem_type multi_label_.*; problem_type is None",
        ),
        ({"thresholds": [0.5], **OTHERS}, r"thresholds is \[0.5\]; give one from 0 to 1 for each of 2 labels"),
        ({"thresholds": [0.5, 1.5], **OTHERS}, "give one from 0 to 1 for each of 2 labels"),
        ({"problem_type": "regression"}, "problem_type is 'regression', which Diptych does not do"),
    ],
)
def test_thresholds_and_the_kind_of_problem_fit_together(options, message):
    with pytest.raises(ValueError, match=message):
        DiptychConfig(num_labels=2, **options)


@pytest.mark.parametrize(
    ("fields", "experts"),
    [
        ({}, True),
        ({"modality_gate": False}, True),
        ({"fusion": "mlp"}, True),
        ({"fusion": "concat"}, False),
        ({"fusion": "concat", "modality_gate": True}, True),
        ({"format_version": 3}, False),
        ({"format_version": 3, "balance": 0.5, "fusion": "bilinear"}, False),
    ],
    ids=str,
)
def test_new_models_have_experts_and_earlier_ones_keep_their_gate(fields, experts):
    config = DiptychConfig(**fields)
    assert config.experts is experts
    assert DiptychConfig(**config.to_dict()).experts is experts  # also once saved again
    assert config.fusion_layers == (1 if config.fusion == "cross-modal" and experts else 2)
