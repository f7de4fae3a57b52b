"""One row in twenty of a table is broken, in ten ways: does `diptych classify` give all back, and is its memory flat?

    python examples/benchmarks/bad_rows.py

Makes a CSV file beside small pictures of Scenes, classifies it into parquet with the shipped model in a process of its
own, checks order and statuses, and prints the most memory that the process held, at 1,000 and at 10,000 rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from diptych.pipeline.demo.scenes import make_scenes
from PIL import Image

EVERY = 20
"""One row in so many is broken."""


def main() -> None:
    """Make the tables, classify them, check them, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000], help="sizes of the tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_pictures(Path(folder), 200)
        peaks = [measure(Path(folder), pairs, rows) for rows in options.rows]
    print(f"memory at {options.rows[-1]} rows / at {options.rows[0]} rows: {peaks[-1] / peaks[0]:.3f}")


def make_pictures(folder: Path, count: int) -> list[tuple[str, str]]:
    """File name and sentence of `count` pairs, and the broken files beside them."""
    pairs = []
    for number, row in enumerate(make_scenes(count, seed=0)):
        name = f"{number}.png"
        row["image"].save(folder / name)
        pairs.append((name, row["text"]))
    whole = (folder / pairs[0][0]).read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "junk.jpg").write_bytes(b"this is no picture")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(folder / "bomb.bmp")
    bomb = bytearray((folder / "bomb.bmp").read_bytes())
    bomb[18:26] = (30_000).to_bytes(4, "little") * 2  # says that it is 30,000 x 30,000
    (folder / "bomb.bmp").write_bytes(bomb)
    return pairs


def broken(kind: int, image: str, text: str) -> tuple[list[str], str]:
    """The cells of a row that is broken in one of ten ways, and the status that it must get."""
    ways: list[Callable[[], tuple[list[str], str]]] = [
        lambda: (["gone.png", text], "image_missing"),
        lambda: (["https://example.com/a.png", text], "image_missing"),
        lambda: (["empty.png", text], "image_unreadable"),
        lambda: (["junk.jpg", text], "image_unreadable"),
        lambda: (["cut.png", text], "image_unreadable"),
        lambda: (["bomb.bmp", text], "image_too_large"),
        lambda: ([image, "  "], "text_missing"),
        lambda: ([image, f"{text} \udce9"], "text_unreadable"),  # a byte of another encoding
        lambda: (["", ""], "both_missing"),
        lambda: ([image, text, "one cell too many", "and another"], "row_unreadable"),
    ]
    return ways[kind]()


def measure(folder: Path, pairs: list[tuple[str, str]], rows: int) -> float:
    """Classify a table of `rows` rows and check what comes out; the process's peak of memory in MB."""
    expected: list[str] = []
    with (folder / "table.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "id"])
        for number in range(rows):
            image, text = pairs[number % len(pairs)]
            # a character that only UTF-8 has: without any, stray bytes make the file one of Windows-1252
            cells, status = [image, text if number else f"{text}…"], "ok"
            if number % EVERY == EVERY - 1:
                cells, status = broken(number // EVERY % 10, image, text)
            writer.writerow(cells if len(cells) > 2 else [*cells, number])
            expected.append(status)
    command = [
        sys.executable,
        "-m",
        "diptych",
        "classify",
        "--data",
        folder / "table.csv",
        "--out",
        folder / "out.parquet",
    ]
    started = time.perf_counter()
    process = subprocess.Popen([*map(str, command), "--quiet", "--overwrite"])
    _, code, usage = os.wait4(process.pid, 0)  # of this child alone: RUSAGE_CHILDREN is the largest of all
    seconds, peak = time.perf_counter() - started, usage.ru_maxrss / 1000
    if code != 0:
        raise SystemExit(f"diptych classify ended with {os.waitstatus_to_exitcode(code)}")
    found = pq.read_table(folder / "out.parquet")
    wrong = [
        n for n, (is_, should) in enumerate(zip(found["status"].to_pylist(), expected, strict=True)) if is_ != should
    ]
    ids = [number for number in found["id"].to_pylist() if number is not None]
    in_order = found["row"].to_pylist() == list(range(rows)) and ids == sorted(ids, key=int)
    without = {"both_missing", "row_unreadable"}
    lost = [n for n, label in enumerate(found["label"].to_pylist()) if (label is None) is not (expected[n] in without)]
    if wrong or lost or not in_order:
        raise SystemExit(f"wrong: statuses of rows {wrong[:5]}, predictions of rows {lost[:5]}, in order: {in_order}")
    counts = ", ".join(f"{count} {status}" for status, count in Counter(expected).most_common())
    print(f"{rows} rows in, {len(found)} out, in order, every status right: {counts}")
    print(f"{rows} rows: {peak:.0f} MB at most, {seconds:.0f} s")
    return peak


if __name__ == "__main__":
    main()
