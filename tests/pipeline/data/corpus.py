"""Image files of every kind and what becomes of them when they are damaged: made here, the same every time."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}


@dataclass(frozen=True)
class File:
    """An image file.

    Attributes:
        name: What it is and what was done to it.
        data: Its bytes.
        suffix: Of the name that it would have on a disk; it may lie.
        status: What must become of it; None where nobody knows.
        whole: The file that this one was cut from: it gives the same picture, or none.
    """

    name: str
    data: bytes
    suffix: str
    status: str | None = None
    whole: bytes | None = None


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@cache
def originals() -> tuple[File, ...]:
    """Good files: every format, and every mode, depth and extra that it has."""
    generator = np.random.default_rng(0)
    rgb = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    rgba = Image.fromarray(generator.integers(0, 256, (30, 40, 4), dtype=np.uint8))
    deep = Image.fromarray(generator.integers(0, 65536, (30, 40), dtype=np.uint16))
    modes = {mode: rgb.convert(mode) for mode in ("L", "1", "CMYK", "P")} | {"RGB": rgb, "RGBA": rgba, "16 bit": deep}
    modes["LA"] = rgba.convert("LA")
    can = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "L", "1", "P", "RGBA", "LA", "16 bit"),
        "GIF": ("RGB", "L", "1", "P"),
        "WEBP": ("RGB", "RGBA"),
        "TIFF": ("RGB", "L", "1", "P", "RGBA", "CMYK", "16 bit"),
        "BMP": ("RGB", "L", "1", "P"),
    }
    files = [(f"{form} {mode}", form, encoded(modes[mode], form)) for form, names in can.items() for mode in names]
    frames = [Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for _ in range(3)]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        files.append((f"{form} of 3 frames", form, encoded(frames[0], form, save_all=True, append_images=frames[1:])))
    exif = Image.Exif()
    exif[0x0112] = 6
    files += [(f"{form} turned", form, encoded(rgb, form, exif=exif)) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    files += [(f"{form} 1x1", form, encoded(rgb.crop((0, 0, 1, 1)), form)) for form in SUFFIXES]
    files += [(f"{form} 1x20000", form, encoded(Image.new("RGB", (1, 20000)), form)) for form in ("PNG", "JPEG", "BMP")]
    files.append(("JPEG progressive", "JPEG", encoded(rgb, "JPEG", progressive=True)))
    files += [(f"TIFF {kind}", "TIFF", encoded(rgb, "TIFF", compression=kind)) for kind in ("tiff_lzw", "tiff_deflate")]
    return tuple(File(name, data, SUFFIXES[form], "ok") for name, form, data in files)


def bombs(side: int = 30_000) -> list[File]:
    """A few bytes each that claim `side` x `side` pixels."""
    flat = zlib.compress(bytes(3_000_000), 9)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", flat),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    small = Image.new("RGB", (8, 8))
    bmp = bytearray(encoded(small, "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    jpeg = bytearray(encoded(small, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    tiff = bytearray(encoded(small, "TIFF"))
    for tag in (256, 257):
        place = tiff.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in tiff else -1
        place = place if place >= 0 else tiff.index(struct.pack("<HH", tag, 3))
        tiff[place : place + 12] = struct.pack("<HHII", tag, 4, 1, side)
    made = {"PNG": png, "BMP": bytes(bmp), "JPEG": bytes(jpeg), "TIFF": bytes(tiff)}
    return [File(f"{form} bomb", data, SUFFIXES[form], "image_too_large") for form, data in made.items()]


def mutated(count: int, seed: int = 0) -> Iterator[File]:
    """`count` files, each an original with one thing done to it."""
    generator = random.Random(seed)
    for number in range(count):
        yield mutate(generator.choice(originals()), number % 8, generator)


def mutate(file: File, kind: int, generator: random.Random) -> File:
    """`file` with damage of one of eight kinds at a random place."""
    data = bytearray(file.data)
    place = generator.randrange(len(data))
    if kind in (0, 1):
        return File(f"{file.name} cut at {place}", bytes(data[:place]), file.suffix, None, file.data)
    if kind == 2:
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        return File(f"{file.name} with bits flipped", bytes(data), file.suffix)
    if kind == 3:  # headers are where sizes, depths and offsets stand
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(min(60, len(data)))] = generator.choice((0, 1, 127, 128, 254, 255))
        return File(f"{file.name} with a lying header", bytes(data), file.suffix)
    if kind == 4:
        data[place : place + generator.randint(1, 64)] = bytes(generator.randint(1, 64))
        return File(f"{file.name} with zero bytes at {place}", bytes(data), file.suffix)
    if kind == 5:
        zeros = generator.choice((b"", bytes(1), bytes(len(data))))
        return File(f"{file.name} of {len(zeros)} zero bytes", zeros, file.suffix, "image_unreadable")
    if kind == 6:
        suffix = generator.choice([*SUFFIXES.values(), ".txt", ""])
        return File(f"{file.name} named {suffix}", file.data, suffix, "ok")
    return generator.choice([*bombs(), *originals()])
