"""Whatever stands for an image becomes an upright RGB picture, or a word why not; the source stays as it is."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from diptych.pipeline.data.images import MAX_PIXELS, BadImage, picture_box, read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

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


# what cannot be used


@pytest.mark.parametrize(
    "source", [None, float("nan"), "", {"bytes": None, "path": None}, {"bytes": None, "path": ""}, {}]
)
def test_nothing_is_a_missing_image(source):
    assert refusal(source).status == "image_missing"


def test_a_missing_file_is_named(tmp_path):
    error = refusal(tmp_path / "gone.png")
    assert (error.status, str(tmp_path / "gone.png") in str(error)) == ("image_missing", True)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "s3://bucket/a.png", "file:///a.png"])
def test_a_url_is_not_followed_and_the_reason_says_so(url):
    error = refusal(url)
    assert (error.status, str(error).startswith(url)) == ("image_missing", True)
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
        np.zeros((4, 5, 3)),
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
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (MAX_PIXELS + 1, 1)])
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
