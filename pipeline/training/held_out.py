"""Rows to validate with, where the data has no split for it: none shares an image or a text with a training row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.content import content_groups, image_id, words_id
from ..data.rows import Columns, read_pair
from ..data.splits import hold_out
from ..data.tables import Table
from ..runtime.console import Console

_ENOUGH = (64, 64)
"""Pixels. Large JPEGs are compared at the smallest scale that has these, as decoding all of them takes long."""


def hold_out_unseen(
    table: Table, columns: Columns, classes: Sequence[int], *, fraction: float, seed: int, console: Console
) -> tuple[list[int], list[int]]:
    """As `hold_out`, rows that share an image or a text staying on one side.

    Where so many rows hang together by that that the share cannot be met, those that share an image do, or those that
    share a text, or at least equal rows. A line says so.

    Args:
        classes: Of each row, to stratify by.
        fraction: Of the rows to validate with.
        console: Shows how far it has come, and what stays together.

    Raises:
        ValueError: Nothing can be held out.
    """
    plain = hold_out(table, classes, fraction=fraction, seed=seed)
    images, texts = _content_ids(table, columns, console)
    pairs = [hash(pair) | 1 for pair in zip(images, texts, strict=True)]
    levels = (
        ("share an image or a text", content_groups(images, texts)),
        ("share an image", content_groups(images)),
        ("share a text", content_groups(texts)),
        ("are equal", content_groups(pairs)),
    )
    repeats = f"{len({*images})} different images and {len({*texts})} different texts in {len(images)} rows"
    for level, (what, groups) in enumerate(levels):
        try:
            found = hold_out(table, classes, fraction=fraction, seed=seed, groups=groups)
        except ValueError:
            continue
        if not _is_like(found[1], plain[1], classes):
            continue
        if level:
            console.print(f"validation: rows that {what} stay on one side, not all that share one ({repeats})")
        elif len({*groups}) < len(groups):
            console.print(f"validation: rows that {what} stay on one side ({repeats})")
        return found
    console.print(f"validation: rows to train on and to validate with share images and texts ({repeats})")
    return plain


def _is_like(held: list[int], plain: list[int], classes: Sequence[int]) -> bool:
    """Whether about as many rows are held out as without groups, of at least half as many classes."""
    kinds, plain_kinds = (len(np.unique(np.asarray(classes)[rows])) for rows in (held, plain))
    return len(plain) / 2 <= len(held) <= 2 * len(plain) and 2 * kinds >= plain_kinds


def _content_ids(table: Table, columns: Columns, console: Console) -> tuple[list[int], list[int]]:
    """Ids of the image and of the text of each row; each row is read by one of all processes."""

    def ids(row: int) -> tuple[int, int, int]:
        pair = read_pair(row, table.rows[row], columns, table.folder, at_least=_ENOUGH)
        return row, image_id(pair.image), words_id(pair.text)

    state = PartialState()
    mine = range(state.process_index, len(table.rows), state.num_processes)
    found = sorted(gather_object([ids(row) for row in console.progress(mine, desc="comparing rows", unit="row")]))
    return [image for _, image, _ in found], [text for _, _, text in found]
