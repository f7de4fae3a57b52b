"""Classify 10,000 rows with two processes that are killed three times: is every row there once, as one process has it?

    python examples/classify_and_resume.py

Makes a table of sentences about drawings, some of which are not there, and classifies it with the model that ships: in
one process into a file; then in two processes into a folder of parts, which are sent a SIGKILL, all at once, at three
random moments, and each time started again with --resume. Reads /proc to find the processes, which only Linux has.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diptych import make_scenes
from diptych.pipeline.batch_inference.parts import Parts
from diptych.pipeline.data.tables import load_tables

PICTURES = 400


def main() -> None:
    """Classify without a break, then with the kills; print what came of each and how the rows compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="of the table")
    parser.add_argument("--part-rows", type=int, default=250, help="of each part")
    parser.add_argument("--kills", type=int, default=3, help="how often the two processes are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the rows and the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_table(folder, options.rows, rng)
        once = folder / "once.jsonl"
        if start(data, once, processes=1).wait():
            raise SystemExit("the single process failed")
        expected = [json.loads(line) for line in once.read_text(encoding="utf-8").splitlines()]
        print(f"one process: {len(expected)} rows", flush=True)

        parts = Parts(folder / "parts", rows=options.part_rows)
        count = -(-options.rows // options.part_rows)
        part_options = ("--part-rows", str(options.part_rows), "--resume")
        for kill in range(options.kills):
            process = start(data, parts.folder, *part_options, processes=2)
            least = rng.randint(count * kill // (options.kills + 1), count * (kill + 1) // (options.kills + 1) - 1) + 1
            while len(parts.numbers()) < least and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))  # into the part that comes next
            if process.poll() is not None:
                raise SystemExit("the two processes ended before they were killed: give more --rows")
            kill_all(process)
            print(f"two processes: kill {kill + 1}, {len(parts.numbers())} of {count} parts are there", flush=True)
        if start(data, parts.folder, *part_options, processes=2).wait():
            raise SystemExit("the resumed run failed")
        good = compare(expected, list(load_tables(parts.folder)["train"].rows))
    raise SystemExit(not good)


def make_table(folder: Path, rows: int, rng: random.Random) -> Path:
    """A CSV of sentences and pictures, drawn for each other or not; one picture in fifty is not there."""
    scenes = list(make_scenes(PICTURES, seed=rng.randrange(1 << 30)))
    for number, scene in enumerate(scenes):
        scene["image"].save(folder / f"{number}.png")
    lines = ["image,text,id"]
    for row in range(rows):
        picture, sentence = rng.randrange(PICTURES), scenes[rng.randrange(PICTURES)]["text"]
        lines.append(f'{"gone" if rng.random() < 0.02 else picture}.png,"{sentence}",{row}')
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "table.csv"


def start(data: Path, out: Path, *options: str, processes: int) -> subprocess.Popen[bytes]:
    """`diptych classify` in as many processes, without a GPU."""
    several = ("torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m") if processes > 1 else ()
    command = [sys.executable, "-m", *several, "diptych", "classify", "--data", data, "--out", out, "--quiet", *options]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)


def kill_all(launcher: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a launcher and to what it has started, each of which is in a process group of its own."""
    started = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for pid in (launcher.pid, *map(int, started)):
        os.kill(pid, signal.SIGKILL)
    launcher.wait()


def compare(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Print how the rows of the parts stand to those of the single process; whether they are the same."""
    numbers = [row["row"] for row in found]
    print(f"in the parts: {len(found)} rows, {len({*numbers})} different row numbers of {len(expected)}")
    in_order = numbers == list(range(len(expected)))
    print(f"in order from 0: {'yes' if in_order else 'NO'}")
    if len(found) != len(expected):
        return False
    names = ("id", "image", "text", "status", "reason", "label")
    same = sum(all(a[name] == b[name] for name in names) for a, b in zip(found, expected, strict=True))
    print(f"same {', '.join(names)}: {same} rows")
    furthest = 0.0
    for a, b in zip(found, expected, strict=True):
        if (a["scores"] is None) is not (b["scores"] is None):
            furthest = 1.0
        for label, score in (b["scores"] or {}).items():
            furthest = max(furthest, abs(score - (a["scores"] or b["scores"])[label]))
    print(f"largest difference of a score: {furthest:.1e}")
    return in_order and same == len(expected) and furthest <= 1e-5


if __name__ == "__main__":
    main()
