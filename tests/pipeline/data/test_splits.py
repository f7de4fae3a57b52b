"""A split is picked, and rows are held out of another."""

from __future__ import annotations

import numpy as np
import pytest
from diptych.pipeline.data.splits import hold_out, pick_split
from diptych.pipeline.data.tables import Table
from hypothesis import given, settings
from hypothesis import strategies as st

# splits


def tables(*splits: str) -> dict[str, Table]:
    return {split: Table([], None, split) for split in splits}


@pytest.mark.parametrize(
    ("splits", "wanted", "default", "picked"),
    [
        (("train", "test"), "train", None, "train"),
        (("train", "test"), "train", "test", "train"),
        (("train", "test"), None, "test", "test"),
        (("train",), None, None, "train"),
        (("train",), None, "test", "train"),
    ],
)
def test_a_split_is_picked_by_name_or_alone_or_by_default(splits, wanted, default, picked):
    assert pick_split(tables(*splits), wanted, default=default).name == picked


def test_an_unknown_split_is_named_with_those_that_are_there():
    with pytest.raises(ValueError, match="no split 'dev'; choose one of train, test"):
        pick_split(tables("train", "test"), "dev")


@pytest.mark.parametrize("default", [None, "validation"])
def test_several_splits_need_a_choice(default):
    with pytest.raises(ValueError, match="choose one of train, test with --split"):
        pick_split(tables("train", "test"), None, default=default)


# holding out


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_held_out_rows_are_a_share_of_every_class(labels, fraction, seed):
    table = Table([], None, "data")
    counts = {label: labels.count(label) for label in labels}
    if max(counts.values()) == 1:
        with pytest.raises(ValueError, match="data has one row per class"):
            hold_out(table, labels, fraction=fraction, seed=seed)
        return
    kept, held = hold_out(table, labels, fraction=fraction, seed=seed)
    assert sorted(kept + held) == list(range(len(labels))), "disjoint and complete"
    assert (kept, held) == (sorted(kept), sorted(held))
    assert (kept, held) == hold_out(table, labels, fraction=fraction, seed=seed), "seeded"
    for label, count in counts.items():
        share = sum(labels[row] == label for row in held)
        if count == 1:
            assert share == 0, "the only row of a class is trained on"
        else:
            assert 1 <= share < count
            assert abs(share - fraction * count) <= 1


def test_another_seed_holds_out_other_rows():
    table, labels = Table([], None, "data"), [0, 1] * 50
    assert hold_out(table, labels, fraction=0.2, seed=0) != hold_out(table, labels, fraction=0.2, seed=1)


def test_held_out_rows_are_drawn_from_the_whole_table():
    held = np.array([hold_out(Table([], None, ""), [0] * 20, fraction=0.2, seed=seed)[1] for seed in range(60)])
    assert np.unique(held).tolist() == list(range(20))
