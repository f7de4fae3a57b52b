"""From images and sentences to tensors: absent modalities, special tokens, and a saved copy that does the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from diptych.pipeline.model.processor import DiptychProcessor
from PIL import Image
from transformers import BertTokenizer

from ...conftest import sized
from .test_image_processor import FIELDS

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "shirt"]
PAD, UNK, CLS, SEP = 0, 1, 2, 3


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


@pytest.fixture
def processor() -> DiptychProcessor:
    return DiptychProcessor(sized(6, 8), tokenizer(), max_length=5)


def test_a_saved_processor_keeps_every_field_and_does_the_same(tmp_path):
    ours = DiptychProcessor(DiptychImageProcessor(**FIELDS), tokenizer(), max_length=7)
    ours.save_pretrained(tmp_path)
    again = DiptychProcessor.from_pretrained(tmp_path)
    assert again.max_length == 7
    assert {name: getattr(again.image_processor, name) for name in FIELDS} == FIELDS
    pairs = ([noise(30, 20), None], ["a red shirt", "a a a a a a a a a blue"])
    expected, found = ours(*pairs), again(*pairs)
    assert set(expected) == set(found)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_pairs_become_the_tensors_of_a_model(processor):
    batch = processor([noise(9, 9), noise(4, 7)], ["a red shirt", "blue"])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "pixel_values": (2, 3, 6, 8),
        "image_present": (2,),
        "input_ids": (2, 5),
        "attention_mask": (2, 5),
        "text_present": (2,),
    }
    assert batch["input_ids"].tolist() == [[CLS, 5, 6, 8, SEP], [CLS, 7, SEP, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["image_present"].all()
    assert batch["text_present"].all()


def test_none_is_an_absent_half(processor):
    batch = processor([None, noise(9, 9), None], ["a shirt", None, None])
    assert batch["image_present"].tolist() == [False, True, False]
    assert batch["text_present"].tolist() == [True, False, False]
    assert batch["pixel_values"].shape == (3, 3, 6, 8)
    assert batch["input_ids"].shape == (3, 4)


@pytest.mark.parametrize("wrap", [list, tuple])
def test_all_of_one_half_may_be_left_out(processor, wrap):
    batch = processor(text=wrap(["a shirt", "blue"]))
    assert (batch["image_present"].tolist(), batch["text_present"].tolist()) == ([False, False], [True, True])
    batch = processor(images=wrap([noise(9, 9), noise(9, 9)]))
    assert (batch["image_present"].tolist(), batch["text_present"].tolist()) == ([True, True], [False, False])


def test_one_of_each_is_a_batch_of_one(processor, tmp_path):
    noise(9, 9).save(tmp_path / "a.png")
    for image in (noise(9, 9), str(tmp_path / "a.png"), tmp_path / "a.png"):
        batch = processor(image, "a red shirt")
        assert batch["pixel_values"].shape[0] == batch["input_ids"].shape[0] == 1
        assert batch["image_present"].tolist() == batch["text_present"].tolist() == [True]


def test_one_half_alone_is_a_batch_of_one(processor, tmp_path):
    noise(9, 9).save(tmp_path / "a.png")
    batch = processor(text="a red shirt")
    assert (batch["image_present"].tolist(), batch["text_present"].tolist()) == ([False], [True])
    for image in (noise(9, 9), str(tmp_path / "a.png")):
        batch = processor(images=image)
        assert (batch["image_present"].tolist(), batch["text_present"].tolist()) == ([True], [False])


def test_padding_is_on_the_right_whatever_the_tokenizer_says():
    left = tokenizer()
    left.padding_side = "left"
    batch = DiptychProcessor(sized(2, 2), left)(text=["blue", "a red shirt"])
    assert batch["input_ids"][0].tolist() == [CLS, 7, SEP, PAD, PAD]


def test_options_are_obeyed_or_refused(processor):
    batch = processor(text=["blue"], padding="max_length", return_tensors="np")
    assert batch["input_ids"].tolist() == [[CLS, 7, SEP, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    assert isinstance(batch["pixel_values"], np.ndarray)
    for option in ({"padding": False}, {"padding": "left"}, {"return_tensors": "tf"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is "):
            processor(text=["blue"], **option)
    for unknown in ("max_length", "truncation", "size", "do_normalize", "top_k"):
        with pytest.raises(TypeError, match=unknown):
            processor(text=["blue"], **{unknown: 3})


@pytest.mark.parametrize("max_length", [3, 5])
def test_long_texts_are_cut_and_still_end_as_a_sentence(max_length):
    ours = DiptychProcessor(sized(2, 2), tokenizer(), max_length=max_length)
    (ids,) = ours(text=["red " * 20])["input_ids"].tolist()
    assert ids == [CLS] + [6] * (max_length - 2) + [SEP]


def test_the_longest_text_sets_the_width(processor):
    assert processor(text=["blue", "red"])["input_ids"].shape == (2, 3)


def test_words_that_nobody_knows_are_unknown(processor):
    assert processor(text=["zebra"])["input_ids"].tolist() == [[CLS, UNK, SEP]]


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        ([None], ["a", "b"], "there are 1 images and 2 texts; give as many of each"),
        ([None, None], ["a"], "there are 2 images and 1 texts; give as many of each"),
        ([None, None], "a", "there are 2 images and 1 texts; give as many of each"),
        (None, None, "give images, text, or both"),
    ],
)
def test_halves_that_do_not_match_are_refused(processor, images, text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        processor(images, text)
