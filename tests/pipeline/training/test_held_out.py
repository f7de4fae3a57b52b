"""Validation rows share no image and no text with training rows, where that can be."""

from __future__ import annotations

import io

import pytest
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table
from diptych.pipeline.runtime.console import Console
from diptych.pipeline.training.held_out import hold_out_unseen

from ...conftest import picture


def stored(seed: int, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture("red", seed).save(file, kind, **options)
    return file.getvalue()


def choose(rows, classes=None):
    said: list[str] = []
    classes = [0] * len(rows) if classes is None else classes
    table = Table([{"image": image, "text": text} for image, text in rows], None, "table")
    kept, held = hold_out_unseen(
        table, Columns("image", "text"), classes, fraction=0.2, seed=1, console=Console(said.append, bars=False)
    )
    return kept, held, said


def test_rows_that_occur_twice_stay_together_however_they_are_stored():
    rows = [(stored(i), f"a shirt {i}") for i in range(40)]
    rows += [(stored(i, "BMP" if i % 2 else "PNG", optimize=True), f"A  shirt {i}") for i in range(40)]
    kept, held, said = choose(rows)
    assert not {row % 40 for row in kept} & {row % 40 for row in held}
    assert len(held) == 16
    repeats = "40 different images and 40 different texts in 80 rows"
    assert said == [f"validation: rows that share an image or a text stay on one side ({repeats})"]


@pytest.mark.parametrize("which", ["image", "text"])
def test_one_of_the_two_is_enough(which):
    rows = [
        (stored(i // 2 if which == "image" else i), f"a shirt {i // 2 if which == 'text' else i}") for i in range(60)
    ]
    kept, held, _ = choose(rows)
    assert not {row // 2 for row in kept} & {row // 2 for row in held}
    assert len(held) == 12


def test_where_texts_repeat_all_over_images_alone_are_kept_apart_and_a_line_says_so():
    rows = [(stored(i // 2), ("a shirt", "a shoe")[i // 2 % 2]) for i in range(60)]
    kept, held, said = choose(rows)
    assert not {row // 2 for row in kept} & {row // 2 for row in held}
    assert said[0].startswith("validation: rows that share an image stay on one side, not all that share one (30 diff")


def test_rows_that_share_nothing_are_chosen_as_ever_and_nothing_is_said():
    kept, held, said = choose([(stored(i), f"a shirt {i}") for i in range(30)])
    assert (len(kept), len(held), said) == (24, 6, [])


def test_what_is_missing_is_shared_by_nobody():
    rows = [(None, f"a shirt {i}") for i in range(20)] + [(stored(i), None) for i in range(20)]
    assert choose(rows)[2] == []
