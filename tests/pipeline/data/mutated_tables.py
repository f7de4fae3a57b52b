"""Tables of every format, and what becomes of them when they are damaged: made here, the same every time."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ...conftest import picture

ROWS = 12
FORMATS = ("csv", "jsonl", "parquet", "folder")


def rows() -> list[dict[str, str]]:
    """Twelve pairs; their pictures are beside the table."""
    texts = ['a "red" shirt', "blue, left", "naïve 東京 🙂", "two\nlines"]
    return [{"image": f"{i}.png", "text": texts[i % 4], "label": "yn"[i % 2]} for i in range(ROWS)]


def write_table(folder: Path, form: str) -> Path:
    """A good table of this format: what `--data` would be."""
    folder.mkdir(parents=True)
    for i in range(ROWS):
        picture("red", seed=i).save(folder / f"{i}.png")
    frame = pd.DataFrame(rows())
    if form == "csv":
        frame.to_csv(folder / "pairs.csv", index=False)
    elif form == "jsonl":
        lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows())]
        (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif form == "parquet":
        frame.to_parquet(folder / "pairs.parquet", index=False, row_group_size=5)
    else:
        frame.rename(columns={"image": "file_name"}).to_csv(folder / "metadata.csv", index=False)
        return folder
    return folder / f"pairs.{form}"


def mutate(data: Path, generator: random.Random) -> str:
    """Do one thing to a table or to what is beside it; what it was."""
    table = data / "metadata.csv" if data.is_dir() else data
    kind = generator.choice([*BYTES, *LINES, *FILES])
    if not table.is_file() or not table.stat().st_size:  # what was done before was enough
        return "nothing"
    if kind in BYTES:
        content = bytearray(table.read_bytes())
        BYTES[kind](content, generator)
        table.write_bytes(content)
    elif kind in LINES:
        lines = table.read_bytes().split(b"\n")
        LINES[kind](lines, generator)
        table.write_bytes(b"\n".join(lines))
    else:
        FILES[kind](table, generator)
    return kind


def _flip(content: bytearray, generator: random.Random) -> None:
    for _ in range(generator.randint(1, 8)):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def _insert(*choices: bytes) -> Callable[[bytearray, random.Random], None]:
    def insert(content: bytearray, generator: random.Random) -> None:
        place = generator.randrange(len(content))
        content[place:place] = generator.choice(choices)

    return insert


def _recode(content: bytearray, generator: random.Random) -> None:
    text = content.decode("utf-8", "replace")
    content[:] = text.encode(generator.choice(["latin-1", "utf-16", "utf-8-sig", "utf-32", "cp1252"]), "replace")


BYTES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "cut": lambda content, generator: content.__delitem__(slice(generator.randrange(len(content)), None)),
    "beginning lost": lambda content, generator: content.__delitem__(slice(0, generator.randrange(len(content)))),
    "bits flipped": _flip,
    "zeros": _insert(b"\0", bytes(100)),
    "quote": _insert(b'"', b"'", b'""', b'\n"'),
    "no UTF-8": _insert(b"\xff\xfe", b"\xe9", b"\xed\xa0\x80"),
    "line ends": _insert(b"\r", b"\r\n", b"\n\n\n", b"\x0b\x0c", "\u2028".encode()),
    "brackets": _insert(b"[" * 600, b'{"a":' * 300, b"}", b"]", b"{"),
    "delimiters": _insert(b",", b";;;", b"\t", b"," * 500),
    "long cell": _insert(b"x" * 200_000, b" " * 200_000),
    "another encoding": _recode,
    "replaced": lambda content, generator: content.__setitem__(slice(None), generator.randbytes(300)),
    "empty": lambda content, generator: content.clear(),
    "a web page": lambda content, generator: content.__setitem__(slice(None), b"<!DOCTYPE html><html>404</html>\n"),
    "a pointer": lambda content, generator: content.__setitem__(slice(None), b"version https://git-lfs.github.com\n"),
}
LINES: dict[str, Callable[[list[bytes], random.Random], None]] = {
    "line lost": lambda lines, generator: lines.pop(generator.randrange(len(lines))),
    "header lost": lambda lines, generator: lines.pop(0),
    "header twice": lambda lines, generator: lines.insert(generator.randrange(len(lines)), lines[0]),
    "lines swapped": lambda lines, generator: generator.shuffle(lines),
    "line twice": lambda lines, generator: lines.insert(0, generator.choice(lines)),
    "another object": lambda lines, generator: lines.insert(
        generator.randrange(len(lines)),
        generator.choice([b'{"image": 3, "text": ["a"], "label": {"b": 1}}', b"[1, 2]", b"null", b"{}", b"NaN"]),
    ),
    "other columns": lambda lines, generator: lines.__setitem__(0, lines[0].replace(b"text", b"image", 1)),
}


def _picture_lost(table: Path, generator: random.Random) -> None:
    (table.parent / f"{generator.randrange(ROWS)}.png").unlink()


def _picture_cut(table: Path, generator: random.Random) -> None:
    place = table.parent / f"{generator.randrange(ROWS)}.png"
    place.write_bytes(place.read_bytes()[: generator.randrange(200)])


def _stray(table: Path, generator: random.Random) -> None:
    name = generator.choice([".DS_Store", "._0.png", "notes.txt", "Thumbs.db", ".ipynb_checkpoints/x.csv"])
    (table.parent / name).parent.mkdir(exist_ok=True)
    (table.parent / name).write_bytes(generator.randbytes(40))


def _folder_in_its_place(table: Path, generator: random.Random) -> None:
    table.unlink()
    table.mkdir()


def _pictures_in_its_place(table: Path, generator: random.Random) -> None:
    shutil.copy(table.parent / "0.png", table)


FILES: dict[str, Callable[[Path, random.Random], None]] = {
    "picture lost": _picture_lost,
    "picture cut": _picture_cut,
    "another file": _stray,
    "a folder": _folder_in_its_place,
    "a picture": _pictures_in_its_place,
    "gone": lambda table, generator: table.unlink(),
}
