"""Pictures of 12, 16 and 32 bits a pixel, and those that carry megabytes of text: read whole, or refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from PIL import Image, PngImagePlugin

from .corpus import encoded

RAMP = np.linspace(0, 1, 16, dtype=np.float32).reshape(2, 8)
GREY = np.round(RAMP * 255).astype(np.uint8)


def fractions(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.float32)), "TIFF")


def tiff(values: np.ndarray, bits: int) -> bytes:
    """A grey TIFF of `bits` a pixel, as scanners and microscopes write it: Pillow reads these and writes none."""
    if bits == 16:
        return encoded(Image.fromarray(values.astype(np.uint16)), "TIFF")
    height, width = values.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("top", [1, 0.5, 255, 65535, 30000])
def test_floats_are_fractions_or_numbers_of_8_or_16_bits(top):
    white = next(white for white in (1, 255, 65535) if top <= white)
    image = np.asarray(read_image(fractions(RAMP * top)))
    expected = np.round(RAMP * top / white * 255).astype(np.uint8)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -0.001], ids=str)
def test_a_pixel_that_is_no_number_changes_no_other(odd):
    values = RAMP.copy()
    values[0, 0] = odd
    image = np.asarray(read_image(fractions(values)))[..., 0]
    assert image[0, 0] == (255 if odd == np.inf else 0)
    np.testing.assert_array_equal(image.ravel()[1:], GREY.ravel()[1:])


@pytest.mark.parametrize("values", [RAMP * 1.2, RAMP * 9, RAMP * 2 - 1, RAMP * 1e6, (RAMP - 0.5) * 400])
def test_floats_that_do_not_tell_what_is_white_are_refused(values):
    with pytest.raises(BadImage, match=r"pixels are from .* to .*, so that nothing tells what is white") as caught:
        read_image(fractions(values))
    assert caught.value.status == "image_unreadable"


def test_integers_of_32_bits_that_are_no_16_are_refused():
    with pytest.raises(BadImage, match=r"pixels are from 0 to 70000, so that nothing tells what is white"):
        read_image(Image.new("I", (2, 2), 70000))


def test_floats_of_a_table_are_read_alike():
    assert np.asarray(read_image(Image.fromarray(RAMP)))[..., 0].tolist() == GREY.tolist()


@pytest.mark.parametrize("bits", [12, 16])
def test_white_is_white_whatever_the_depth(bits):
    values = np.round(RAMP * (2**bits - 1)).astype(int)
    np.testing.assert_array_equal(np.asarray(read_image(tiff(values, bits)))[..., 0], GREY)


def test_a_dark_picture_of_12_bits_stays_dark():
    assert read_image(tiff(np.full((2, 2), 16), 12)).getpixel((0, 0)) == (1, 1, 1)


def test_a_palette_and_inks_of_a_tiff_are_its_colours():
    colours = Image.fromarray(np.repeat(GREY[..., None], 3, axis=2))
    for image in (colours.quantize(), colours.convert("CMYK")):
        read = np.asarray(read_image(encoded(image, "TIFF")), dtype=int)
        assert np.abs(read[..., 0] - GREY).max() < 4, image.mode


# text within a picture


def with_text(size: int, *, compressed: bool = True) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "x" * size, zip=compressed)
    text.add_itxt("workflow", "y" * size, zip=compressed)
    return encoded(Image.fromarray(GREY), "PNG", pnginfo=text)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("size", [10, 1_100_000, 3_000_000])
def test_a_whole_picture_is_read_however_much_text_it_carries(size, compressed):
    before = PngImagePlugin.MAX_TEXT_CHUNK
    np.testing.assert_array_equal(np.asarray(read_image(with_text(size, compressed=compressed)))[..., 0], GREY)
    assert before == PngImagePlugin.MAX_TEXT_CHUNK


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_text_that_would_fill_the_memory_is_refused_in_pillows_words(kind):
    content = b"a\0\0" + zlib.compress(bytes(70_000_000))
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    data = encoded(Image.fromarray(GREY), "PNG")
    with pytest.raises(BadImage, match=r"^the image .*: Decompressed data too large"):
        read_image(data[:33] + chunk + data[33:])
