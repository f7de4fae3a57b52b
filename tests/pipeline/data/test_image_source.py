"""However a row writes down its image, the same picture; and what stands in an image's place is called by its name."""

from __future__ import annotations

import base64
import errno
import io
import os
import unicodedata
from pathlib import Path
from urllib.parse import quote

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from diptych.pipeline.data import image_source
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import image_content, read_image
from diptych.pipeline.data.read import read_data
from diptych.pipeline.data.rows import Columns, read_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from .corpus import encoded

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
FILES = {form: encoded(Image.fromarray(PIXELS), form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")}
NAME = "Café photo (1).png"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a table lies; the photo in a folder beside it, which is also the home folder."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / NAME).write_bytes(FILES["PNG"])
    monkeypatch.setenv("HOME", str(tmp_path / "photos"))
    return tmp_path


def refusal(source, **options) -> BadImage:
    with pytest.raises(BadImage) as caught:
        read_image(source, **options)
    assert "\n" not in str(caught.value)
    return caught.value


SPELLINGS = {
    "as it stands": lambda folder: f"photos/{NAME}",
    "blanks around it": lambda folder: f"  photos/{NAME}\t\n",
    "no-break space": lambda folder: f"\u00a0photos/{NAME}",
    "Windows": lambda folder: f"photos\\{NAME}",
    "Windows with a dot": lambda folder: f".\\photos\\{NAME} ",
    "home": lambda folder: f"~/{NAME}",
    "home of Windows": lambda folder: f" ~\\{NAME}",
    "absolute": lambda folder: str(folder / "photos" / NAME),
    "accents apart": lambda folder: unicodedata.normalize("NFD", f"photos/{NAME}"),
    "file URI": lambda folder: (folder / "photos" / NAME).as_uri(),
    "file URI of this host": lambda folder: f"FILE://localhost{quote(str(folder / 'photos' / NAME))}",
    "short file URI": lambda folder: f" file:{quote(str(folder / 'photos' / NAME))}",
    "a path object": lambda folder: Path("photos") / NAME,
}


@pytest.mark.parametrize("wrap", [lambda source: source, lambda source: {"bytes": None, "path": source}])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_path_is_found_however_it_is_written(spelling, wrap, folder):
    source = wrap(SPELLINGS[spelling](folder))
    np.testing.assert_array_equal(read_image(source, folder=folder), PIXELS)
    assert image_content(source, folder=folder) == (b"file", FILES["PNG"]), "the cache reads it too"


def test_a_name_that_is_there_as_it_stands_wins(folder):
    (folder / "photos\\a.png").write_bytes(FILES["BMP"])
    (folder / "photos" / "a.png").write_bytes(FILES["PNG"][:50])
    (folder / " b.png ").write_bytes(FILES["PNG"])
    assert read_image("photos\\a.png", folder=folder).size == (16, 12)
    assert read_image(" b.png ", folder=folder).size == (16, 12)


@pytest.mark.parametrize(
    "path",
    ["photos\\gone.png", " gone.png", "~/gone.png", "~nobody-of-that-name/a.png", "file:///gone.png", "C:\\a.png"],
)
def test_a_path_that_leads_nowhere_is_missing_and_named(path, folder):
    error = refusal(path, folder=folder)
    assert (error.status, str(error).endswith(" does not exist")) == ("image_missing", True)


def base64_of(form: str) -> str:
    return base64.b64encode(FILES[form]).decode()


@pytest.mark.parametrize("form", FILES)
def test_base64_and_data_uris_are_the_files_that_they_hold(form):
    text = base64_of(form)
    lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n"
    written = [text, text.rstrip("="), text.replace("+", "-").replace("/", "_"), lines, f" {text} "]
    written += [f"data:image/x;base64,{text}", f" DATA:;base64,{quote(text)}", "data:image/x," + quote(FILES[form])]
    for source in [*written, {"bytes": text, "path": None}, {"bytes": text, "path": "a.png"}]:
        assert image_content(source) == (b"file", FILES[form]), source
        assert read_image(source).size == (16, 12)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.binary(min_size=40, max_size=120))
def test_base64_of_any_file_with_a_picture_beginning_is_its_bytes(form, tail):
    content = FILES[form][:12] + tail
    assert image_content(base64.b64encode(content).decode()) == (b"file", content)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", "is no image that can be decoded"),
        ("data:image/png;base64,%%%", "no valid base64"),
        ("data:image/png", "has no comma before its content"),
        ("/9j/" + "A" * 41, "no valid base64"),
        ("iVBORw0KGgo" + "A" * 81, "is no image that can be decoded"),
    ],
)
def test_what_is_no_base64_of_a_picture_says_why(source, reason):
    error = refusal(source)
    assert (error.status, reason in str(error)) == ("image_unreadable", True), str(error)


def test_a_name_that_looks_like_base64_is_a_path_if_such_a_file_is_there(tmp_path):
    name = "iVBORw0KGgo" + "A" * 60
    (tmp_path / name).write_bytes(FILES["PNG"])
    assert read_image(name, folder=tmp_path).size == (16, 12)
    assert refusal("R0lGOD.png", folder=tmp_path).status == "image_missing"


# pixels in memory


