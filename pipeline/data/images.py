"""From whatever stands for an image to an upright RGB picture, or a clear word why not."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from ..runtime.files import reason
from ..runtime.seeds import content_id
from .content import NOTHING, image_id
from .image_source import BadImage, find_image, open_file, what_it_is

MAX_PIXELS = 178_956_970
"""More pixels than this are refused before decoding: a few kB can claim to be gigabytes."""
MAX_SIDE = 1_000_000
"""Pixels: to scale a longer side down takes memory in proportion to it, 24 bytes for each."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000", "AVIF")
"""What is decoded. Not all that Pillow can open: for an EPS file, for one, it starts another program."""

_SMALL = 512 * 512
"""Pixels: files with no more are known by these, larger ones by their bytes, as decoding all of them takes long."""
_STRIP = 1 << 20
"""Pixels that are converted at a time: each step on a whole picture at the limit would take 0.7 GB."""
_TEXT_BYTES = 1 << 26
"""Of one text chunk of a PNG: what programs that draw pictures by a prompt store there may be megabytes."""
_UPRIGHT = {  # by the EXIF tag Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BOX = "diptych_box"
"""Under what name a picture decoded at reduced scale keeps what `picture_box` says of it."""


def read_image(source: Any, *, folder: Path | None = None, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Read one image: upright by its EXIF tag, transparency over white, first frame, 8-bit RGB.

    A JPEG that is at least twice as large as it must be is decoded at a half, a quarter or an eighth of its
    scale, by its own cosine transform: less work and memory, and nearly what scaling the whole picture gives.

    Memory is bounded: at most a file of `MAX_FILE_BYTES`, its `MAX_PIXELS` decoded (4 bytes each) and as RGB (3).

    Args:
        source: A path, a `data:` or `file:` URI, the bytes of a file or their base64, a `{"bytes", "path"}` dict as
            `datasets` has it undecoded, a PIL image, or an array (height, width) or (height, width, 1, 3 or 4) of
            8 or 16 bits or of fractions from 0 to 1; a tensor may have its colours first. Never changed. A
            `BadImage`, from where it could not be fetched, is raised.
        folder: Where relative paths start; the current directory if not given.
        at_least: (height, width) in pixels, of the upright picture, below which neither side may come out by
            that; every picture is decoded at its full size if not given.

    Raises:
        BadImage: There is none, it cannot be decoded whole, or it has more than `MAX_PIXELS` or a side of more than
            `MAX_SIDE`.
    """
    held, name = find_image(source, folder)
    with image_errors(name), _DECODING, contextlib.ExitStack() as files:
        if isinstance(held, Image.Image):
            image = held
        elif isinstance(held, np.ndarray):
            image = Image.fromarray(held)
        else:
            image = _opened(files.enter_context(open_file(held)) if isinstance(held, Path) else io.BytesIO(held), name)
        if 0 in image.size:
            raise BadImage("image_unreadable", f"{name} has {image.width} x {image.height} pixels")
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            limit = f"over {MAX_PIXELS:,}" if max(image.size) <= MAX_SIDE else f"over {MAX_SIDE:,} a side"
            raise BadImage("image_too_large", f"{name} has {image.width} x {image.height} pixels, {limit}")
        box = _draft(image, at_least) if image is not held and at_least is not None else None
        image.load()
        rgb = _to_rgb(_upright(image))
        if box is not None:
            rgb.info[_BOX] = rgb.size, box
        return rgb


@contextlib.contextmanager
def image_errors(name: str = "the image") -> Iterator[None]:
    """Whatever goes wrong with an image in this block is a `BadImage`: decoders raise nearly anything."""
    try:
        yield
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("image_too_large", f"{name}: {reason(error)}") from error
    except MemoryError as error:
        raise BadImage("image_too_large", f"{name} needs more memory than there is") from error
    except Exception as error:
        what = "read" if getattr(error, "strerror", None) else "decoded"  # by the disk, or by Pillow
        raise BadImage("image_unreadable", f"{name} cannot be {what}: {reason(error)}") from error


def picture_box(image: Image.Image) -> tuple[float, float, float, float]:
    """Where the picture lies in what `read_image` gave: left, top, right and bottom, in pixels.

    All of it; but the sides of one decoded at reduced scale may hold a part of a pixel less. Who scales it
    must not scale that in, or the whole picture is shifted by it.
    """
    size, box = image.info.get(_BOX, (None, None))
    return box if box is not None and size == image.size else (0, 0, *image.size)  # copies made by Pillow inherit it


def image_content(source: Any, *, folder: Path | None = None) -> tuple[bytes, ...]:
    """What tells an image from all others, to be hashed: a file's bytes, undecoded; of pixels, those and their size.

    Args: as for `read_image`.

    Raises:
        BadImage: There is none, or it cannot be read. That a file can be decoded is not looked at.
    """
    held, name = find_image(source, folder)
    if isinstance(held, bytes):
        return b"file", held
    if isinstance(held, Path):
        with image_errors(name), open_file(held) as file:
            return b"file", file.read()
    image = read_image(held)
    return b"pixels", repr(image.size).encode(), image.tobytes()


def stored_image_id(source: Any, *, folder: Path | None = None) -> int:
    """The `image_id` of an image, equal however its pixels are stored; of a file with many, equal where its bytes are.

    Args: as for `read_image`.

    Returns:
        `NOTHING` if there is none that can be read.
    """
    try:
        held, name = find_image(source, folder)
        if isinstance(held, (bytes, Path)):
            with image_errors(name), _DECODING, contextlib.ExitStack() as files:
                file = files.enter_context(open_file(held)) if isinstance(held, Path) else io.BytesIO(held)
                width, height = _opened(file, name).size
                if width * height > _SMALL:
                    file.seek(0)
                    return content_id(file.read())
        return image_id(read_image(held))
    except BadImage:
        return NOTHING


def _opened(file: IO[bytes], name: str) -> Image.Image:
    head = file.read(64)
    file.seek(0)
    if not head:
        raise BadImage("image_unreadable", f"{name} has no bytes")
    try:
        return Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "strerror", None):  # the disk's
            raise
        what = what_it_is(head, name)
        why = "" if isinstance(error, UnidentifiedImageError) else f": {reason(error)}"
        raise BadImage("image_unreadable", f"{name} {what or f'is no image that can be decoded{why}'}") from error


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow knows."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _draft(image: Image.Image, at_least: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Have a JPEG decoded at the least scale that will do; its `picture_box` once it is upright, None if whole."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None
    orientation = _orientation(image)
    height, width = at_least if orientation < 5 else at_least[::-1]  # from 5 on it lies on its side
    whole = image.size
    drafted = image.draft(None, (width, height))
    if drafted is None or image.size == whole:
        return None
    right, bottom = drafted[1][2:]  # fractions of a pixel: what the file's sides are not multiples of
    spare = [image.width - right, image.height - bottom]
    if orientation >= 5:
        right, bottom, spare = bottom, right, spare[::-1]
    left = spare[0] if orientation in (2, 3, 6, 7) else 0  # turned, the spare part of a pixel comes first
    top = spare[1] if orientation in (3, 4, 7, 8) else 0
    return left, top, left + right, top + bottom


def _orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 to 8. A damaged tag says nothing: that is no reason to refuse a whole picture."""
    try:
        found = image.getexif().get(0x0112, 1)
        return found if found in _UPRIGHT else 1
    except Exception:  # the parsers of EXIF and XMP raise nearly anything
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    wide = image.mode.startswith("I") or image.mode == "F"  # 16 or 32 bits a pixel: Pillow would clip, not scale
    if not wide and not image.has_transparency_data:
        rgb = image.convert("RGB")
        rgb.info.clear()  # the tag that turned it would turn it again
        return rgb
    white = _white(image) if wide else 255
    rgb = Image.new("RGB", image.size)
    for strip in _strips(image):
        part = image.crop(strip)
        if wide:
            values = np.nan_to_num(np.array(part, dtype=np.float32), posinf=white).clip(0, white) * (255 / white)
            part = Image.fromarray(values.round().astype(np.uint8))
        if part.has_transparency_data:
            rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        rgb.paste(part.convert("RGB"), strip)
    return rgb


def _white(image: Image.Image) -> int:
    """What is white in a picture of 16 or 32 bits: by its depth; of 32 bits by its brightest pixel.

    Raises:
        ValueError: Neither tells: a guess would give a black picture, or a white one.
    """
    if image.mode.startswith("I;16"):
        depth = getattr(image, "tag_v2", {}).get(258, (16,))  # a TIFF file may have 12 bits in 16
        return 2 ** depth[0] - 1 if depth[0] in (10, 12, 14) else 65535
    low, high = 0.0, 0.0
    for strip in _strips(image):
        values = np.array(image.crop(strip), dtype=np.float64)
        values = values[np.isfinite(values)]
        low, high = min(low, values.min(initial=0)), max(high, values.max(initial=0))
    fractions = image.mode == "F"
    white = next((white for white in (1, 255, 65535) if high <= white and (fractions or white > 1)), None)
    if white is None or (fractions and (low < -white / 50 or 1 < high < 16)):
        found = f"pixels are from {low:.6g} to {high:.6g}, so that nothing tells what is white"
        raise ValueError(f"its {found}: save it with 8 or 16 bits a colour")
    return white


def _strips(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Boxes that cut a picture into strips of about `_STRIP` pixels."""
    rows = max(1, _STRIP // image.width)
    return [(0, y, image.width, min(y + rows, image.height)) for y in range(0, image.height, rows)]


class _Decoding:
    """Process-wide switches as decoding needs them, put back as they were when the last thread is done.

    Another library may have told Pillow to complete truncated files, with grey; Pillow warns of large pictures
    and damaged tags, on which `read_image` has the last word, and refuses a picture with over 1 MB of text in it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                self._truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
                self._text, PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_CHUNK, _TEXT_BYTES

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = self._truncated, self._text
                self._warnings.__exit__(kind, error, trace)


_DECODING = _Decoding()
