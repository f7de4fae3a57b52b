"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may keep busy: those it may run on, and no more than its share of time amounts to.

    A container often sees every CPU of its host and has the time of two. That share stands in the files
    of control groups (version 2, Linux), each of which also limits the groups inside it.

    Args:
        root: Where `proc` and `sys` are.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::") for line in lines if line.startswith("0::")).strip("/")
    except (OSError, StopIteration):
        return count
    top = root / "sys/fs/cgroup"
    group = top / path
    for folder in (group, *group.parents):
        if folder == top or top in folder.parents:
            count = min(count, _quota(folder / "cpu.max") or count)
    return max(1, count)


def limit_threads() -> None:
    """Have torch, which is not loaded yet, start no more threads than there are usable CPUs.

    By itself it starts one for each core of the machine. What the environment says already stays.
    """
    if "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ:
        return
    count = usable_cpus()
    if count < (os.cpu_count() or 1):
        os.environ["OMP_NUM_THREADS"] = str(count)


def _quota(file: Path) -> int | None:
    """Whole CPUs that a group's share of time amounts to, rounded up; None if it has no limit."""
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
