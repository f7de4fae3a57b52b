"""The model: one forward, one backward, every switch."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from diptych import DiptychConfig, DiptychModel, DiptychProcessor
from diptych.encoders import Tokens
from diptych.encoders.tokens import encode_present
from diptych.encoders.trainable import check_partition
from diptych.fusion import PATTERNS
from diptych.pipeline.model.heads import build_fusion
from PIL import Image
from torch.nn import functional as F

from ...conftest import build_tiny, picture
from ...fusion import random_tokens, shake

CHOICES = [
    {"fusion": "cross-modal"},
    *({"fusion": "self-attention", "pattern": pattern, "window": 2, "global_tokens": [0, 3]} for pattern in PATTERNS),
    {"fusion": "bilinear"},
    {"fusion": "concat"},
    {"fusion": "mlp"},
    {"fusion": "concat", "modality_gate": True},
    {"fusion": "cross-modal", "modality_gate": False},
]
EACH = pytest.mark.parametrize("options", CHOICES, ids=lambda options: " ".join(map(str, options.values())))


def batch_of(processor: DiptychProcessor, colours=("red", "blue"), texts=("a red shirt", "a blue shoe left right")):
    return processor([None if c is None else picture(c) for c in colours], list(texts))


@EACH
def test_every_fusion_gives_raw_logits_and_trains_every_parameter(text_folder, options):
    model, processor = build_tiny(text_folder, **options, modality_dropout=0.0, alignment_weight=0.5)
    model.text_encoder.unfreeze()  # a pretrained trunk starts frozen
    model.train()
    output = model(**batch_of(processor, ("red", "blue", None, "red"), ("a red shirt", "a shoe", "a shirt", None)),
                   labels=torch.tensor([0, 1, 0, 1]))  # fmt: skip
    assert output.logits.shape == (4, 2)
    output.loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert not {name for name in without if "pooler" not in name}


@EACH
def test_every_fusion_gives_equal_logits_after_saving(text_folder, tmp_path, options):
    model, processor = build_tiny(text_folder, **options, alignment_weight=0.5)
    model.eval().save_pretrained(tmp_path)
    loaded = DiptychModel.from_pretrained(tmp_path)
    assert {**loaded.config.to_dict(), "_name_or_path": ""} == {**model.config.to_dict(), "_name_or_path": ""}
    batch = batch_of(processor, ("red", "blue", None), ("a red shirt", None, "a blue shoe left right"))
    asked, again = (m(**batch, output_attentions=True) for m in (model, loaded))
    torch.testing.assert_close(asked.logits, again.logits, atol=1e-6, rtol=0)
    assert (asked.attentions or {}).keys() == (again.attentions or {}).keys()
    if model.config.modality_gate:
        torch.testing.assert_close(asked.modality_weights, again.modality_weights, atol=1e-6, rtol=0)
    else:
        assert asked.modality_weights is again.modality_weights is None
    pixels = batch["pixel_values"]
    torch.testing.assert_close(model.get_image_features(pixels), loaded.get_image_features(pixels), atol=1e-6, rtol=0)


def features_of(**options: Any) -> torch.Tensor:
    """What the fusion of a config, drawn from one seed, makes of the same tokens."""
    usual = {"fusion_layers": 2, "fusion_heads": 2, "hidden_size": 16, "fusion_hidden_size": 32, "experts": False}
    config = DiptychConfig(**(usual | options))
    torch.manual_seed(0)
    image, text = random_tokens([4, 3], 4, 16), random_tokens([6, 2], 6, 16)
    fusion = shake(build_fusion(config)).eval()
    return fusion(image, text).features


def test_every_choice_gives_features_of_its_own():
    for one, two in itertools.combinations([features_of(**options) for options in CHOICES], 2):
        assert one.shape != two.shape or not torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize(
    ("fusion", "one", "two"),
    [
        ("bilinear", {"glimpses": 1}, {"glimpses": 3}),
        ("bilinear", {"fusion_hidden_size": 8}, {"fusion_hidden_size": 9}),
        ("bilinear", {"fusion_heads": 2}, {"fusion_heads": 4}),
        ("cross-modal", {"fusion_heads": 2}, {"fusion_heads": 4}),
        ("self-attention", {"fusion_heads": 2}, {"fusion_heads": 4}),
        ("cross-modal", {"fusion_hidden_size": 8}, {"fusion_hidden_size": 9}),
        ("cross-modal", {"fusion_layers": 1}, {"fusion_layers": 2}),
        ("self-attention", {"fusion_layers": 1}, {"fusion_layers": 2}),
        ("self-attention", {"fusion_hidden_size": 8}, {"fusion_hidden_size": 9}),
        ("self-attention", {"pattern": "sliding-window", "window": 1}, {"pattern": "sliding-window", "window": 9}),
        ("self-attention", {"pattern": "global", "global_tokens": [1]}, {"pattern": "global", "global_tokens": [0]}),
    ],
    ids=str,
)
def test_what_the_config_says_reaches_the_fusion(fusion, one, two):
    assert not torch.allclose(features_of(fusion=fusion, **one), features_of(fusion=fusion, **two), atol=1e-4)


def test_fuse_is_what_follows_the_encoders(tiny):
    model, processor = tiny
    batch = batch_of(processor, ("red", None), ("a red shirt", "a shoe"))
    assert torch.equal(model.fuse(*encoded(model, batch)).logits, model(**batch).logits)


def test_padding_and_order_of_a_batch_change_nothing(tiny):
    model, processor = tiny
    together = model(**batch_of(processor)).logits
    swapped = model(**batch_of(processor, ("blue", "red"), ("a blue shoe left right", "a red shirt"))).logits
    alone = model(**batch_of(processor, ("red",), ("a red shirt",))).logits
    torch.testing.assert_close(together.flip(0), swapped, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_an_absent_half_has_weight_zero_and_its_pixels_do_not_matter(tiny):
    model, processor = tiny
    batch = batch_of(processor, ("red", None), ("a red shirt", "a shoe"))
    first = model(**batch)
    batch["pixel_values"][1] = float("nan")
    second = model(**batch)
    torch.testing.assert_close(first.logits, second.logits, atol=0, rtol=0)
    assert first.modality_weights[1].tolist() == [0.0, 1.0]


def test_weights_forced_to_an_end_shut_a_modality_out_of_the_logits(tiny):
    model, processor = tiny
    reds, blues = (batch_of(processor, (colour, colour)) for colour in ("red", "blue"))
    words = [batch_of(processor, texts=(text, text)) for text in ("a red shirt", "blue shoe left")]
    text_only, image_only, both = (torch.tensor([w] * 2) for w in ([0.0, 1.0], [1.0, 0.0], [0.5, 0.5]))

    def logits(batch, weights):
        return model(**batch, modality_weights=weights).logits

    assert torch.equal(logits(reds, text_only), logits(blues, text_only))
    assert torch.equal(logits(words[0], image_only)[0], logits(words[1], image_only)[0])
    for end in (text_only, image_only):
        assert not torch.allclose(logits(reds, both), logits(reds, end))
    assert not torch.allclose(logits(reds, both), logits(blues, both))


def test_attention_maps_come_on_request(tiny):
    model, processor = tiny
    batch = batch_of(processor)
    assert model(**batch).attentions is None
    maps = model(**batch, output_attentions=True).attentions
    words = batch["input_ids"].shape[1]
    assert maps["text_to_image"].shape == (2, 1, 2, words, 4)
    assert maps["image_to_text"].shape == (2, 1, 2, 4, words)
    assert maps["image_to_text"][0, ..., batch["attention_mask"][0] == 0].abs().max() == 0


@pytest.mark.parametrize("fusion", ["cross-modal", "self-attention", "bilinear", "concat"])
def test_heads_can_be_averaged(text_folder, fusion):
    model, processor = build_tiny(text_folder, fusion=fusion)
    batch = batch_of(processor)
    model.eval()
    maps = model(**batch, output_attentions=True).attentions
    averaged = model(**batch, output_attentions=True, average_heads=True).attentions
    assert maps.keys() == averaged.keys()
    for name, found in averaged.items():
        assert maps[name].shape[2] > 1
        torch.testing.assert_close(found, maps[name].mean(dim=2, keepdim=True))


def still(model: DiptychModel) -> DiptychModel:
    """In training, but the trunks: their own dropout and batch statistics would blur comparisons."""
    model.train()
    model.image_encoder.trunk.eval()
    model.text_encoder.trunk.eval()
    return model


def encoded(model: DiptychModel, batch: dict[str, torch.Tensor]) -> tuple[Tokens, Tokens]:
    """The tokens of both halves."""
    image = model.image_encoder(batch["pixel_values"], batch["image_present"])
    return image, model.text_encoder(batch["input_ids"], batch["attention_mask"], batch["text_present"])


def test_in_training_the_fusion_and_each_expert_have_a_loss_of_their_own(text_folder):
    model, processor = build_tiny(text_folder, dropout=0.0, modality_dropout=0.0)
    batch, labels = batch_of(processor), torch.tensor([0, 1])
    still(model)
    image, text = model.null_tokens(*encoded(model, batch))
    opinions = model.experts(image, text)
    fused = model.head(model.fusion(image, text, modality_weights=model.experts.weights(opinions)).features)
    expected = sum(F.cross_entropy(logits, labels) for logits in (fused, *model.experts.logits(opinions)))
    torch.testing.assert_close(model(**batch, labels=labels).loss, expected)
    output = model.eval()(**batch, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))


def test_alignment_is_in_the_training_loss_only_times_its_weight(text_folder):
    quiet = {"experts": False, "dropout": 0.0, "modality_dropout": 0.0}
    model, processor = build_tiny(text_folder, alignment_weight=0.5, **quiet)
    batch, labels = batch_of(processor), torch.tensor([0, 1])
    plain = model.eval()(**batch, labels=labels).loss
    alignment = model.alignment(*encoded(model, batch))
    assert alignment > 0
    together = still(model)(**batch, labels=labels)
    torch.testing.assert_close(together.loss, plain + 0.5 * alignment)
    together.loss.backward()
    assert model.alignment.image[1].weight.grad.abs().max() > 0
    same = torch.tensor([7, 7])
    for ids in ({"text_ids": same}, {"image_ids": same}):  # then there is nothing to tell apart
        torch.testing.assert_close(model(**batch, labels=labels, **ids).loss, plain)


def test_alignment_is_set_and_removed(tiny, tmp_path):
    model, processor = tiny
    batch = batch_of(processor)
    assert model.alignment is None
    model.set_alignment(0.5)
    assert model.config.alignment_weight == 0.5
    first = model.alignment
    features = model.get_image_features(batch["pixel_values"])
    assert features.shape == (2, 16)
    with pytest.warns(FutureWarning, match="embed_images is get_image_features now"):
        assert torch.equal(model.embed_images(batch["pixel_values"]), features)
    model.set_alignment(0.25)
    assert model.alignment is first  # what it learned stays
    check_partition(model, model.parts())
    model.set_alignment(0)
    assert model.alignment is None
    assert model.config.alignment_weight == 0
    model.save_pretrained(tmp_path)
    assert DiptychModel.from_pretrained(tmp_path).alignment is None


def test_without_alignment_a_model_cannot_embed_and_says_what_to_do(tiny):
    model, processor = tiny
    batch = batch_of(processor)
    message = "this model cannot rank: it was trained without alignment; train one with --objective align"
    with pytest.raises(ValueError, match=message):
        model.get_image_features(batch["pixel_values"])
    with pytest.raises(ValueError, match=message):
        model.get_text_features(batch["input_ids"], batch["attention_mask"])


def test_a_model_without_classes_gives_no_logits_and_learns_from_alignment_alone(text_folder, tmp_path):
    model, processor = build_tiny(text_folder, labels=[], alignment_weight=2.0)
    batch = batch_of(processor)
    found = model.eval()(**batch)
    assert (model.head, found.logits, found.loss, found.modality_weights) == (None, None, None, None)
    alignment = model.alignment(*encoded(model, batch))
    loss = still(model)(**batch).loss
    torch.testing.assert_close(loss, 2 * alignment)
    loss.backward()
    assert model.text_encoder.projection[0].weight.grad.abs().max() > 0
    check_partition(model, model.parts())
    model.eval().save_pretrained(tmp_path)
    loaded = DiptychModel.from_pretrained(tmp_path)
    assert loaded.config.labels == []
    words = batch["input_ids"], batch["attention_mask"]
    torch.testing.assert_close(loaded.get_text_features(*words), model.get_text_features(*words), atol=1e-6, rtol=0)


def test_the_parts_hold_every_parameter_once_and_in_order(tiny):
    model, _ = tiny
    names = [name for name, _ in model.parts()]
    assert names[0] == "image.stem"
    assert names[-4:] == ["projections", "fusion", "words", "head"]
    with pytest.raises(ValueError, match=r"in no part: head\.weight, head.bias"):
        check_partition(model, model.parts()[:-1])


def test_random_construction_draws_different_weights_and_keeps_each_modules_own_start(text_folder):
    model, _ = build_tiny(text_folder)
    convolution = model.image_encoder.trunk.conv1.weight
    assert convolution.std() > 0.05  # torchvision's own start; 0.02 would be transformers' general one
    assert not model.head.bias.any()


def test_transformers_auto_classes_find_it(tiny, tmp_path):
    from transformers import AutoConfig, AutoModel, AutoProcessor

    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).fusion == "cross-modal"
    loaded, read = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, DiptychModel)
    batch = read([Image.new("RGB", (40, 20), "red")], ["a red shirt"])
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", ["concat", "mlp"])
def test_words_are_averaged_before_or_after_the_projection(fusion, text_folder):
    models = []
    for pool in (True, False):
        torch.manual_seed(0)
        model, processor = build_tiny(text_folder, fusion=fusion, pool_words=pool, experts=False)
        models.append(model.eval())
    batch = processor([picture("red")] * 3, ["a red shirt", "a", None])
    found, after = (model(**batch).logits for model in models)
    assert (found - after)[0].abs().max() > 1e-5
    torch.testing.assert_close(found[2], after[2])  # no words
    states = models[0].text_encoder.encode(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(models[0](**batch | {"text_features": states}).logits, found)


def test_the_tuple_form_holds_the_same(tiny):
    model, processor = tiny
    batch = batch_of(processor)
    assert torch.equal(model(**batch, return_dict=False)[0], model(**batch).logits)


def test_features_stand_in_for_what_they_were_encoded_from(tiny):
    model, processor = tiny
    batch = processor([picture("red"), None, picture("blue")], ["a red shirt", "a blue shoe", None])
    image = encode_present(model.image_encoder.encode, batch["image_present"], (128, 1, 1), batch["pixel_values"])
    text = model.text_encoder.encode(batch["input_ids"], batch["attention_mask"])
    there = {name: batch[name] for name in ("attention_mask", "image_present", "text_present")}
    found = model(**there, image_features=image, text_features=text)
    torch.testing.assert_close(found.logits, model(**batch).logits)
    with pytest.raises(ValueError, match="an encoder needs its input or, in place of it, its features"):
        model(**there, text_features=text)
    with pytest.raises(ValueError, match="there is no attention_mask: give one beside text features"):
        model(text_features=text)


def test_a_modality_of_which_nothing_is_given_is_absent(tiny):
    model, processor = tiny
    batch = processor([picture("red"), picture("blue")], ["a red shirt", "a blue shoe left"])
    pixels, words = batch["pixel_values"], batch["input_ids"]
    nobody = torch.tensor([False, False])
    by_text = model(**batch | {"image_present": nobody}).logits
    torch.testing.assert_close(model(input_ids=words).logits, by_text)  # the mask is what is not padding
    torch.testing.assert_close(model(input_ids=words, attention_mask=batch["attention_mask"]).logits, by_text)
    by_image = model(**batch | {"text_present": nobody}).logits
    torch.testing.assert_close(model(pixel_values=pixels).logits, by_image)
    empty = batch["attention_mask"].clone()
    empty[0] = 0
    found = model(**batch | {"attention_mask": empty}).logits
    torch.testing.assert_close(found[0], by_image[0])
    torch.testing.assert_close(found[1], model(**batch).logits[1])
    with pytest.raises(ValueError, match="there is neither an image nor a text: give pixel_values, input_ids or both"):
        model()


def test_linear_layers_are_quantized_on_the_fly_by_torch(tiny):
    model, processor = tiny
    batch = batch_of(processor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own future
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        found = quantized(**batch).logits
    torch.testing.assert_close(found, model(**batch).logits, atol=0.2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_is_loaded_whole_in_the_number_format_that_is_asked_for(tiny, tmp_path, dtype):
    tiny[0].save_pretrained(tmp_path)
    loaded = DiptychModel.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
