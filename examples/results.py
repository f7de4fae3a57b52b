"""What the runs of `ablation.py` gave: a line each in OUT/results.jsonl, so that none is run twice; and their table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Result:
    """What one run gave.

    Attributes:
        hits: Of each test row, whether it was right.
        parameters: Of the fusion and the head.
        seconds: CPU seconds of one epoch.
        image_weight: Mean over the test rows; None if the model learns none.
    """

    hits: list[bool]
    parameters: int
    seconds: float
    image_weight: float | None


def remember(out: Path, stage: str, name: str, seed: int, run: Callable[[], Result]) -> None:
    """Run, unless OUT/results.jsonl has the result; then write it there."""
    if (stage, name, seed) in {(r["stage"], r["name"], r["seed"]) for r in results(out)}:
        return
    print(f"\n{stage}: {name}, seed {seed}", flush=True)
    started = time.perf_counter()
    result = run()
    line = {"stage": stage, "name": name, "seed": seed, "date": str(date.today()), **asdict(result)}
    line |= {"rows": len(result.hits), "hits": np.packbits(result.hits).tobytes().hex()}
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{np.mean(result.hits):.1%}, image weight {result.image_weight}, {time.perf_counter() - started:.0f} s")


def results(out: Path) -> list[dict[str, Any]]:
    """What has been run."""
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def write_table(out: Path, stages: list[str], clusters: np.ndarray | None = None) -> None:
    """Print the table of what has been run of some stages, and write it to OUT, named by the first.

    Args:
        out: The folder of results.
        stages: Which, side by side.
        clusters: Of each test row, the number of the group that its error is shared with; each row is one of
            its own if not given, and each quadruple of Scenes.
    """
    by_name: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for result in results(out):
        if result["stage"] in stages:
            by_name.setdefault(result["name"], {}).setdefault(result["stage"], []).append(result)
    heads = [f"{stage} | parameters | CPU s an epoch | image weight" for stage in stages]
    lines = [f"| | seeds | {' | '.join(heads)} |", "|---|---|" + "---|---|---|---|" * len(stages)]
    for name, by_stage in by_name.items():
        cells = [str(max(len(runs) for runs in by_stage.values()))]
        for stage in stages:
            if not (runs := by_stage.get(stage, [])):
                cells += ["-"] * 4
                continue
            hits = np.mean([unpack(run["hits"], run["rows"]) for run in runs], axis=0)
            groups = clusters if clusters is not None else np.arange(len(hits)) // (4 if stage == "scenes" else 1)
            low, high = interval(hits, groups)
            weights = [run["image_weight"] for run in runs]
            cells += [
                f"{hits.mean():.1%} ({100 * low:.1f} to {100 * high:.1f})",
                f"{runs[0]['parameters'] / 1e6:.2f} M",
                f"{np.median([run['seconds'] for run in runs]):.0f}",
                "-" if None in weights else f"{np.mean(weights):.2f}",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    (out / f"{stages[0]}.md").write_text(f"{date.today()}\n\n{table}\n", encoding="utf-8")
    print(f"\n{table}")


def unpack(text: str, count: int) -> np.ndarray:
    """Hits as they stand in results.jsonl."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(float)


def interval(hits: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, the rows of a cluster counting as one draw."""
    sums, sizes = np.bincount(clusters, hits), np.bincount(clusters)
    mean = sums.sum() / sizes.sum()
    error = 1.96 * np.sqrt(np.square(sums - mean * sizes).sum() * len(sizes) / (len(sizes) - 1)) / sizes.sum()
    return max(0.0, mean - error), min(1.0, mean + error)
