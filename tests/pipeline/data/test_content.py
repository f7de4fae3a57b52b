"""What is the same content, and which rows belong together by it."""

from __future__ import annotations

import itertools

import pytest
from diptych.pipeline.data.content import content_groups, image_id, words_id
from diptych.pipeline.data.splits import hold_out
from diptych.pipeline.data.tables import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

IDS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(IDS)
def test_groups_are_the_connected_rows(rows):
    groups = content_groups([a for a, _ in rows], [b for _, b in rows])
    linked = [{i} for i in range(len(rows))]  # grown until nothing changes: slow, and plainly right
    for _ in rows:
        for i, j in itertools.combinations(range(len(rows)), 2):
            if any(x == y != 0 for x, y in zip(rows[i], rows[j], strict=True)):
                linked[i] |= linked[j]
                linked[j] |= linked[i]
    for i, j in itertools.combinations(range(len(rows)), 2):
        assert (groups[i] == groups[j]) == (j in linked[i])


@settings(max_examples=200, deadline=None)
@given(IDS, st.integers(1, 3), st.integers(0, 5))
def test_no_group_is_on_both_sides_and_every_row_is_on_one(rows, classes, seed):
    groups = content_groups([a for a, _ in rows])
    labels = [b % classes for _, b in rows]
    try:
        kept, held = hold_out(Table([], None, "t"), labels, fraction=0.3, seed=seed, groups=groups)
    except ValueError:  # no class has two groups that fit
        return
    assert sorted(kept + held) == list(range(len(rows)))
    assert kept
    assert not {groups[row] for row in kept} & {groups[row] for row in held}


@pytest.mark.parametrize("copies", [2, 3])
def test_of_repeated_rows_every_class_has_its_share(copies):
    labels = [row // copies % 4 for row in range(400 * copies)]
    groups = [row // copies for row in range(len(labels))]
    _, held = hold_out(Table([], None, "t"), labels, fraction=0.1, seed=0, groups=groups)
    counts = [sum(labels[row] == label for row in held) for label in range(4)]
    assert all(abs(count - 10 * copies) < copies for count in counts)


def test_equal_pixels_and_words_are_equal_and_others_are_not():
    picture = Image.new("RGB", (4, 6), "red")
    assert image_id(picture) == image_id(picture.copy())
    assert image_id(picture) != image_id(Image.new("RGB", (6, 4), "red"))  # as many pixels, all alike
    assert words_id("A  red shirt ") == words_id("a red\tShirt") != words_id("a redshirt")
    assert image_id(None) == words_id(None) == 0
