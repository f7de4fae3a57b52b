"""From whatever stands for an image to an upright RGB picture, or a clear word why not."""

from __future__ import annotations

import contextlib
import functools
import io
import stat
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from .values import is_nothing

MAX_PIXELS = 178_956_970
"""More pixels than this are refused before decoding: a few kB can claim to be gigabytes."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000", "AVIF")
"""What is decoded. Not all that Pillow can open: for an EPS file, for one, it starts another program."""

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ARCHIVE_HEADS = (
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)
_STRIP = 1 << 20
"""Pixels that are converted at a time: each step on a whole picture at the limit would take 0.7 GB."""
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


class BadImage(ValueError):
    """An image that cannot be used.

    Attributes:
        status: `image_missing`, `image_unreadable` or `image_too_large`.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def read_image(source: Any, *, folder: Path | None = None, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Read one image: upright by its EXIF tag, transparency over white, first frame, 8-bit RGB.

    A JPEG that is at least twice as large as it must be is decoded at a half, a quarter or an eighth of its
    scale, by its own cosine transform: less work and memory, and nearly what scaling the whole picture gives.

    Args:
        source: A path, the bytes of a file, a `{"bytes", "path"}` dict as `datasets` has it
            undecoded, a PIL image, or an array (height, width) or (height, width, 1, 3 or 4),
            of 8-bit integers. Never changed. A `BadImage`, from where it could not be fetched, is
            raised.
        folder: Where relative paths start; the current directory if not given.
        at_least: (height, width) in pixels, of the upright picture, below which neither side may come out by
            that; every picture is decoded at its full size if not given.

    Raises:
        BadImage: There is none, it cannot be decoded whole, or it has more than `MAX_PIXELS`.
    """
    with _DECODING, contextlib.ExitStack() as files:
        image, name, own = _open(source, folder, files)
        if 0 in image.size:
            raise BadImage("image_unreadable", f"{name} has {image.width} x {image.height} pixels")
        if image.width * image.height > MAX_PIXELS:
            raise BadImage("image_too_large", f"{name} has {image.width} x {image.height} pixels, over {MAX_PIXELS:,}")
        try:
            box = _draft(image, at_least) if own and at_least is not None else None
            image.load()
            rgb = _to_rgb(_upright(image))
            if box is not None:
                rgb.info[_BOX] = rgb.size, box
            return rgb
        except MemoryError as error:
            raise BadImage("image_too_large", f"{name} needs more memory than there is") from error
        except Exception as error:  # decoders raise nearly anything on a damaged file
            raise BadImage("image_unreadable", f"{name} cannot be decoded: {_first_line(error)}") from error


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
    if isinstance(source, dict) and {"bytes", "path"} >= source.keys():
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return b"file", bytes(source)
    if isinstance(source, (str, Path)) and str(source).strip() and "://" not in str(source):
        with _open_file(Path(source) if folder is None else folder / source) as file:
            return b"file", file.read()
    image = read_image(source, folder=folder)
    return b"pixels", repr(image.size).encode(), image.tobytes()


def _open(source: Any, folder: Path | None, files: contextlib.ExitStack) -> tuple[Image.Image, str, bool]:
    """The image, not yet decoded, what to call it in a message, and whether it is ours to change."""
    label = "the image"
    if isinstance(source, dict) and {"bytes", "path"} >= source.keys():
        name = source.get("path")
        source = source.get("bytes") if source.get("bytes") is not None else name
        label = _shown(name) if name else label
    if isinstance(source, BadImage):
        raise source
    if is_nothing(source) or (isinstance(source, str) and not source.strip()):
        raise BadImage("image_missing", "there is no image")
    if isinstance(source, Image.Image):
        return source, label, False
    if isinstance(source, np.ndarray):
        return _from_array(source), label, True
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(source)), label), label, True
    if isinstance(source, (str, Path)):
        if "://" in str(source) or str(source).startswith("data:"):
            raise BadImage("image_missing", f"{_shown(source)} is a URL, which is not followed: download it first")
        path = Path(source) if folder is None else folder / source
        file = files.enter_context(_open_file(path))
        return _decode(file, _shown(path)), _shown(path), True
    raise BadImage("image_unreadable", f"a {type(source).__name__} is no image: give a path, bytes or a PIL image")


def _open_file(path: Path) -> IO[bytes]:
    """A regular file: a device or a pipe may have no end, and a folder or an archive holds more than one picture."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImage("image_unreadable", f"{_shown(path)} is no file")
        return path.open("rb")
    except FileNotFoundError:
        raise BadImage("image_missing", f"{_shown(path)} does not exist") from None
    except NotADirectoryError:
        raise BadImage(
            "image_missing",
            f"{_shown(path)} does not exist: a part of it is a file, and archives are not opened; unpack it first",
        ) from None
    except BadImage:
        raise
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no right to read
        why = getattr(error, "strerror", None) or _first_line(error)
        raise BadImage("image_unreadable", f"{_shown(path)} cannot be read: {why}") from error


def _decode(file: IO[bytes], name: str) -> Image.Image:
    head = file.read(8)
    file.seek(0)
    if not head:
        raise BadImage("image_unreadable", f"{name} has no bytes")
    try:
        return Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise BadImage("image_too_large", f"{name}: {_first_line(error)}") from error
    except Exception as error:
        if head.startswith(_ARCHIVE_HEADS) or name.lower().endswith(ARCHIVES):
            raise BadImage("image_unreadable", f"{name} is an archive, which is not opened: unpack it first") from error
        raise BadImage("image_unreadable", f"{name} is no image that can be decoded") from error


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow knows."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise BadImage(
            "image_unreadable",
            f"an array of {array.dtype} and shape {array.shape} is no image: give uint8, (height, width, 3)",
        )
    try:
        return Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array)
    except (TypeError, ValueError) as error:
        raise BadImage("image_unreadable", f"an array of shape {array.shape} is no image") from error


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
    top = _brightest(image) if wide else 255
    rgb = Image.new("RGB", image.size)
    for strip in _strips(image):
        part = image.crop(strip)
        if wide:
            values = np.nan_to_num(np.array(part, dtype=np.float32)).clip(0, top) * (255 / top)
            part = Image.fromarray(values.round().astype(np.uint8))
        if part.has_transparency_data:
            rgba = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        rgb.paste(part.convert("RGB"), strip)
    return rgb


def _brightest(image: Image.Image) -> int:
    """What is white in a picture of 16 or 32 bits: 65535, or 255 where it is 8 bits in a wide coat."""
    if image.mode.startswith("I;16"):
        return 65535
    parts = (np.nan_to_num(np.array(image.crop(strip), dtype=np.float32)) for strip in _strips(image))
    return 65535 if any(part.max() > 255 for part in parts) else 255


def _strips(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Boxes that cut a picture into strips of about `_STRIP` pixels."""
    rows = max(1, _STRIP // image.width)
    return [(0, y, image.width, min(y + rows, image.height)) for y in range(0, image.height, rows)]


class _Decoding:
    """Process-wide switches as decoding needs them, put back as they were when the last thread is done.

    Another library may have told Pillow to complete truncated files, with grey; and Pillow warns of
    large pictures and damaged tags, on which `read_image` has the last word.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._truncated
                self._warnings.__exit__(kind, error, trace)


_DECODING = _Decoding()


def _shown(path: Any) -> str:
    """A path for a message: one line of it, and not a megabyte."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path)[:1000])
    return text if len(text) <= 300 else f"{text[:150]}...{text[-100:]}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
