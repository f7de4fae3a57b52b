"""From images and sentences to tensors: torchvision's numbers, absent halves, and a saved copy that does the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from diptych.pipeline.model.processor import IMAGENET_MEAN, IMAGENET_STD, DiptychImageProcessor, DiptychProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference
from transformers import BertTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "shirt"]
PAD, UNK, CLS, SEP = 0, 1, 2, 3
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    return noise(max(2, width // 12), max(2, height // 12)).resize((width, height), Image.Resampling.BICUBIC)


def difference(first: Image.Image, second: Image.Image) -> int:
    """The largest, in grey levels of 0 to 255."""
    assert first.size == second.size
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


@pytest.fixture
def processor() -> DiptychProcessor:
    return DiptychProcessor(DiptychImageProcessor(height=6, width=8), tokenizer(), max_length=5)


# images

SIZES = [(300, 300), (301, 400), (400, 301), (641, 480), (97, 53), (500, 333), (1000, 90), (60, 80), (233, 232)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("edge", "crop"), [(256, 224), (232, 224), (64, 56), (224, 224)])
@pytest.mark.parametrize(("interpolation", "picture"), [("bilinear", noise), ("bilinear", smooth), ("bicubic", smooth)])
def test_the_centre_is_torchvisions_to_2_grey_levels_of_255(size, edge, crop, interpolation, picture):
    # ours scales and cuts in one step, where torchvision rounds to whole pixels in between
    image = picture(*size)
    ours = DiptychImageProcessor(height=crop, width=crop, shortest_edge=edge, interpolation=interpolation)
    scaled = reference.resize(image, edge, interpolation=InterpolationMode(interpolation))
    assert difference(ours.resize(image), reference.center_crop(scaled, crop)) <= 2


@pytest.mark.parametrize(
    ("name", "weights", "crop", "edge"),
    [("resnet50", ResNet50_Weights.IMAGENET1K_V2, 224, 232), ("resnet18", ResNet18_Weights.IMAGENET1K_V1, 224, 256)],
)
def test_pretrained_encoders_bring_the_numbers_of_their_weights(name, weights, crop, edge):
    ours = DiptychImageProcessor.of(name, pretrained=True)
    preset = weights.transforms()
    assert (ours.height, ours.width, ours.shortest_edge) == (crop, crop, edge)
    assert (preset.crop_size, preset.resize_size) == ([crop], [edge])
    assert (ours.mean, ours.std) == (preset.mean, preset.std) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert ours.interpolation == preset.interpolation.value
    image = smooth(320, 240)
    # two grey levels of 255, divided by the smallest deviation
    torch.testing.assert_close(ours(image)["pixel_values"][0], preset(image), atol=2 / 255 / 0.224, rtol=0)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_size_that_is_asked_for_is_scaled_to_without_cutting(pretrained):
    ours = DiptychImageProcessor.of("resnet50", pretrained=pretrained, size=(80, 60))
    assert (ours.height, ours.width, ours.shortest_edge) == (80, 60, None)
    assert ours.mean == list(IMAGENET_MEAN)
    assert ours.resize(noise(200, 100)).size == (60, 80)


def test_random_encoders_take_the_usual_numbers():
    ours = DiptychImageProcessor.of("resnet18", pretrained=False)
    assert (ours.height, ours.width, ours.shortest_edge, ours.interpolation) == (224, 224, 256, "bilinear")


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_without_a_shortest_edge_the_whole_picture_is_scaled(interpolation):
    image = noise(50, 20)
    ours = DiptychImageProcessor(height=30, width=16, interpolation=interpolation)
    assert difference(ours.resize(image), image.resize((16, 30), RESAMPLING[interpolation])) == 0


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
@pytest.mark.parametrize("edge", [None, 256])
def test_a_picture_of_extreme_form_is_scaled_like_any_other(size, edge):
    ours = DiptychImageProcessor(shortest_edge=edge)
    image = ours.resize(Image.new("RGB", size, (10, 20, 30)))
    assert image.size == (224, 224)
    assert image.getextrema() == ((10, 10), (20, 20), (30, 30))


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_every_picture_comes_out_in_the_size_that_the_encoder_sees(size, wanted, beyond):
    height, width = wanted
    ours = DiptychImageProcessor(height=height, width=width, shortest_edge=max(wanted) + beyond)
    assert ours.resize(Image.new("RGB", size)).size == (width, height)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(100, 700), st.integers(100, 700)),
    wanted=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    beyond=st.none() | st.integers(0, 20),
    interpolation=st.sampled_from(list(RESAMPLING)),
)
def test_a_large_jpeg_comes_out_nearly_as_from_all_its_pixels(size, wanted, beyond, interpolation):
    height, width = wanted
    edge = None if beyond is None else max(wanted) + beyond
    ours = DiptychImageProcessor(height=height, width=width, shortest_edge=edge, interpolation=interpolation)
    photo = np.asarray(noise(7, 5).resize(size, Image.Resampling.BICUBIC), np.int16) + np.asarray(noise(*size)) // 16
    file = io.BytesIO()
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    drafted, whole = read_image(file.getvalue(), at_least=ours.needed_size), read_image(file.getvalue())
    first, second = ours.resize(drafted), ours.resize(whole)
    least = (edge, edge) if edge is not None else (height, width)
    if size[0] < 4 * least[1] or size[1] < 4 * least[0]:  # not much larger: byte for byte
        assert first.tobytes() == second.tobytes()
    else:
        assert drafted.width < whole.width
        assert np.abs(np.subtract(first, second, dtype=np.float32)).mean() < 1
        assert difference(first, second) < 16


def test_pixel_values_are_channels_first_and_normalised():
    ours = DiptychImageProcessor(height=1, width=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    image = Image.fromarray(np.array([[[255, 0, 51], [0, 255, 255]]], np.uint8))
    expected = [[[1.8, -0.2]], [[-0.8, 3.2]], [[-0.05, 0.35]]]
    torch.testing.assert_close(ours.normalize(image), torch.tensor(expected))
    torch.testing.assert_close(ours(image)["pixel_values"], torch.tensor([expected]))


def test_images_of_any_kind_make_a_batch_and_none_is_absent(tmp_path):
    image = noise(9, 9)
    image.save(tmp_path / "a.png")
    ours = DiptychImageProcessor(height=6, width=8)
    ready = ours.normalize(ours.resize(image))
    batch = ours([image, None, str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), ready])
    assert batch["pixel_values"].shape == (5, 3, 6, 8)
    assert batch["image_present"].tolist() == [True, False, True, True, True]
    assert not batch["pixel_values"][1].any()
    for row in (0, 2, 3, 4):
        assert torch.equal(batch["pixel_values"][row], ready)


def test_an_image_that_cannot_be_used_is_an_error():
    with pytest.raises(BadImage, match=r"gone\.png does not exist"):
        DiptychImageProcessor()(["gone.png"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "the image size is 0 x 224; both must be at least 1 pixel"),
        ({"width": -1}, "the image size is 224 x -1; both must be at least 1 pixel"),
        ({"shortest_edge": 223}, "shortest_edge is 223; it must be at least 224"),
        ({"height": 30, "width": 50, "shortest_edge": 40}, "shortest_edge is 40; it must be at least 50"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'; choose bilinear or bicubic"),
    ],
)
def test_numbers_out_of_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        DiptychImageProcessor(**options)


FIELDS = {
    "height": 10,
    "width": 12,
    "shortest_edge": 20,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bicubic",
}


@pytest.mark.parametrize("fields", [FIELDS, FIELDS | {"shortest_edge": None}], ids=["cut", "scaled"])
def test_a_saved_image_processor_keeps_every_field(fields, tmp_path):
    ours = DiptychImageProcessor(**fields)
    ours.save_pretrained(tmp_path)
    again = DiptychImageProcessor.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in fields} == fields
    assert torch.equal(again(noise(50, 40))["pixel_values"], ours(noise(50, 40))["pixel_values"])


# images and sentences


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
    batch = DiptychProcessor(DiptychImageProcessor(height=2, width=2), left)(text=["blue", "a red shirt"])
    assert batch["input_ids"][0].tolist() == [CLS, 7, SEP, PAD, PAD]


@pytest.mark.parametrize("max_length", [3, 5])
def test_long_texts_are_cut_and_still_end_as_a_sentence(max_length):
    ours = DiptychProcessor(DiptychImageProcessor(height=2, width=2), tokenizer(), max_length=max_length)
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
