"""From images to tensors: torchvision's numbers, and a saved copy that does the same."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from diptych.encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, resnet_preprocessing
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from diptych.pipeline.runtime.choices import IMAGE_FITS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from ...conftest import sized

BOX = {"height": 4, "width": 4}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    return noise(max(2, width // 12), max(2, height // 12)).resize((width, height), Image.Resampling.BICUBIC)


def difference(first: Image.Image, second: Image.Image) -> int:
    """The largest, in grey levels of 0 to 255."""
    assert first.size == second.size
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


SIZES = [(300, 300), (301, 400), (400, 301), (641, 480), (97, 53), (500, 333), (1000, 90), (60, 80), (233, 232)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("edge", "crop"), [(256, 224), (232, 224), (64, 56), (224, 224)])
@pytest.mark.parametrize(("interpolation", "picture"), [("bilinear", noise), ("bilinear", smooth), ("bicubic", smooth)])
def test_the_centre_is_torchvisions_to_2_grey_levels_of_255(size, edge, crop, interpolation, picture):
    # ours scales and cuts in one step, where torchvision rounds to whole pixels in between
    image = picture(*size)
    ours = sized(crop, crop, edge, interpolation=interpolation)
    scaled = reference.resize(image, edge, interpolation=InterpolationMode(interpolation))
    assert difference(ours.resize(image), reference.center_crop(scaled, crop)) <= 2


@pytest.mark.parametrize(
    ("name", "weights", "crop", "edge"),
    [("resnet50", ResNet50_Weights.IMAGENET1K_V2, 224, 232), ("resnet18", ResNet18_Weights.IMAGENET1K_V1, 224, 256)],
)
def test_pretrained_encoders_bring_the_numbers_of_their_weights(name, weights, crop, edge):
    ours = DiptychImageProcessor.of(resnet_preprocessing(name), fit="crop")
    preset = weights.transforms()
    assert (ours.height, ours.width, ours.shortest_edge) == (crop, crop, edge)
    assert (preset.crop_size, preset.resize_size) == ([crop], [edge])
    assert (ours.image_mean, ours.image_std) == (preset.mean, preset.std) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert ours.interpolation == preset.interpolation.value
    image = smooth(320, 240)
    # two grey levels of 255, divided by the smallest deviation
    torch.testing.assert_close(ours(image)["pixel_values"][0], preset(image), atol=2 / 255 / 0.224, rtol=0)


def test_random_encoders_take_the_usual_numbers():
    ours = DiptychImageProcessor.of(Preprocessing(), fit="crop")
    assert (ours.height, ours.width, ours.shortest_edge, ours.interpolation) == (224, 224, 256, "bilinear")


@pytest.mark.parametrize("fit", IMAGE_FITS)
def test_transforms_are_made_again_from_their_own_numbers(fit):
    ours = DiptychImageProcessor.of(Preprocessing(20, 24, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic"), fit=fit)
    again = DiptychImageProcessor.of(ours.preprocessing, fit=ours.fit)
    assert ours.fit == fit
    assert again.to_dict() == ours.to_dict()
    halved = DiptychImageProcessor.of(ours.preprocessing, fit=fit, size=(10, 12))
    assert (halved.height, halved.width) == (10, 12)
    assert halved.shortest_edge == (16 if fit == "crop" else None)


def test_a_fit_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"^image_fit is 'stretch'; choose one of "):
        DiptychImageProcessor.of(Preprocessing(), fit="stretch")


def test_new_transforms_show_the_whole_picture():
    """Four corners of a wide picture and of a high one are seen; a crop of the centre sees none."""
    for width, height in ((400, 100), (60, 80)):
        image = Image.new("RGB", (width, height), "black")
        side = min(width, height) // 4
        for left in (0, width - side):
            for top in (0, height - side):
                image.paste((255, 0, 0), (left, top, left + side, top + side))
        red = [(np.asarray(ours.resize(image))[..., 0] > 200).mean() for ours in map(in_fit, (None, "crop"))]
        assert red[0] > 0.01
        assert red[1] < red[0]
    assert (np.asarray(in_fit("crop").resize(picture_with_ends(400, 100)))[..., 0] > 200).sum() == 0


def in_fit(fit: str | None) -> DiptychImageProcessor:
    return DiptychImageProcessor.of(Preprocessing(64, 64, 72), fit=fit)


def picture_with_ends(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), "black")
    image.paste((255, 0, 0), (0, 0, width // 8, height))
    return image


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=100, deadline=None)
def test_a_padded_picture_keeps_its_proportions_between_bars_of_the_mean(size, wanted):
    height, width = wanted
    ours = DiptychImageProcessor(size={"height": height, "width": width}, do_pad=True, image_mean=[0.2, 0.4, 0.6])
    shown = np.asarray(ours.resize(Image.new("RGB", size, "white")))
    assert shown.shape == (height, width, 3)
    bars = (shown == [51, 102, 153]).all(-1)
    rows, columns = (~bars).any(1).sum(), (~bars).any(0).sum()
    assert rows == height or columns == width
    assert rows * columns == (~bars).sum()
    assert abs(rows - columns * size[1] / size[0]) <= 1 + size[1] / size[0] / 2 or 1 in (rows, columns)


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_without_a_shortest_edge_the_whole_picture_is_scaled(interpolation):
    image = noise(50, 20)
    ours = sized(30, 16, interpolation=interpolation)
    assert difference(ours.resize(image), image.resize((16, 30), RESAMPLING[interpolation])) == 0


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
@pytest.mark.parametrize("edge", [None, 256])
def test_a_picture_of_extreme_form_is_scaled_like_any_other(size, edge):
    ours = sized(224, 224, edge)
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
    ours = sized(height, width, max(wanted) + beyond)
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
    ours = sized(height, width, edge, interpolation=interpolation)
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
    ours = sized(1, 2, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.25, 2.0))
    image = Image.fromarray(np.array([[[255, 0, 51], [0, 255, 255]]], np.uint8))
    expected = [[[1.8, -0.2]], [[-0.8, 3.2]], [[-0.05, 0.35]]]
    torch.testing.assert_close(ours.normalize(image), torch.tensor(expected))
    torch.testing.assert_close(ours(image)["pixel_values"], torch.tensor([expected]))


def test_images_of_any_kind_make_a_batch_and_none_is_absent(tmp_path):
    image = noise(9, 9)
    image.save(tmp_path / "a.png")
    ours = sized(6, 8)
    ready = ours.normalize(ours.resize(image))
    batch = ours([image, None, str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), ready])
    assert batch["pixel_values"].shape == (5, 3, 6, 8)
    assert batch["image_present"].tolist() == [True, False, True, True, True]
    assert not batch["pixel_values"][1].any()
    for row in (0, 2, 3, 4):
        assert torch.equal(batch["pixel_values"][row], ready)


def test_tensors_of_bytes_are_pictures_and_tensors_of_fractions_are_ready():
    ours, image = sized(6, 8), noise(9, 7)
    expected = ours(image)["pixel_values"]
    tensor = torch.from_numpy(np.array(image))
    for picture in (tensor, tensor.permute(2, 0, 1)):
        assert torch.equal(ours(picture)["pixel_values"], expected)
    assert torch.equal(ours(expected[0])["pixel_values"], expected)
    assert np.array_equal(ours(image, return_tensors="np")["pixel_values"], expected.numpy())
    with pytest.raises(ValueError, match=r"normalised pixels \(3, 6, 8\), and one is \(3, 7, 9\); give pictures as"):
        ours(tensor.permute(2, 0, 1) / 255)
    with pytest.raises(ValueError, match="return_tensors is 'tf'; choose pt or np"):
        ours(image, return_tensors="tf")
    with pytest.raises(TypeError, match="do_normalize"):
        ours(image, do_normalize=False)


def test_an_image_that_cannot_be_used_is_an_error():
    with pytest.raises(BadImage, match=r"gone\.png does not exist"):
        DiptychImageProcessor()(["gone.png"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": {"height": 0, "width": 224}}, "the image size is 0 x 224; both must be at least 1 pixel"),
        ({"size": {"height": 224, "width": -1}}, "the image size is 224 x -1; both must be at least 1 pixel"),
        (
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 30, "width": 50}},
            "shortest_edge is 40; .* 50",
        ),
        ({"size": {"height": 30}}, "size is {'height': 30}; give height and width, or shortest_edge, in pixels"),
        (
            {"size": {"shortest_edge": 40}},
            "crop_size is None; give its height and .* shortest_edge only",
        ),
        (
            {"crop_size": {"height": 3, "width": 3}},
            "crop_size is .*; give its height .* shortest_edge only",
        ),
        ({"do_normalize": False}, "do_normalize is nothing that this image processor does; it has size, .*"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; choose one of nearest, .*bilinear.*"),
        ({"size": {"shortest_edge": 9}, "crop_size": BOX, "do_pad": True}, "do_pad is True; .* height and width only"),
    ],
)
def test_numbers_out_of_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        DiptychImageProcessor(**options)


FIELDS = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 10, "width": 12},
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "interpolation": "bicubic",
    "do_pad": False,
}
WHOLE = FIELDS | {"size": {"height": 10, "width": 12}, "crop_size": None}
PADDED = WHOLE | {"do_pad": True}
OLD = {"height": 10, "width": 12, "shortest_edge": 20, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(("old", "fields"), [(OLD, FIELDS), (OLD | {"shortest_edge": None}, WHOLE)])
def test_names_of_0_3_are_read_with_a_warning_and_from_saved_folders_without(old, fields, tmp_path):
    old = old | {"interpolation": "bicubic"}
    with pytest.warns(FutureWarning, match="height, mean, shortest_edge, std, width: names of Diptych 0.3"):
        ours = DiptychImageProcessor(**old)
    assert {name: getattr(ours, name) for name in fields} == fields
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    again = DiptychImageProcessor.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in fields} == fields


@pytest.mark.parametrize("fields", [FIELDS, WHOLE, PADDED], ids=["cut", "scaled", "padded"])
def test_a_saved_image_processor_keeps_every_field(fields, tmp_path):
    ours = DiptychImageProcessor(**fields)
    ours.save_pretrained(tmp_path)
    again = DiptychImageProcessor.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in fields} == fields
    assert torch.equal(again(noise(50, 40))["pixel_values"], ours(noise(50, 40))["pixel_values"])
