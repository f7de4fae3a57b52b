"""What reading a table costs: CSV, JSON lines and parquet of 20,000 rows, by number and by stream, nothing decoded.

    python examples/benchmarks/reading.py --before PATH_OF_ANOTHER_CHECKOUT [--rows 20000] [--pairs 7]

PATH is a folder in which `diptych` is another checkout of this repository (its own folder is named `diptych` too, such
as by `git worktree add old/diptych COMMIT`). Both read the same files, in turns, each in a process of its own that
does nothing else, with one thread and an empty cache. A row has a picture's path (in parquet its bytes), a sentence, a
label and a number. "by stream" is from the path of the file to the last of its rows, "by number" to all of its rows in
a random order, "again" the same once more, with what the first reading has left in the cache. What counts are medians
of the CPU seconds of each pair's ratio.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FORMATS = ("csv", "jsonl", "parquet")
WORDS = ("a", "red", "blue", "green", "striped", "cotton", "shirt", "shoe", "bag", "of", "the", "left", "right", "men")


def main() -> None:
    """Make the tables, read them with both in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="the folder that holds another checkout named diptych")
    parser.add_argument("--rows", type=int, default=20_000, help="of each table")
    parser.add_argument("--pairs", type=int, default=7, help="of processes that take turns")
    parser.add_argument("--read", nargs=2, metavar=("FOLDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(Path(options.read[0]), int(options.read[1]))))
        return
    if options.before is None or not (Path(options.before) / "diptych" / "pipeline").is_dir():
        parser.error(f"--before is {options.before}: give a folder that holds another checkout named diptych")
    here = str(Path(__file__).resolve().parents[3])
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_tables(Path(folder), options.rows)
        for number in range(options.pairs):
            pair: dict[str, dict[str, float]] = {}
            for tree in (options.before, here)[:: 1 if number % 2 else -1]:
                pair[tree] = apart(tree, Path(folder), options.rows)
            for name in pair[here]:
                found.setdefault(name, []).append((pair[options.before][name], pair[here][name]))
    print(f"{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}, one thread")
    print(f"{options.rows:,} rows, medians of {options.pairs} pairs, CPU seconds\n")
    print(f"{'':26}{'before':>8}{'now':>8}{'now / before':>14}{'(of all pairs)':>18}")
    for name, pairs in found.items():
        ratios = [now / before for before, now in pairs]
        before, now = (statistics.median(values) for values in zip(*pairs, strict=True))
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:26}{before:8.3f}{now:8.3f}{statistics.median(ratios):14.2f}{spread:>18}")


def make_tables(folder: Path, rows: int) -> None:
    """The same rows as CSV, JSON lines and parquet."""
    import datasets

    rng = random.Random(0)
    made: list[dict[str, Any]] = []
    for number in range(rows):
        text = " ".join(rng.choices(WORDS, k=rng.randint(4, 20)))
        text = f'{text}, "{rng.choice(WORDS)}"' if number % 10 == 0 else text
        made.append({"image": f"photos/{number:06}.jpg", "text": text, "label": rng.choice(WORDS), "id": number})
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows(made)
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    features = datasets.Features(
        {name: datasets.Value("int64" if name == "id" else "string") for name in made[0]} | {"image": datasets.Image()}
    )
    stored = [row | {"image": {"bytes": rng.randbytes(2000), "path": row["image"]}} for row in made]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(stored, features=features).to_parquet(str(folder / "table.parquet"))


def apart(tree: str, folder: Path, rows: int) -> dict[str, float]:
    """What reading costs in a process of its own, by what is read and how."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": tree, "HF_HOME": cache, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--read", str(folder), str(rows)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)
    return dict(json.loads(process.stdout))


def read(folder: Path, rows: int) -> dict[str, float]:
    """CPU seconds of reading each table in each way, in this process."""
    try:
        from diptych.pipeline.data.tables import load_tables
    except ImportError:  # as it was before 0.4
        from diptych.pipeline.data import load_tables  # type: ignore[attr-defined, no-redef]

    def seconds(path: Path, order: list[int] | None) -> float:
        start = time.process_time()
        table = load_tables(path, streaming=order is None)["train"]
        count = sum(1 for _ in (table.rows if order is None else map(table.rows.__getitem__, order)))
        if count != rows:
            raise SystemExit(f"{path} has {rows} rows, of which {count} were read")
        return time.process_time() - start

    order = random.Random(0).sample(range(rows), rows)
    costs: dict[str, float] = {}
    for name in FORMATS:
        path = folder / f"table.{name}"
        costs[f"{name}, by stream"] = min(seconds(path, None) for _ in range(5))
        costs[f"{name}, by number"] = seconds(path, order)
        costs[f"{name}, by number, again"] = min(seconds(path, order) for _ in range(2))
    return costs


if __name__ == "__main__":
    main()
