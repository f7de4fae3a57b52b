"""Large JPEGs are decoded at the least scale that will do."""

from __future__ import annotations

import io

import numpy as np
import pytest
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import picture_box, read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from .test_images import STORED, encoded


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Something like a photo: shapes with edges, and a little noise."""
    generator = np.random.default_rng(width * height)
    shapes = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = pixels + generator.normal(0, 5, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), least=st.tuples(*[st.integers(1, 200)] * 2))
def test_a_jpeg_is_decoded_at_the_least_scale_that_will_do(width, height, least):
    file = encoded(Image.new("RGB", (width, height), "red"), "JPEG")
    scale = next(s for s in (8, 4, 2, 1) if s == 1 or (height // least[0] >= s and width // least[1] >= s))
    image = read_image(file, at_least=least)
    assert image.size == (-(-width // scale), -(-height // scale))
    assert picture_box(image) == (0, 0, width / scale, height / scale)
    assert read_image(file).size == (width, height)


@pytest.mark.parametrize(("least", "form"), [((151, 201), "JPEG"), ((101, 100), "JPEG"), ((10, 10), "PNG")])
def test_what_is_not_much_larger_or_no_jpeg_is_decoded_as_ever(least, form):
    file = encoded(photo(400, 300) if least[0] == 151 else photo(401, 201), form)
    image, whole = read_image(file, at_least=least), read_image(file)
    assert image.size == whole.size
    assert image.tobytes() == whole.tobytes()
    assert picture_box(image) == (0, 0, *whole.size)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(401, 303), (400, 304), (407, 397)])
def test_a_drafted_picture_is_upright_and_says_where_it_lies(orientation, size):
    upright = np.asarray(photo(*size))
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    file = encoded(stored, "JPEG", quality=95, exif=tags)
    image = read_image(file, at_least=(75, 100))  # high and wide as people see it
    assert image.size == (-(-size[0] // 4), -(-size[1] // 4))
    box = picture_box(image)
    assert (box[2] - box[0], box[3] - box[1]) == (size[0] / 4, size[1] / 4)
    small = [one.resize((32, 24), box=picture_box(one)) for one in (image, read_image(file))]
    difference = np.abs(np.subtract(*(np.asarray(one, dtype=np.float32) for one in small)))
    assert difference.mean() < 0.6
    assert difference.max() < 8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_red_green_and_blue_is_drafted_too(mode, progressive):
    file = encoded(photo(640, 480, mode), "JPEG", progressive=progressive)
    image = read_image(file, at_least=(60, 80))
    assert (image.mode, image.size) == ("RGB", (80, 60))
    difference = np.subtract(image, read_image(file).resize((80, 60), Image.Resampling.BOX), dtype=np.float32)
    assert np.abs(difference).mean() < 3


def test_a_camera_that_stores_two_pictures_in_a_jpeg_is_drafted_too():
    file = encoded(photo(640, 480), "MPO", save_all=True, append_images=[Image.new("RGB", (640, 480))])
    with Image.open(io.BytesIO(file)) as opened:
        assert opened.format == "MPO"
    assert read_image(file, at_least=(60, 80)).size == (80, 60)


@settings(max_examples=40, deadline=None)
@given(kept=st.floats(0, 0.98), progressive=st.booleans())
def test_a_truncated_jpeg_is_refused_at_any_scale(kept, progressive):
    file = encoded(photo(640, 480), "JPEG", progressive=progressive)
    cut = file[: int(len(file) * kept)]
    words = []
    for least in (None, (60, 80), (1, 1)):
        with pytest.raises(BadImage) as refused:
            read_image(cut, at_least=least)
        words.append((refused.value.status, str(refused.value)))
    assert words[0] == words[1] == words[2]


def test_the_limit_is_that_of_the_whole_jpeg(monkeypatch):
    file = encoded(photo(640, 480), "JPEG")
    monkeypatch.setattr("diptych.pipeline.data.images.MAX_PIXELS", 640 * 480 - 1)
    with pytest.raises(BadImage, match="640 x 480") as refused:
        read_image(file, at_least=(60, 80))
    assert refused.value.status == "image_too_large"


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("wrap", [lambda image: image, lambda image: {"bytes": image, "path": None}])
def test_a_picture_that_the_caller_opened_is_not_drafted(loaded, wrap, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(encoded(photo(640, 480), "JPEG"))
    with Image.open(tmp_path / "photo.jpg") as given:
        if loaded:
            given.load()
        image = read_image(wrap(given), at_least=(60, 80))
        assert given.size == image.size == (640, 480)
        assert image.tobytes() == read_image(tmp_path / "photo.jpg").tobytes()
        assert given.convert("RGB").tobytes() == image.tobytes()


def test_a_copy_of_another_size_forgets_where_the_picture_lay():
    image = read_image(encoded(photo(403, 303), "JPEG"), at_least=(75, 100))
    assert picture_box(image) == (0, 0, 403 / 4, 303 / 4)
    assert picture_box(image.resize((20, 10))) == (0, 0, 20, 10)
