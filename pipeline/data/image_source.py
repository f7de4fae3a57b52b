"""Whatever stands for an image in a row, found: a file that is there, its bytes, or pixels in memory."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from ..runtime.files import reason
from .values import is_nothing

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused unread: no picture of `MAX_PIXELS` needs so much."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jfif")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ARCHIVE = "is an archive, which is not opened: unpack it first"
_PAGE = "is an HTML page, as a failed download leaves it: download the file again"
_HEADS = {  # of files that often stand where an image should, what they are and what to do
    b"version https://git-lfs": "is a git-lfs pointer and not the file itself: fetch it with 'git lfs pull'",
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"<head": _PAGE,
    b"<svg": "is an SVG drawing, which is not decoded: save it as PNG",
    b"<?xml": "is an XML document, as a failed download leaves it: download the file again",
    b"<error": "is an XML document, as a failed download leaves it: download the file again",
    b'{"': "is JSON text, as a failed download leaves it: download the file again",
    b"%pdf": "is a PDF document, which is not decoded: save its pages as PNG",
    b"\0\5\x16\7": "is a hidden file of macOS that lies beside the real one: leave it out",
    b"\0\0\0\1bud1": "is a hidden file of macOS that describes its folder: leave it out",
}
_ARCHIVE_HEADS = (b"pk\3\4", b"\x1f\x8b", b"bzh", b"\xfd7zxz\0", b"7z\xbc\xaf\x27\x1c", b"rar!", b"\x28\xb5\x2f\xfd")
_HEADS |= dict.fromkeys(_ARCHIVE_HEADS, _ARCHIVE)
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
_BASE64 = re.compile(r"(?:[/_]9j[/_]|iVBORw0KGgo|R0lGOD|UklGR|SUkq|TU0A|Qk)[\w+/\s-]{20,}={0,2}\s*", re.ASCII)
"""The first bytes of a JPEG, PNG, GIF, WebP, TIFF or BMP file in base64; no path with a suffix matches."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class BadImage(ValueError):
    """An image that cannot be used.

    Attributes:
        status: `image_missing`, `image_unreadable` or `image_too_large`.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def find_image(source: Any, folder: Path | None = None) -> tuple[Path | bytes | Image.Image | np.ndarray, str]:
    """What holds an image, nothing of it read or decoded, and what to call it in a message.

    Text is a path: as it stands, else without blanks around it, with the backslashes of Windows as slashes, with `~`
    as the home folder, or with its accents in the other of Unicode's two forms. Only if no such file is there may it
    be the base64 of a file. `data:` and `file:` URIs are read; no other address is followed.

    Args:
        source: As for `diptych.pipeline.data.images.read_image`.
        folder: Where relative paths start; the current directory if not given.

    Raises:
        BadImage: There is none.
    """
    name = "the image"
    if isinstance(source, dict) and {"bytes", "path"} >= source.keys():
        path = source.get("path")
        source = source.get("bytes") if source.get("bytes") is not None else path
        name = shown(path) if path else name
    if isinstance(source, BadImage):
        raise source
    if is_nothing(source) or (isinstance(source, str) and not source.strip()):
        raise BadImage("image_missing", "there is no image")
    if isinstance(source, Image.Image):
        return source, name
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), name
    if isinstance(source, (str, os.PathLike)):
        return _find_text(os.fspath(source), folder, name)
    if hasattr(source, "__array__"):  # of numpy, torch and others
        return _array(source), name
    if isinstance(source, list) and source and isinstance(source[0], list):  # an array as `datasets` stores it
        return _array(source), name
    raise BadImage("image_unreadable", f"a {type(source).__name__} is no image: give a path, bytes or a PIL image")


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file: a device or a pipe may have no end, and a folder holds more than one picture.

    Raises:
        BadImage: It is not there, or none that can be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadImage("image_unreadable", f"{shown(path)} is no file")
        if found.st_size > MAX_FILE_BYTES:
            raise BadImage("image_too_large", f"{shown(path)} has {found.st_size:,} bytes, over {MAX_FILE_BYTES:,}")
        return path.open("rb")
    except FileNotFoundError:
        raise BadImage("image_missing", f"{shown(path)} does not exist") from None
    except NotADirectoryError:
        raise BadImage(
            "image_missing",
            f"{shown(path)} does not exist: a part of it is a file, and archives are not opened; unpack it first",
        ) from None
    except BadImage:
        raise
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no right to read
        raise BadImage("image_unreadable", f"{shown(path)} cannot be read: {reason(error)}") from error


def what_it_is(head: bytes, name: str = "") -> str | None:
    """What a file is that is no image, told by its first bytes or its name, and what to do; None if neither tells."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = next((words for known, words in _HEADS.items() if start.startswith(known)), None)
    if known is None and head[4:8] == b"ftyp":
        kind = _BRANDS.get(head[8:12].lower())
        known = f"is {kind}, which is not decoded: save it as JPEG" if kind else "is a video, which is not decoded"
    return known or (_ARCHIVE if name.lower().endswith(ARCHIVES) else None)


