"""Which rows train and which validate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .tables import Table


def pick_split(tables: Mapping[str, Table], split: str | None, *, default: str | None = None) -> Table:
    """The split asked for; else the only one; else `default`.

    Raises:
        ValueError: There is no such split, or several and none was asked for.
    """
    if split is not None and split not in tables:
        raise ValueError(f"there is no split {split!r}; choose one of {', '.join(tables)}")
    if split is None:
        split = next(iter(tables)) if len(tables) == 1 else default
    if split is None or split not in tables:
        raise ValueError(f"the data has several splits: choose one of {', '.join(tables)} with --split")
    return tables[split]


def hold_out(table: Table, labels: Sequence[int], *, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers to train on and to validate with: a seeded share of every class, at least one where it has two.

    Raises:
        ValueError: No class has two rows, so that nothing can be held out.
    """
    generator = np.random.default_rng(seed)
    classes = np.asarray(labels)
    held: list[int] = []
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held += generator.permutation(rows)[:count].tolist()
    if not held:
        raise ValueError(f"{table.name} has one row per class: nothing can be held out; give a validation split")
    kept = set(range(len(classes))) - set(held)
    return sorted(kept), sorted(held)


def strata(targets: Sequence[tuple[int, ...]]) -> list[int]:
    """A class for each row to be stratified by: the rarest of those it has, or one more class if it has none.

    Rows of a rare class are few, and must not all fall on one side; those of a common one do well by chance.
    """
    there = np.array(targets) > 0  # (rows, classes)
    counts = np.where(there, there.sum(axis=0), len(there) + 1)
    return np.where(there.any(axis=1), counts.argmin(axis=1), there.shape[1]).tolist()


def training_table(tables: Mapping[str, Table]) -> Table:
    """The split to train on."""
    return tables["train"] if "train" in tables else next(iter(tables.values()))
