"""Which rows train, which validate and which test: by the names of splits; else some are held out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Splits in their order, and the words that `datasets` knows them by."""
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}


def split_of(name: str) -> str | None:
    """The split that a name tells by a word in it, in any case and whatever parts it from others.

    None if it tells of none, or of two.
    """
    words = re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    found = {_SPLIT_OF[word.lower()] for word in words if word.lower() in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def by_split(parts: Mapping[str, T]) -> dict[str, T]:
    """Parts under the usual names of their splits; one that shares its split with others keeps its own name."""
    splits = {str(name): split_of(str(name)) for name in parts}
    told = list(splits.values())
    usual = {
        name: split if split and (name == split or told.count(split) == 1) else name for name, split in splits.items()
    }
    found = {usual[str(name)]: part for name, part in parts.items()}
    return {split: found[split] for split in (*SPLITS, *found) if split in found}


def pick_split(tables: Mapping[str, T], split: str | None, *, default: str | None = None) -> T:
    """The split asked for, by any of its names; else the only one; else `default`.

    Raises:
        ValueError: There is no such split, or several and none was asked for.
    """
    if split is not None and split not in tables and split_of(split) in tables:
        split = split_of(split)
    if split is not None and split not in tables:
        raise ValueError(f"there is no split {split!r}; choose one of {', '.join(tables)}")
    if split is None:
        split = next(iter(tables)) if len(tables) == 1 else default
    if split is None or split not in tables:
        raise ValueError(f"the data has several splits: choose one of {', '.join(tables)} with --split")
    return tables[split]


def hold_out(
    table: Any, labels: Sequence[int], *, fraction: float, seed: int, groups: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Row numbers to train on and to validate with: a seeded share of every class, at least one row where it has two.

    Rows of a group stay on one side. A group counts for the rarest class among its rows; of each class so many groups
    are held out that their rows come nearest to its share, and one group at least is trained on.

    Args:
        fraction: Of the rows to validate with.
        groups: Of each row; each row is a group of its own if not given.

    Raises:
        ValueError: No class has two groups, so that nothing can be held out.
    """
    generator = np.random.default_rng(seed)
    classes = np.asarray(labels)
    names, group_of = np.unique(np.arange(len(classes)) if groups is None else groups, return_inverse=True)
    _, class_of, counts = np.unique(classes, return_inverse=True, return_counts=True)
    rarest = np.full(len(names), -1)
    for row in np.argsort(-counts[class_of], kind="stable"):  # the rarest last
        rarest[group_of[row]] = class_of[row]
    sizes = np.bincount(group_of)
    held: list[int] = []
    for label in range(len(counts)):
        members = np.flatnonzero(rarest == label)
        rows = int(sizes[members].sum())
        wanted, taken = min(max(1, round(fraction * rows)), rows - 1), 0
        for left, group in zip(range(len(members), 0, -1), generator.permutation(members), strict=True):
            size = int(sizes[group])
            if left > 1 and taken < wanted and (size == 1 or abs(taken + size - wanted) <= abs(taken - wanted)):
                held.append(int(group))
                taken += size
    if not held:
        raise ValueError(f"{table.name} has one row per class: nothing can be held out; give a validation split")
    is_held = np.isin(group_of, held)
    return np.flatnonzero(~is_held).tolist(), np.flatnonzero(is_held).tolist()


def strata(targets: Sequence[tuple[int, ...]]) -> list[int]:
    """A class for each row to be stratified by: the rarest of those it has, or one more class if it has none.

    Rows of a rare class are few, and must not all fall on one side; those of a common one do well by chance.
    """
    there = np.array(targets) > 0  # (rows, classes)
    counts = np.where(there, there.sum(axis=0), len(there) + 1)
    return np.where(there.any(axis=1), counts.argmin(axis=1), there.shape[1]).tolist()


def has_training_split(splits: Collection[str]) -> bool:
    """Whether one of these can be trained on: one named train, or the only one if its name says nothing else."""
    return "train" in splits or (len(splits) == 1 and not set(splits) & set(SPLITS))


def training_table(tables: Mapping[str, T]) -> T:
    """The split to train on.

    Raises:
        ValueError: There is no such split, only those to validate with or to test.
    """
    if has_training_split(tables):
        return tables["train"] if "train" in tables else next(iter(tables.values()))
    raise ValueError(
        f"there is no split to train on, only {', '.join(tables)}: call one train, or give the file or the split itself"
    )
