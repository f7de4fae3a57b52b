"""What is no image, or cannot be decoded whole, is refused with its reason."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pytest
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import MAX_PIXELS, read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from .test_images import lying_png, noise, refusal

# what cannot be used


@pytest.mark.parametrize(
    "source", [None, float("nan"), "", {"bytes": None, "path": None}, {"bytes": None, "path": ""}, {}]
)
def test_nothing_is_a_missing_image(source):
    assert refusal(source).status == "image_missing"


def test_a_missing_file_is_named(tmp_path):
    error = refusal(tmp_path / "gone.png")
    assert (error.status, str(tmp_path / "gone.png") in str(error)) == ("image_missing", True)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "S3://bucket/a.png", " ftp://example.com/a.png"])
def test_a_url_is_not_followed_and_the_reason_says_so(url):
    error = refusal(url)
    assert (error.status, url in str(error)) == ("image_missing", True)
    assert "download" in str(error)


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("a.png", noise())
    else:
        with tarfile.open(fileobj=file, mode="w") as packed:
            member = tarfile.TarInfo("a.png")
            member.size = len(noise())
            packed.addfile(member, io.BytesIO(noise()))
    return file.getvalue()


UNREADABLE = {
    "empty": b"",
    "junk": b"hello world, this is no picture" * 10,
    "text": b"image,text\na.png,b\n",
    "zip": archive("zip"),
    "tar": archive("tar"),
    **{f"jpeg cut at {cut:.0%}": noise("JPEG")[: int(len(noise("JPEG")) * cut)] for cut in (0.01, 0.3, 0.6, 0.9, 0.99)},
    **{
        f"png cut at {cut:.0%}": noise("PNG")[: int(len(noise("PNG")) * cut)]
        for cut in (0.001, 0.01, 0.3, 0.6, 0.9, 0.99)
    },
    **{f"gif cut at {cut:.0%}": noise("GIF")[: int(len(noise("GIF")) * cut)] for cut in (0.3, 0.9)},
    **{f"webp cut at {cut:.0%}": noise("WEBP")[: int(len(noise("WEBP")) * cut)] for cut in (0.3, 0.9)},
}


@pytest.mark.parametrize("wrap", ["path", "dict"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_decoded_whole_is_named(kind, wrap, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(UNREADABLE[kind])
    error = refusal(path if wrap == "path" else {"bytes": UNREADABLE[kind], "path": "broken.jpg"})
    assert (error.status, "broken.jpg" in str(error)) == ("image_unreadable", True)


def test_a_directory_is_named(tmp_path):
    error = refusal(tmp_path)
    assert (error.status, str(tmp_path) in str(error)) == ("image_unreadable", True)


def test_a_path_that_no_system_allows_is_unreadable():
    assert refusal("a\0b.png").status == "image_unreadable"


@pytest.mark.parametrize(
    "source", [3, 2.5, ["a.png"], ("a.png",), {"url": "a.png"}, object()], ids=lambda s: type(s).__name__
)
def test_another_type_is_named(source):
    error = refusal(source)
    assert (error.status, f"a {type(source).__name__} is no image" in str(error)) == ("image_unreadable", True)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 5, 3), 99.5),
        np.full((4, 5, 3), -0.5),
        np.full((4, 5, 3), np.nan),
        np.zeros((4, 5, 3), np.int64),
        np.zeros((4, 5), complex),
        np.zeros(5, np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((4, 5, 5), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_an_array_of_another_form_is_named_by_its_shape(array):
    error = refusal(array)
    assert (error.status, str(array.shape) in str(error)) == ("image_unreadable", True)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_unreadable(size):
    assert refusal(Image.new("RGB", size)).status == "image_unreadable"


@pytest.mark.parametrize("limited", [True, False], ids=["with Pillow's own limit", "without"])
@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (MAX_PIXELS + 1, 1), (170_000_000, 1), (1, 170_000_000), (2_000_000, 80)]
)
def test_too_many_pixels_are_refused_before_decoding(width, height, limited, tmp_path, monkeypatch):
    def decode(self):
        raise AssertionError("memory would be taken here")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    if not limited:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(lying_png(width, height))
    error = refusal(path)
    assert (error.status, "bomb.png" in str(error)) == ("image_too_large", True)


def test_a_picture_just_small_enough_is_decoded(monkeypatch):
    monkeypatch.setattr("diptych.pipeline.data.images.MAX_PIXELS", 40 * 30)
    assert read_image(noise()).size == (40, 30)
    monkeypatch.setattr("diptych.pipeline.data.images.MAX_PIXELS", 40 * 30 - 1)
    assert refusal(noise()).status == "image_too_large"


def test_the_switches_of_pillow_stay_as_they_are():
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    read_image(noise())
    for source in (noise("JPEG")[:700], lying_png(60_000, 60_000), b"junk", None):
        refusal(source)
    after = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    assert before == after


def outcome(source) -> str:
    """RGB or the status of a source of which nothing is known; any other error goes through."""
    try:
        return read_image(source).mode
    except BadImage as error:
        return error.status


OUTCOMES = ("RGB", "image_unreadable", "image_too_large")
MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF", b"II*\0", b"P6 "]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_picture_or_a_bad_image(magic, data):
    assert outcome(magic + data) in OUTCOMES


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]), st.floats(0, 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_a_picture_or_a_bad_image(form, where, change):
    data = bytearray(noise(form, (9, 7)))
    data[int(where * (len(data) - 1))] ^= change
    assert outcome(bytes(data)) in OUTCOMES
