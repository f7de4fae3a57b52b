"""From whatever stands for an image to an upright RGB picture, or a clear word why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 178_956_970
"""More pixels than this are refused before decoding: a few kB can claim to be gigabytes."""


class BadImage(ValueError):
    """An image that cannot be used.

    Attributes:
        status: `image_missing`, `image_unreadable` or `image_too_large`.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def read_image(source: Any, *, folder: Path | None = None) -> Image.Image:
    """Read one image: upright by its EXIF tag, transparency over white, first frame, 8-bit RGB.

    Args:
        source: A path, the bytes of a file, a `{"bytes", "path"}` dict as `datasets` has it
            undecoded, a PIL image, or an array (height, width) or (height, width, 1, 3 or 4),
            of 8-bit integers. Never changed.
        folder: Where relative paths start; the current directory if not given.

    Raises:
        BadImage: There is none, it cannot be decoded whole, or it has more than `MAX_PIXELS`.
    """
    image, name = _open(source, folder)
    if 0 in image.size:
        raise BadImage("image_unreadable", f"{name} has {image.width} x {image.height} pixels")
    if image.width * image.height > MAX_PIXELS:
        raise BadImage("image_too_large", f"{name} has {image.width} x {image.height} pixels, over {MAX_PIXELS:,}")
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise BadImage("image_unreadable", f"{name} cannot be decoded: {_first_line(error)}") from error


def _open(source: Any, folder: Path | None) -> tuple[Image.Image, str]:
    """The image, not yet decoded, and what to call it in a message."""
    if isinstance(source, dict) and {"bytes", "path"} >= source.keys():
        name = source.get("path")
        source = source.get("bytes") if source.get("bytes") is not None else name
        label = str(name) if name else "the image"
    else:
        label = "the image"
    if source is None or (isinstance(source, float) and np.isnan(source)) or (isinstance(source, str) and not source):
        raise BadImage("image_missing", "there is no image")
    if isinstance(source, Image.Image):
        return source, label
    if isinstance(source, np.ndarray):
        return _from_array(source), label
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise BadImage("image_unreadable", f"{label} has no bytes")
        return _decode(io.BytesIO(bytes(source)), label), label
    if isinstance(source, (str, Path)):
        if "://" in str(source):
            raise BadImage("image_missing", f"{source} is a URL, which is not followed: download it first")
        path = Path(source) if folder is None else folder / source
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise BadImage("image_missing", f"{path} does not exist") from None
        except (OSError, ValueError) as error:
            raise BadImage("image_unreadable", f"{path} cannot be read: {_first_line(error)}") from error
        if not data:
            raise BadImage("image_unreadable", f"{path} has no bytes")
        return _decode(io.BytesIO(data), str(path)), str(path)
    raise BadImage("image_unreadable", f"a {type(source).__name__} is no image: give a path, bytes or a PIL image")


def _decode(file: io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():  # of large pictures, on which read_image has the last word
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file)
    except Image.DecompressionBombError as error:
        raise BadImage("image_too_large", f"{name}: {_first_line(error)}") from error
    except Exception as error:
        raise BadImage("image_unreadable", f"{name} is no image that can be decoded") from error


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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel: Pillow would clip, not scale
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 65535 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255
        image = Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
