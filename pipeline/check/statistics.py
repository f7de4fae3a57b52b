"""What the facts of a table's rows amount to, in figures: counts, repeats, leakage, contradictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from .scan import Facts, joined

TINY = 16
"""Pixels a side, below which a picture shows little."""
HUGE = 25_000_000
"""Pixels, above which decoding a picture takes longer than classifying it."""


def figures(facts: Facts, names: Sequence[Any], *, unit: str, max_length: int | None) -> dict[str, Any]:
    """Counts of a split's rows, images, texts and labels.

    Args:
        facts: Of the split.
        names: Labels by class index.
        unit: Of `facts.lengths`: words or tokens.
        max_length: Longer texts are counted; None counts none.
    """
    lengths = np.sort(facts.lengths[facts.texts != 0])
    sizes = facts.sizes[facts.images != 0]
    sizes = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
    counts = class_counts(facts, names)
    ends: list[Any] = [list(item) for item in counts.items()] or [None]

    def size(index: int) -> list[int] | None:
        return sizes[index].tolist() if len(sizes) else None

    def length(index: int) -> int | None:
        return int(lengths[index]) if len(lengths) else None

    return {
        "rows": len(facts),
        "statuses": dict(facts.statuses),
        "images": {
            "usable": len(sizes),
            "cut_short": facts.cut_short,
            **repeats(facts.images),
            "tiny": int((sizes.min(axis=1, initial=TINY) < TINY).sum()),
            "huge": int((sizes.prod(axis=1) > HUGE).sum()),
            "sizes": len(np.unique(sizes, axis=0)),
            "smallest": size(0),
            "median": size(len(sizes) // 2),
            "largest": size(-1),
            # of its area, median: what the largest square in its middle holds
            "in_crop": round(float(np.median(sizes.min(axis=1) / sizes.max(axis=1))), 4) if len(sizes) else None,
        },
        "texts": {
            "usable": len(lengths),
            **repeats(facts.texts),
            "unit": unit,
            "shortest": length(0),
            "median": length(len(lengths) // 2),
            "longest": length(-1),
            "too_long": None if max_length is None else int((lengths > max_length).sum()),
        },
        "labels": {
            "missing": int((facts.labels < 0).sum()),
            "classes": len(counts),
            "counts": counts,
            "largest": ends[0],
            "smallest": ends[-1],
            "imbalance": ends[0][1] / ends[-1][1] if counts else None,
            "single": [name for name, count in counts.items() if count == 1],
        },
    }


def class_counts(facts: Facts, names: Sequence[Any]) -> dict[str, int]:
    """Rows by label, the largest class first; a row of several labels counts with each of them."""
    codes, counts = np.unique(facts.labels[facts.labels >= 0], return_counts=True)
    found: Counter[str] = Counter()
    for code, count in zip(codes, counts, strict=True):
        found.update(dict.fromkeys(each_label(names[code]), int(count)))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def each_label(name: Any) -> tuple[str, ...]:
    """The labels of a class index's name: itself, or those of a tuple."""
    return name if isinstance(name, tuple) else (name,)


def leakage(parts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """Rows of each split whose image, text, or both stand in an earlier split too, with three examples of each."""
    found: list[dict[str, Any]] = []
    for (first, a), (second, b) in combinations(parts.items(), 2):
        entry: dict[str, Any] = {"splits": [first, second]}
        for what in ("images", "texts", "pairs"):
            here, there = getattr(b, what), getattr(a, what)
            rows = np.flatnonzero(np.isin(here, there) & (here != 0))
            examples = [{first: int(np.flatnonzero(there == here[row])[0]), second: int(row)} for row in rows[:3]]
            entry[what] = {"rows": len(rows), "examples": examples}
        found.append(entry)
    return found


def contradictions(parts: Mapping[str, Facts], names: Sequence[Any]) -> dict[str, Any]:
    """Rows that have the same image and text, and different labels, over all splits."""
    whole = joined(parts.values())
    splits = list(parts)
    starts = np.cumsum([0, *(len(part) for part in parts.values())])
    usable = np.flatnonzero((whole.pairs != 0) & (whole.labels >= 0))
    order = usable[np.lexsort((whole.labels[usable], whole.pairs[usable]))]
    pairs, labels = whole.pairs[order], whole.labels[order]
    differs = np.flatnonzero((pairs[1:] == pairs[:-1]) & (labels[1:] != labels[:-1]))
    wrong = np.unique(pairs[differs])

    def place(row: int) -> dict[str, Any]:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return {"split": splits[part], "row": int(row - starts[part]), "label": names[whole.labels[row]]}

    examples = [[place(row) for row in sorted(order[i : i + 2])] for i in differs[:3]]
    return {"pairs": len(wrong), "rows": int(np.isin(pairs, wrong).sum()), "examples": examples}


def repeats(hashes: np.ndarray) -> dict[str, int]:
    """How many are distinct, how many of these occur more than once, and in how many rows."""
    counts = np.unique(hashes[hashes != 0], return_counts=True)[1]
    repeated = counts[counts > 1]
    return {"distinct": len(counts), "repeated": len(repeated), "rows_sharing": int(repeated.sum())}
