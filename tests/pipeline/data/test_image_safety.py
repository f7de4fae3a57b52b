"""What is not opened, not followed, not completed and not started; and switches that stay as they were."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from diptych.pipeline.data import images
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from diptych.pipeline.data.tables import load_tables
from PIL import Image, ImageFile

from .corpus import bombs, encoded

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def refusal(source, **options) -> BadImage:
    with pytest.raises(BadImage) as caught:
        read_image(source, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


# archives and addresses


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", encoded(NOISE, "PNG"))
    return file.getvalue()


@pytest.mark.parametrize("wrap", ["bytes", "path", "dict"])
def test_an_archive_is_not_opened_and_the_reason_says_so(wrap, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped())
    source = {"bytes": zipped(), "path": tmp_path / "a.zip", "dict": {"bytes": zipped(), "path": "a.zip"}}[wrap]
    error = refusal(source)
    assert (error.status, str(error).endswith("is an archive, which is not opened: unpack it first")) == (
        "image_unreadable", True
    )  # fmt: skip


def test_a_path_into_an_archive_is_not_followed(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped())
    error = refusal(tmp_path / "a.zip" / "a.png")
    assert (error.status, "archives are not opened; unpack it first" in str(error)) == ("image_missing", True)


@pytest.mark.parametrize("address", ["zip://a.png::a.zip", "gs://bucket/a.png", "hf://datasets/a/b/c.png"])
@pytest.mark.parametrize("wrap", [str, lambda address: {"bytes": None, "path": address}])
def test_an_address_is_not_followed(address, wrap):
    error = refusal(wrap(address))
    assert (error.status, "is a URL, which is not followed: download it first" in str(error)) == ("image_missing", True)


@pytest.mark.parametrize("url", ["https://example.com/pairs.csv", "s3://bucket/pairs.parquet", "hf://datasets/a/b.csv"])
def test_a_table_at_a_url_is_not_followed(url):
    with pytest.raises(ValueError, match=rf"{url} is a URL, which is not followed: download it first"):
        load_tables(url)


@pytest.mark.parametrize("name", ["pairs.zip", "pairs.csv.gz", "pairs.tar"])
def test_a_table_in_an_archive_is_not_opened(name, tmp_path):
    (tmp_path / name).write_bytes(zipped())
    with pytest.raises(ValueError, match=r"is no table: .*; archives are not opened: unpack it first"):
        load_tables(tmp_path / name)


# files that are none


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_a_device_without_end_is_not_read():
    assert refusal("/dev/zero").status == "image_unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert str(refusal(tmp_path / "a.png")).endswith("a.png is no file")


@pytest.mark.parametrize("path", ["a" * 100_000, "a/" * 5000, "a\nb.png", "\ud800.png", "a\0.png", "\u202egnp.a"])
def test_a_path_is_shown_in_one_short_line(path, tmp_path):
    assert refusal(path, folder=tmp_path).status in ("image_missing", "image_unreadable")


def test_a_file_that_starts_another_program_is_no_image(monkeypatch):
    def start(*_, **__):
        raise AssertionError("Ghostscript would run here")

    monkeypatch.setattr(subprocess, "Popen", start)
    assert refusal(encoded(NOISE, "EPS")).status == "image_unreadable"


def test_what_could_not_be_fetched_says_why():
    error = BadImage("image_missing", "hf://a cannot be fetched: 404")
    assert refusal(error) is error


# truncated files and process-wide switches


@pytest.mark.parametrize("completing", [True, False], ids=["another library completes", "nobody does"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_file_is_not_completed_whatever_the_process_does(form, completing, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", completing)
    data = encoded(NOISE, form)
    for share in (0.5, 0.8, 0.95):
        assert refusal(data[: int(len(data) * share)]).status == "image_unreadable"
    assert read_image(data).size == (40, 30)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is completing


def test_the_switches_stay_as_they_were_among_threads(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    sources = [encoded(NOISE, "JPEG"), encoded(NOISE, "JPEG")[:900], bombs()[0].data, b"junk"] * 25
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    together = threading.Barrier(4)

    def read(part):
        together.wait()
        found = []
        for source in sources[part::4] * 5:
            try:
                found.append(read_image(source).size)
            except BadImage as error:
                found.append(error.status)
        return set(found)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [
            {(40, 30)},
            {"image_unreadable"},
            {"image_too_large"},
            {"image_unreadable"},
        ]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert (warnings.filters, Image.MAX_IMAGE_PIXELS) == (filters, limit)


@pytest.mark.parametrize("bomb", bombs(), ids=lambda bomb: bomb.name)
def test_a_bomb_is_refused_whatever_the_limit_of_the_process(bomb, monkeypatch):
    for limit in (None, 1000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert refusal(bomb.data).status == "image_too_large"
        assert limit == Image.MAX_IMAGE_PIXELS


def test_no_warning_of_pillow_reaches_the_user(recwarn):
    palette = Image.new("P", (4, 4))
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0\x06"
    for data in (encoded(palette, "PNG", transparency=b"\0\x80"), encoded(NOISE, "JPEG", exif=exif)):
        read_image(data)
    assert not [w for w in recwarn if "PIL" in str(w.filename)]


@pytest.mark.parametrize("tag", [b"junk", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01", b""])
def test_a_damaged_tag_is_no_reason_to_refuse_a_picture(tag):
    data = encoded(NOISE, "JPEG", exif=b"Exif\0\0" + tag)
    np.testing.assert_array_equal(np.asarray(read_image(data)), np.asarray(read_image(encoded(NOISE, "JPEG"))))


# memory


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "I", "F"])
def test_a_large_picture_is_converted_in_strips_that_do_not_show(mode, monkeypatch):
    generator = np.random.default_rng(0)
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(generator.integers(0, 256, (70, 50, len(mode)), dtype=np.uint8))
    else:
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(generator.integers(0, 60_000, (70, 50)).astype(kind))
    assert image.mode == mode
    whole = np.asarray(read_image(image))
    monkeypatch.setattr(images, "_STRIP", 500)
    np.testing.assert_array_equal(np.asarray(read_image(image)), whole)


AT_THE_LIMIT = """
import struct, zlib
from pathlib import Path
from diptych.pipeline.data.images import read_image
side, row = 13_000, bytes(1 + 13_000 * 4)
packer = zlib.compressobj(9)
data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
parts = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
png = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
assert read_image(b"\\x89PNG\\r\\n\\x1a\\n" + png).size == (side, side)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss starts from the parent's
print(int(peak) // 1000)
"""


@pytest.mark.slow
def test_the_largest_picture_with_transparency_takes_little_more_than_its_pixels():
    result = subprocess.run([sys.executable, "-c", AT_THE_LIMIT], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1600  # MB; decoded and as RGB it takes 0.7 GB each
