"""Memory of training on a stream, at 2,000 rows and at 20,000.

    python examples/benchmarks/streaming_memory.py [--rows 2000 20000]

Writes that many pictures of 64 x 64 pixels, each another, with sentences into one parquet file, all in one row
group, as pandas would; trains a small model on it for an epoch in a process of its own with `stream=True`, and prints
the largest resident memory of that process, and how many times the first file's that is.
"""

from __future__ import annotations

import argparse
import datetime
import io
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import high_water


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.train:
        return train_once(*map(Path, options.train))
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| rows | file, MB | peak, MB | of the first |\n|---|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as name:
        for rows in options.rows:
            file = Path(name) / f"{rows}.parquet"
            write(file, rows)
            command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--train", str(file)]
            found = subprocess.run([*command, f"{name}/{rows}"], check=True, capture_output=True, text=True)
            peak = float(found.stdout.splitlines()[-1])
            first = first or peak
            print(f"| {rows:,} | {file.stat().st_size / 1e6:.0f} | {peak:.0f} | {peak / first:.3f} |", flush=True)
    return None


def write(file: Path, rows: int) -> None:
    """Pictures of noise over red or blue, as PNG, in one row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng, pictures = np.random.default_rng(0), []
    for row in range(rows):
        pixels = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        pixels[..., 2 * (row % 2)] += 160
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "PNG")
        pictures.append(held.getvalue())
    texts = [f"the picture of row {row}" for row in range(rows)]
    table = pa.table({"image": pictures, "text": texts, "label": [("red", "blue")[row % 2] for row in range(rows)]})
    pq.write_table(table, file, row_group_size=rows)


def train_once(file: Path, out: Path) -> None:
    """Train from the encoders of the model that ships, and print the process's peak in MB."""
    from diptych import train
    from diptych.pipeline.demo.scenes import SHIPPED_MODEL

    shipped, few = str(SHIPPED_MODEL), {"fusion": "mlp"}
    train(file, out, image_encoder=shipped, text_encoder=shipped, architecture=few, epochs=1, quiet=True, stream=True)
    print(high_water())


if __name__ == "__main__":
    main()