def shown(path: Any) -> str:
    """A path for a message: one line of it, and not a megabyte."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path)[:1000])
    return text if len(text) <= 300 else f"{text[:150]}...{text[-100:]}"


def _find_text(text: str, folder: Path | None, name: str) -> tuple[Path | bytes, str]:
    start = text[:1000].lstrip()[:5].lower()
    if start == "data:":
        return _of_data_uri(text.strip()), name if name != "the image" else shown(text[:40].strip())
    if start == "file:":
        text = url2pathname(unquote(urlsplit(text.strip()).path))
    elif _URL.match(text.lstrip()):
        raise BadImage("image_missing", f"{shown(text)} is a URL, which is not followed: download it first")
    start_folder = Path() if folder is None else folder
    for candidate in _spellings(text):
        try:
            path = start_folder / candidate
            if path.exists():
                return path, shown(path)
        except (OSError, ValueError):  # too long for a name; a NUL in it
            continue
    if _BASE64.fullmatch(text.strip()):
        return _of_base64("".join(text.split())), name
    path = start_folder / (text.strip() if len(text) < 1000 else text)
    return path, shown(path)  # opened, it says what is wrong with it


def _spellings(text: str) -> Iterator[str]:
    """A path as it stands, and the other ways in which the same one is written."""
    yield text
    plain = text.strip()
    slashes = plain.replace("\\", "/")
    others = [plain, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))]
    yield from dict.fromkeys(other for other in others if other != text)
    if slashes.startswith("~"):
        with contextlib.suppress(RuntimeError):  # of nobody's home folder
            yield str(Path(slashes).expanduser())


def _of_data_uri(uri: str) -> bytes:
    about, comma, content = uri[5:].partition(",")
    if not comma:
        raise BadImage("image_unreadable", f"{shown(uri[:80])} is no data URI: it has no comma before its content")
    return _of_base64(unquote(content)) if about.lower().endswith(";base64") else unquote_to_bytes(content)


def _of_base64(text: str) -> bytes:
    text = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage("image_unreadable", f"the image is no valid base64: {reason(error)}") from error


def _array(source: Any) -> np.ndarray:
    """An array (height, width), or (height, width, 1, 3 or 4), of 8 bits; of torch the colours may come first."""
    tensor = type(source).__module__.partition(".")[0] == "torch"
    try:
        array = np.asarray(source.detach().cpu() if tensor else source)
    except Exception as error:
        raise BadImage("image_unreadable", f"a {type(source).__name__} is no image: {reason(error)}") from error
    form, kind = array.shape, array.dtype
    if isinstance(source, list):  # which may have been either
        tensor = form[-1] not in (1, 3, 4)
        if np.issubdtype(kind, np.integer) and array.size and array.min() >= 0 and array.max() <= 255:
            array = array.astype(np.uint8)
    if tensor and array.ndim == 3 and form[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if kind == np.uint16:
        array = (array / 257).round().astype(np.uint8)
    elif np.issubdtype(kind, np.floating) and array.size and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8 or not fits or 0 in form:
        ask = "give uint8, uint16 or fractions from 0 to 1, (height, width, 3)"
        raise BadImage("image_unreadable", f"an array of {kind} and shape {form} is no image: {ask}")
    return array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array
