"""What the rows of a check amount to: counts, repeats, leakage, contradictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, islice
from typing import Any

import numpy as np
import pandas as pd

TINY = 16
"""Pixels a side, below which a picture shows little."""
HUGE = 25_000_000
"""Pixels, above which decoding a picture takes longer than classifying it."""
LOPSIDED = 20
"""Times that the largest class is the smallest, above which accuracy says little."""
STAND_IN = 0.02
"""Share of a split's rows above which one image or text that they have in common looks like a placeholder."""
STAND_IN_ROWS = 10
"""Rows below which they do not."""


def metrics(part: pd.DataFrame, names: Sequence[Any], *, unit: str, max_length: int | None) -> dict[str, Any]:
    """Counts of rows, images, texts and labels.

    Args:
        part: Rows, as of `together`.
        names: Labels by class index.
        unit: Of `length`: words or tokens.
        max_length: Longer texts are counted; None counts none.
    """
    lengths = np.sort(part["length"][part["text"] != 0])
    sizes = part.loc[part["image"] != 0, ["width", "height"]].to_numpy(dtype=np.int64)
    areas = sizes.prod(axis=1)
    sizes = sizes[np.argsort(areas, kind="stable")]
    counts = class_counts(part, names)
    ends: list[Any] = [list(item) for item in counts.items()] or [None]

    def at(values: np.ndarray, index: int) -> Any:
        return values[index].tolist() if len(values) else None

    return {
        "rows": len(part),
        "statuses": {status: int(n) for status, n in part["status"].value_counts().items() if n},
        "images": {
            "usable": len(sizes),
            "cut_short": int(part["cut"].sum()),
            **repeats(part["image"]),
            "tiny": int((sizes.min(axis=1, initial=TINY) < TINY).sum()),
            "huge": int((areas > HUGE).sum()),
            "sizes": len(np.unique(sizes, axis=0)),
            "smallest": at(sizes, 0),
            "median": at(sizes, len(sizes) // 2),
            "largest": at(sizes, -1),
            # of its area, median: what the largest square in its middle holds
            "in_crop": round(float(np.median(sizes.min(axis=1) / sizes.max(axis=1))), 4) if len(sizes) else None,
        },
        "texts": {
            "usable": len(lengths),
            **repeats(part["text"]),
            "unit": unit,
            "shortest": at(lengths, 0),
            "median": at(lengths, len(lengths) // 2),
            "longest": at(lengths, -1),
            "too_long": None if max_length is None else int((lengths > max_length).sum()),
        },
        "labels": {
            "missing": int((part["label"] < 0).sum()),
            "classes": len(counts),
            "counts": counts,
            "largest": ends[0],
            "smallest": ends[-1],
            "imbalance": ends[0][1] / ends[-1][1] if counts else None,
            "single": [name for name, count in counts.items() if count == 1],
        },
    }


def class_counts(part: pd.DataFrame, names: Sequence[Any]) -> dict[str, int]:
    """Rows by label, the largest class first; a row of several labels counts with each of them."""
    found: Counter[str] = Counter()
    for code, count in part["label"][part["label"] >= 0].value_counts().items():
        found.update(dict.fromkeys(each_label(names[code]), int(count)))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def each_label(name: Any) -> tuple[str, ...]:
    """The labels of a class index's name: itself, or those of a tuple."""
    return name if isinstance(name, tuple) else (name,)


def repeats(hashes: pd.Series[Any]) -> dict[str, int]:
    """How many are distinct, how many of these occur more than once, and in how many rows."""
    counts = hashes[hashes != 0].value_counts()
    repeated = counts[counts > 1]
    return {"distinct": len(counts), "repeated": len(repeated), "rows_sharing": int(repeated.sum())}


def leakage(whole: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of each split whose image, text, or both stand in an earlier split too, with three examples of each."""
    found: list[dict[str, Any]] = []
    parts = {split: whole[whole["split"] == split] for split in whole["split"].cat.categories}
    for (first, a), (second, b) in combinations(parts.items(), 2):
        entry: dict[str, Any] = {"splits": [first, second]}
        for what in ("image", "text", "pair"):
            shared = b[b[what].isin(a[what]) & (b[what] != 0)]
            places = a.drop_duplicates(what).set_index(what)["row"]
            examples = [{first: int(places[row[what]]), second: int(row["row"])} for _, row in shared[:3].iterrows()]
            entry[f"{what}s"] = {"rows": len(shared), "examples": examples}
        found.append(entry)
    return found


def contradictions(whole: pd.DataFrame, names: Sequence[Any]) -> dict[str, Any]:
    """Rows that have the same image and text, and different labels, over all splits."""
    usable = whole[(whole["pair"] != 0) & (whole["label"] >= 0)]
    clash = usable[usable.groupby("pair")["label"].transform("nunique") > 1]
    firsts = clash.drop_duplicates(["pair", "label"]).groupby("pair", sort=False).head(2)
    examples = [
        [{"split": row["split"], "row": int(row["row"]), "label": names[row["label"]]} for _, row in two.iterrows()]
        for _, two in islice(firsts.groupby("pair", sort=False), 3)
    ]
    return {"pairs": int(clash["pair"].nunique()), "rows": len(clash), "examples": examples}
