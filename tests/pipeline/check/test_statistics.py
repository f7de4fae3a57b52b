"""Metrics of a check, against plain loops over the rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from diptych.pipeline.check.scan import frame_of, together
from diptych.pipeline.check.statistics import class_counts, contradictions, leakage, metrics, repeats
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ["a", "b", "c"]
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(-2, 2)), max_size=12)  # image, text, label
PARTS = st.tuples(ROWS, ROWS, ROWS).map(lambda parts: dict(zip(("train", "validation", "test"), parts, strict=True)))


def frame(rows) -> pd.DataFrame:
    numbers = np.array(rows, dtype=np.int64).reshape(-1, 3)
    images, texts = (numbers[:, i].astype(np.uint64) for i in (0, 1))
    return frame_of(image=images, text=texts, width=images, height=images * 2, length=texts, label=numbers[:, 2])


def whole(parts) -> pd.DataFrame:
    return together({split: frame(rows) for split, rows in parts.items()})


@given(ROWS)
def test_repeats(rows):
    counts = Counter(image for image, _, _ in rows if image)
    again = [count for count in counts.values() if count > 1]
    assert repeats(frame(rows)["image"]) == {
        "distinct": len(counts),
        "repeated": len(again),
        "rows_sharing": sum(again),
    }


@given(ROWS)
def test_class_counts_run_from_the_largest_to_the_smallest(rows):
    counts = class_counts(frame(rows), NAMES)
    assert counts == Counter(NAMES[label] for _, _, label in rows if label >= 0)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


@settings(max_examples=60, deadline=None)
@given(PARTS)
def test_leakage_is_every_later_row_that_an_earlier_split_has(parts):
    keys = {"images": lambda r: r[0], "texts": lambda r: r[1], "pairs": lambda r: r[:2] if r[0] and r[1] else 0}
    found = leakage(whole(parts))
    splits = [["train", "validation"], ["train", "test"], ["validation", "test"]]
    assert [leak["splits"] for leak in found] == splits
    for leak in found:
        first, second = leak["splits"]
        for what, key in keys.items():
            there = [key(row) for row in parts[first]]
            shared = [i for i, row in enumerate(parts[second]) if key(row) and key(row) in there]
            examples = [{first: there.index(key(parts[second][i])), second: i} for i in shared[:3]]
            assert leak[what] == {"rows": len(shared), "examples": examples}


@settings(max_examples=60, deadline=None)
@given(PARTS)
def test_contradictions_are_equal_pairs_with_unequal_labels(parts):
    labels: dict = {}
    for rows in parts.values():
        for image, text, label in rows:
            if image and text and label >= 0:
                labels.setdefault((image, text), []).append(label)
    clashing = {pair: found for pair, found in labels.items() if len(set(found)) > 1}
    found = contradictions(whole(parts), NAMES)
    assert (found["pairs"], found["rows"]) == (len(clashing), sum(map(len, clashing.values())))
    assert bool(found["examples"]) is bool(clashing)
    for one, other in found["examples"]:
        rows = [parts[place["split"]][place["row"]] for place in (one, other)]
        assert rows[0][:2] == rows[1][:2]
        assert [NAMES[row[2]] for row in rows] == [one["label"], other["label"]]
        assert one["label"] != other["label"]


def test_metrics_of_no_rows_are_zeros_and_nothing():
    found = metrics(frame([]), NAMES, unit="words", max_length=None)
    assert (found["rows"], found["images"]["smallest"], found["texts"]["longest"]) == (0, None, None)
    assert (found["labels"]["counts"], found["labels"]["imbalance"]) == ({}, None)


def test_metrics_of_a_few_rows():
    found = metrics(frame([(1, 1, 0), (2, 2, 0), (4, 4, 0), (0, 0, 1), (4, 3, -1)]), NAMES, unit="tokens", max_length=2)
    images, texts, labels = found["images"], found["texts"], found["labels"]
    assert (images["usable"], images["distinct"], images["sizes"]) == (4, 3, 3)
    assert (images["smallest"], images["median"], images["largest"]) == ([1, 2], [4, 8], [4, 8])
    assert images["in_crop"] == 0.5
    assert (texts["shortest"], texts["median"], texts["longest"], texts["too_long"]) == (1, 3, 4, 2)
    assert (labels["missing"], labels["classes"], labels["single"]) == (1, 2, ["b"])
    assert (labels["largest"], labels["smallest"], labels["imbalance"]) == (["a", 3], ["b", 1], 3)


def test_tiny_and_huge_images_are_counted_from_the_limit():
    def part(*sizes):
        width, height = np.array(sizes, dtype="I").T
        return frame_of(image=np.arange(1, len(sizes) + 1, dtype="Q"), width=width, height=height)

    found = metrics(part((15, 99), (99, 15), (16, 16), (5000, 5000), (5001, 5000)), [], unit="words", max_length=None)
    assert (found["images"]["tiny"], found["images"]["huge"]) == (2, 1)


def test_what_a_cut_from_the_middle_would_show_is_said():
    def seen(*sizes):
        width, height = np.array(sizes, dtype="I").reshape(-1, 2).T
        part = frame_of(image=np.arange(1, len(sizes) + 1, dtype="Q"), width=width, height=height)
        return metrics(part, [], unit="words", max_length=None)["images"]["in_crop"]

    assert (seen((400, 100)), seen((60, 80)), seen((9, 9)), seen()) == (0.25, 0.75, 1.0, None)
    assert seen((400, 100), (60, 80), (80, 60)) == 0.75


@given(PARTS)
def test_splits_together_are_all_their_rows(parts):
    joined = whole(parts)
    expected = [(split, n, *row) for split, rows in parts.items() for n, row in enumerate(rows)]
    columns = (joined[name] for name in ("split", "row", "image", "text", "label"))
    assert list(zip(*columns, strict=True)) == expected
    pairs = list(joined["pair"])
    assert [pair != 0 for pair in pairs] == [bool(image and text) for _, _, image, text, _ in expected]
    assert len(set(pairs)) == len({row[2:4] if row[2] and row[3] else 0 for row in expected})
