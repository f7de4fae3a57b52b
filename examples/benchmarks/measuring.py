"""How the benchmarks measure: medians of CPU seconds of ways that take turns, and the peak memory of a process."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "transformers", "pillow", "onnxruntime")


def seconds(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each way, which take turns; a first round warms up and does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def conditions(rounds: int) -> str:
    """When, where and with what something was measured, in a line."""
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, one thread"
    python = platform.python_version()
    return f"{datetime.date.today()}, {machine}, {versions}, Python {python}, medians of {rounds} rounds"


def high_water() -> float:
    """The process's peak resident memory in MB; `ru_maxrss` would start from the parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("no VmHWM in /proc/self/status: peak memory is measured on Linux only")
    return int(found[1]) / 1024
