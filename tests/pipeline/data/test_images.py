"""Whatever stands for an image becomes an upright RGB picture, or a word why not; the source stays as it is."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from PIL import Image

CORNERS = {(0, 0): "red", (0, -1): "lime", (-1, 0): "blue", (-1, -1): "yellow"}  # by row and column
RGB = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}

STORED = {  # how a camera that wrote each orientation stores an upright picture, from the EXIF standard
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.swapaxes(0, 1),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),
    8: lambda up: np.rot90(up, -1),
}


def quarters() -> np.ndarray:
    """32 pixels wide and 16 high, each quarter of its own colour."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    for (row, column), colour in CORNERS.items():
        pixels[slice(8) if row == 0 else slice(8, 16), slice(16) if column == 0 else slice(16, 32)] = RGB[colour]
    return pixels


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(form: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), form)


def lying_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def pixel(source, place: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = read_image(source)
    assert image.mode == "RGB"
    return image.getpixel(place)


def refusal(source, **options) -> BadImage:
    with pytest.raises(BadImage) as caught:
        read_image(source, **options)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    return caught.value


# what can stand for an image


@pytest.mark.parametrize(
    "kind", ["path", "str", "bytes", "bytearray", "memoryview", "dict", "dict path", "PIL", "array"]
)
def test_every_kind_of_source_gives_the_same_picture(kind, tmp_path):
    path = tmp_path / "quarters.png"
    path.write_bytes(encoded(Image.fromarray(quarters())))
    data = path.read_bytes()
    source = {
        "path": path,
        "str": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "dict": {"bytes": data, "path": "elsewhere.png"},
        "dict path": {"bytes": None, "path": str(path)},
        "PIL": Image.fromarray(quarters()),
        "array": quarters(),
    }[kind]
    image = read_image(source)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), quarters())


@pytest.mark.parametrize("wrap", [str, Path, lambda path: {"bytes": None, "path": path}])
def test_relative_paths_start_at_the_folder_given(wrap, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(noise())
    assert read_image(wrap("pictures/a.png"), folder=tmp_path).size == (40, 30)
    assert read_image(wrap(str(tmp_path / "pictures" / "a.png")), folder=Path("/nowhere")).size == (40, 30)
    assert refusal(wrap("pictures/a.png"), folder=tmp_path / "pictures").status == "image_missing"


def test_relative_paths_start_at_the_current_directory_if_no_folder_is_given(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(noise())
    monkeypatch.chdir(tmp_path)
    assert read_image("a.png").size == (40, 30)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5), (7, 7, 7)), ((4, 5, 1), (7, 7, 7)), ((4, 5, 3), (7, 7, 7)), ((4, 5, 4), (248, 248, 248))],
)
def test_arrays_are_grey_colour_or_colour_with_alpha(shape, expected):
    image = read_image(np.full(shape, 7, np.uint8))
    assert image.size == (5, 4)
    assert image.getpixel((2, 2)) == expected  # 7 of 255 opaque over white is 248


# upright


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_come_out_upright(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters())))
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    image = read_image(encoded(stored, form, exif=exif, **options))
    assert image.size == (32, 16)
    for place, colour in CORNERS.items():
        np.testing.assert_allclose(np.asarray(image)[place], RGB[colour], atol=8)
    again = read_image(encoded(image, exif=image.getexif()))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image), err_msg="turned twice")


def test_a_pil_image_is_turned_upright_too():
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](quarters())))
    stored.getexif()[0x0112] = 6
    np.testing.assert_array_equal(np.asarray(read_image(stored)), quarters())


# colours


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(255, (255, 0, 0)), (0, (255, 255, 255)), (102, (255, 153, 153))],
    ids=["full", "none", "40%"],
)
def test_rgba_lies_over_white(alpha, expected):
    assert pixel(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, alpha)))) == expected


@pytest.mark.parametrize(("alpha", "expected"), [(255, 0), (0, 255), (102, 153)])
def test_grey_with_alpha_lies_over_white(alpha, expected):
    assert pixel(encoded(Image.new("LA", (2, 2), (0, alpha)))) == (expected,) * 3


