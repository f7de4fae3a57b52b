"""Which images and which texts are the same, whatever file holds them, and which rows belong together by that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..runtime.seeds import content_id

NOTHING = 0
"""The id of what is not there."""


def image_id(image: Image.Image | None) -> int:
    """An id of 63 bits, equal where pixels and size are."""
    return NOTHING if image is None else content_id(repr(image.size).encode(), image.tobytes())


def pieces_id(pieces: Sequence[int] | None) -> int:
    """An id of 63 bits, equal where word pieces are: case and spacing count only if the tokenizer sees them."""
    return NOTHING if pieces is None else content_id(np.array(pieces, dtype=np.int32).tobytes())


def words_id(text: str | None) -> int:
    """An id of 63 bits, equal where words are, but for case and spacing."""
    return NOTHING if text is None else content_id(" ".join(text.split()).casefold().encode("utf-8", "replace"))


def content_groups(*ids: Sequence[int]) -> list[int]:
    """Rows that share an id, directly or through others, as groups: for each row the first row of its group.

    Args:
        ids: Of each row, once for each content; `NOTHING` is shared by nobody.
    """
    group = list(range(len(ids[0])))

    def first(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    for contents in ids:
        seen: dict[int, int] = {}
        for row, content in enumerate(contents):
            if content != NOTHING:
                one, other = sorted((first(row), first(seen.setdefault(content, row))))
                group[other] = one
    return [first(row) for row in range(len(group))]