IN_MEMORY = {
    "numpy": PIXELS,
    "numpy of 16 bits": PIXELS.astype(np.uint16) * 257,
    "fractions": PIXELS / np.float64(255),
    "tensor": torch.from_numpy(PIXELS),
    "tensor, colours first": torch.from_numpy(PIXELS).permute(2, 0, 1),
    "tensor of fractions": (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255).requires_grad_(),
    "PIL": Image.fromarray(PIXELS),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_pixels_in_memory_are_the_picture(kind):
    np.testing.assert_array_equal(read_image(IN_MEMORY[kind]), PIXELS)
    assert image_content(IN_MEMORY[kind]) == (b"pixels", b"(16, 12)", PIXELS.tobytes())


@pytest.mark.parametrize("kind", [kind for kind in IN_MEMORY if "16" not in kind])  # of which lists do not tell
@pytest.mark.parametrize("way", ["list", "DataFrame", "Dataset", "with features", "generator", "DatasetDict"])
def test_pixels_in_memory_are_the_picture_on_every_way_in(kind, way):
    image = IN_MEMORY[kind]
    rows = [{"image": image.detach() if isinstance(image, torch.Tensor) else image, "text": "a", "label": "b"}] * 2
    array = datasets.Array3D(shape=(None, 16, 3), dtype="uint8")
    given = {
        "list": lambda: rows,
        "DataFrame": lambda: pd.DataFrame({n: pd.Series([row[n] for row in rows], dtype=object) for n in rows[0]}),
        "Dataset": lambda: datasets.Dataset.from_list(rows),
        "with features": lambda: datasets.Dataset.from_dict(
            {"image": [PIXELS] * 2, "text": ["a"] * 2},
            features=datasets.Features(image=array, text=datasets.Value("string")),
        ),
        "generator": lambda: iter(rows),
        "DatasetDict": lambda: datasets.DatasetDict(train=datasets.Dataset.from_list(rows).with_format("numpy")),
    }[way]()
    read = read_data(given, need_label=False)
    for number in range(2):
        pair = read_pair(number, read.table.rows[number], read.columns)
        assert pair.status == "ok", pair.reason
        np.testing.assert_array_equal(pair.image, PIXELS)


@pytest.mark.parametrize("way", ["list", "DataFrame", "generator"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_on_its_side_is_upright_on_every_way_in(orientation, way):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        rows = [{"image": image, "text": "a"}]
        given = {"list": rows, "DataFrame": pd.DataFrame(rows), "generator": iter(rows)}[way]
        read = read_data(given, need_label=False)
        np.testing.assert_array_equal(read_pair(0, read.table.rows[0], read.columns).image, read_image(data))


def test_boxes_beside_a_path_are_no_picture():
    rows = [{"image": "a.png", "boxes": [[1, 2, 3, 4]], "text": "a"}]
    for data in (rows, datasets.Dataset.from_list(rows)):
        assert read_data(data, need_label=False).columns.image == "image"
    with pytest.raises(ValueError, match="no column looks like the image"):
        read_data([{"boxes": [[1, 2, 3, 4]], "text": "a"}], need_label=False)


@pytest.mark.parametrize("source", [[[1, 2], [3]], [[300, 1], [2, 3]], [["a", "b"]], [[]], [[None, 1]]])
def test_lists_that_are_no_pixels_are_refused(source):
    assert refusal(source).status == "image_unreadable"


@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 1), (12, 16, 4), (1, 12, 16), (4, 12, 16)])
def test_a_grey_or_transparent_tensor_is_read_as_such(shape):
    assert read_image(torch.full(shape, 255, dtype=torch.uint8)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(3, 4, 5), torch.zeros(5, 4, 5), torch.zeros(3, 0, 5), torch.zeros(3, 4, 5, dtype=torch.int64)],
)
def test_another_tensor_is_named_by_its_shape(tensor):
    error = refusal(tensor)
    assert (error.status, str(tuple(tensor.shape)) in str(error)) == ("image_unreadable", True)


# what stands in an image's place


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b"\xef\xbb\xbf<html lang=en>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML document"),
        (b'{"error": "not found"}', "JSON text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "hidden file of macOS"),
        (b"\0\0\0\1Bud1\0\0", "hidden file of macOS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
        (b"PK\3\4\x14\0", "archive"),
    ],
)
def test_what_often_stands_in_an_images_place_is_named(content, words, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    for source in (tmp_path / "a.jpg", {"bytes": content, "path": "a.jpg"}):
        error = refusal(source)
        assert (error.status, words in str(error), "a.jpg" in str(error)) == ("image_unreadable", True, True)


# reading that fails


class Broken(io.BytesIO):
    """A file whose disk fails where it is read from the byte `fails` on."""

    def __init__(self, fails: int) -> None:
        super().__init__(FILES["BMP"])
        self.fails = fails

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("fails", [0, 10, 64, 300])
def test_a_disk_that_fails_makes_a_bad_row(fails, tmp_path, monkeypatch):
    (tmp_path / "a.bmp").write_bytes(FILES["BMP"])
    monkeypatch.setattr(Path, "open", lambda *_, **__: Broken(fails))
    pair = read_pair(0, {"image": "a.bmp", "text": "a"}, Columns("image", "text"), tmp_path)
    assert (pair.status, pair.text) == ("image_unreadable", "a")
    assert f"{tmp_path / 'a.bmp'} cannot be read: Input/output error" in pair.reason
    with pytest.raises(BadImage, match="cannot be read: Input/output error"):
        image_content("a.bmp", folder=tmp_path)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(image_source, "MAX_FILE_BYTES", len(FILES["PNG"]) - 1)
    (tmp_path / "a.png").write_bytes(FILES["PNG"])
    assert refusal(tmp_path / "a.png").status == "image_too_large"