def test_premultiplied_alpha_lies_over_white():
    assert pixel(Image.new("RGBA", (2, 2), (255, 0, 0, 102)).convert("RGBa")) == (255, 153, 153)


def two_colours(mode: str, first, second) -> Image.Image:
    image = Image.new(mode, (2, 1), first)
    image.putpixel((1, 0), second)
    return image


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (two_colours("P", 0, 1), 0),
        (two_colours("P", 0, 1), b"\x00\xff"),
        (two_colours("L", 9, 30), 9),
        (two_colours("RGB", (9, 8, 7), (30, 30, 30)), (9, 8, 7)),
        (two_colours("1", 0, 1), 0),
    ],
    ids=["palette", "palette with alphas", "grey", "colour", "1 bit"],
)
def test_the_transparent_colour_of_a_png_is_white_and_the_others_stay(image, transparent):
    if image.mode == "P":
        image.putpalette([9, 8, 7, 30, 30, 30])
    data = encoded(image, transparency=transparent)
    assert pixel(data, (0, 0)) == (255, 255, 255)
    assert pixel(data, (1, 0)) == ((255,) * 3 if image.mode == "1" else (30, 30, 30))


def test_the_transparent_colour_of_a_gif_is_white():
    image = two_colours("P", 0, 1)
    image.putpalette([9, 8, 7, 30, 30, 30])
    data = encoded(image, "GIF", transparency=0)
    assert pixel(data, (0, 0)) == (255, 255, 255)
    assert pixel(data, (1, 0)) == (30, 30, 30)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(form):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    image = read_image(encoded(Image.fromarray(values), form))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


def test_a_dark_16_bit_picture_stays_dark():
    assert pixel(encoded(Image.fromarray(np.full((2, 2), 200, np.uint16)))) == (1, 1, 1)


def test_32_bit_grey_is_8_or_16_bit_grey_in_a_wide_coat():
    assert pixel(Image.new("I", (1, 1), 200)) == (200, 200, 200)
    assert pixel(Image.new("I", (1, 1), 128 * 257)) == (128, 128, 128)
    assert pixel(Image.new("F", (1, 1), 200.4)) == (200, 200, 200)
    assert pixel(Image.new("I", (1, 1), -5)) == (0, 0, 0)


def test_1_bit_is_black_and_white():
    data = encoded(two_colours("1", 0, 1))
    assert (pixel(data, (0, 0)), pixel(data, (1, 0))) == ((0, 0, 0), (255, 255, 255))


def test_a_cmyk_jpeg_has_its_colours():
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == "CMYK"
    np.testing.assert_allclose(pixel(data), (255, 0, 0), atol=5)


def test_a_palette_gives_its_colours():
    image = two_colours("P", 0, 1)
    image.putpalette([200, 100, 50, 1, 2, 3])
    data = encoded(image)
    assert (pixel(data, (0, 0)), pixel(data, (1, 0))) == ((200, 100, 50), (1, 2, 3))


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "RGBX", "PA", "I;16B"])
def test_every_other_mode_becomes_rgb(mode):
    assert read_image(Image.new(mode, (3, 2))).mode == "RGB"


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.n_frames == 3
    assert pixel(data) == (255, 0, 0)


# the source stays as it is


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I", "I;16", "F"])
def test_a_pil_image_is_never_changed(mode):
    source = Image.new(mode, (6, 4))
    source.getexif()[0x0112] = 6
    before = (source.mode, source.size, source.tobytes(), dict(source.getexif()), dict(source.info))
    image = read_image(source)
    image.paste((1, 2, 3), (0, 0, *image.size))
    assert (source.mode, source.size, source.tobytes(), dict(source.getexif()), dict(source.info)) == before


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_an_array_is_never_changed(shape):
    source = np.full(shape, 7, np.uint8)
    read_image(source).paste((1, 2, 3), (0, 0, 5, 4))
    assert (source == 7).all()


def test_a_dict_is_never_changed():
    source = {"bytes": noise(), "path": "a.png"}
    read_image(source)
    assert source == {"bytes": noise(), "path": "a.png"}
