"""The model: one forward, one backward, every switch."""

from __future__ import annotations

import pytest
import torch
from diptych import DiptychModel, DiptychProcessor
from diptych.encoders.trainable import check_partition
from PIL import Image

from ..conftest import build_tiny, picture


def batch_of(processor: DiptychProcessor, colours=("red", "blue"), texts=("a red shirt", "a blue shoe left right")):
    return processor([None if c is None else picture(c) for c in colours], list(texts))


@pytest.mark.parametrize("fusion", ["cross-modal", "concat", "mlp"])
def test_every_fusion_gives_raw_logits_and_trains_every_parameter(text_folder, fusion):
    model, processor = build_tiny(text_folder, fusion=fusion, modality_dropout=0.0)
    model.text_encoder.unfreeze()  # a pretrained trunk starts frozen
    model.train()
    output = model(**batch_of(processor, ("red", "blue", None, "red"), ("a red shirt", "a shoe", "a shirt", None)),
                   labels=torch.tensor([0, 1, 0, 1]))  # fmt: skip
    assert output.logits.shape == (4, 2)
    output.loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert not {name for name in without if "pooler" not in name}


def test_the_fusions_differ(text_folder):
    logits = {}
    for fusion in ("cross-modal", "concat", "mlp"):
        torch.manual_seed(0)
        model, processor = build_tiny(text_folder, fusion=fusion)
        logits[fusion] = model.eval()(**batch_of(processor)).logits
    assert not torch.allclose(logits["cross-modal"], logits["concat"])
    assert not torch.allclose(logits["mlp"], logits["concat"])


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


def test_the_balance_term_is_in_the_training_loss_only(text_folder):
    model, processor = build_tiny(text_folder, balance=2.0, unimodal=0.0, dropout=0.0, modality_dropout=0.0)
    batch, labels = batch_of(processor), torch.tensor([0, 1])
    weights = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    model.text_encoder.trunk.eval()  # its own dropout would blur the comparison

    def loss() -> float:
        return model(**batch, labels=labels, modality_weights=weights).loss.item()

    model.eval()
    plain = loss()
    model.train()
    model.image_encoder.trunk.eval()
    model.text_encoder.trunk.eval()
    expected = 2.0 * -0.5 * (torch.tensor(1.8).log() + torch.tensor(0.2).log())
    assert loss() - plain == pytest.approx(float(expected), abs=1e-5)


def test_the_unimodal_term_teaches_the_gate_and_nothing_of_it_is_left_at_weight_0(text_folder):
    gradients = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model, processor = build_tiny(text_folder, unimodal=weight, balance=0.0, dropout=0.0, modality_dropout=0.0)
        model.train()
        model(**batch_of(processor), labels=torch.tensor([0, 1])).loss.backward()
        gradients[weight] = model.fusion.gate.scores[-1].weight.grad, model.half_heads[0].weight.grad
    assert gradients[0.0][1].abs().max() == 0
    assert gradients[1.0][1].abs().max() > 0
    assert not torch.allclose(gradients[0.0][0], gradients[1.0][0])


def test_the_parts_hold_every_parameter_once_and_in_order(tiny):
    model, _ = tiny
    names = [name for name, _ in model.parts()]
    assert names[0] == "image.stem"
    assert names[-3:] == ["projections", "fusion", "head"]
    with pytest.raises(ValueError, match=r"in no part: head\.weight, head.bias"):
        check_partition(model, model.parts()[:-1])


def test_random_construction_draws_different_weights_and_keeps_each_modules_own_start(text_folder):
    model, _ = build_tiny(text_folder)
    convolution = model.image_encoder.trunk.conv1.weight
    assert convolution.std() > 0.05  # torchvision's own start; 0.02 would be transformers' general one
    assert float(model.head.bias.abs().max()) == 0.0


def test_transformers_auto_classes_find_it(tiny, tmp_path):
    from transformers import AutoConfig, AutoModel, AutoProcessor

    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).fusion == "cross-modal"
    loaded, read = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, DiptychModel)
    batch = read([Image.new("RGB", (40, 20), "red")], ["a red shirt"])
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=0, rtol=0)


def test_the_tuple_form_holds_the_same(tiny):
    model, processor = tiny
    batch = batch_of(processor)
    assert torch.equal(model(**batch, return_dict=False)[0], model(**batch).logits)
