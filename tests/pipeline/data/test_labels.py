"""Lists of labels: found, read, named, and what is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Sequence, Value
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.labels import (
    is_multi_label,
    label_lists,
    label_text,
    multi_label_names,
    multi_label_targets,
)
from diptych.pipeline.data.splits import hold_out, strata
from diptych.pipeline.data.tables import load_tables
from hypothesis import given, settings
from hypothesis import strategies as st


def table(values, feature=None):
    features = None if feature is None else Features({"label": feature})
    return load_tables(Dataset.from_dict({"label": values}, features=features))["train"]


CLASSES = ClassLabel(names=["red", "blue", "green"])


@pytest.mark.parametrize(
    ("values", "feature", "names", "targets"),
    [
        ([[0, 1], [], [1]], Sequence(CLASSES), ["red", "blue", "green"], [(1, 1, 0), (0, 0, 0), (0, 1, 0)]),
        ([["b", "a"], [], ["b", "b"]], None, ["a", "b"], [(1, 1), (0, 0), (0, 1)]),
        ([[10, 9], [9]], None, ["9", "10"], [(1, 1), (1, 0)]),
        ([[True], [False, True]], None, ["false", "true"], [(0, 1), (1, 1)]),
        (['["b", "a"]', "[]", ' ["b"]'], None, ["a", "b"], [(1, 1), (0, 0), (0, 1)]),
        (["[2, 1.0]", "[1]"], None, ["1", "2"], [(1, 1), (1, 0)]),
    ],
)
def test_lists_of_names_ids_and_classes_are_read(values, feature, names, targets):
    found = table(values, feature)
    assert is_multi_label(found, "label")
    assert multi_label_names(found, "label") == names
    assert multi_label_targets(found, "label", names) == targets


@pytest.mark.parametrize("values", [["a", "b"], ["", '["a"'], [1, 2], ["a", '["b"]'], ["{}"], [True], ["", ""]])
def test_one_label_a_row_is_no_list(values):
    assert not is_multi_label(table(values), "label")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (['["a"]', "b"], r"row 1 has 'b' in 'label'; rows here have lists .* in CSV as JSON, such as \[\"red\""),
        (['["a"]', ""], r"row 1 has nothing in 'label'.* or \[\] for no class"),
        ([["a"], None], "row 1 has nothing in 'label'; rows here have lists"),
        ([["a"], [None]], "row 1 has a list with an empty label in 'label'; rows here have lists of text or numbers"),
        (['[{"a": 1}]'], "row 0 has a list with a dict in 'label'; rows here have lists of text or numbers"),
    ],
)
def test_what_is_no_list_of_labels_is_named_with_its_row(values, message):
    with pytest.raises(ValueError, match=message):
        list(label_lists(table(values), "label"))


def test_what_the_model_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"label 'c' in 'label' .row 1. is unknown to the model, which knows 2: a, b"):
        multi_label_targets(table([["a"], ["b", "c"]]), "label", ["a", "b"])
    with pytest.raises(ValueError, match="one label for each row, where the model gives lists of labels; give lists"):
        multi_label_targets(table(["a", "b"]), "label", ["a", "b"])


@pytest.mark.parametrize(
    ("features", "label"),
    [
        ({"labels": List(Value("string"))}, "labels"),
        ({"colours": List(CLASSES)}, "colours"),
        ({"words": List(Value("string")), "label": Value("string")}, "label"),
    ],
)
def test_a_column_of_lists_is_found(features, label):
    rows = Dataset.from_dict(
        {name: [] for name in ("image", "text", *features)},
        features=Features({"image": Image(), "text": Value("string"), **features}),
    )
    assert find_columns(load_tables(rows)["train"]).label == label


@given(
    st.lists(st.lists(st.text(min_size=1, max_size=5).filter(str.strip), max_size=4), min_size=1, max_size=8).filter(
        any
    )
)
@settings(max_examples=40, deadline=None)
def test_any_lists_of_texts_come_back_from_their_targets_as_json_too(rows):
    for values in (rows, [json.dumps(row) for row in rows]):
        found = table(values)
        names = multi_label_names(found, "label")
        targets = multi_label_targets(found, "label", names)
        assert [{n for n, there in zip(names, target, strict=True) if there} for target in targets] == [
            set(map(label_text, row)) for row in rows
        ]


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 4), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_rows_are_stratified_by_their_rarest_class(rows):
    counts = np.array(rows).sum(axis=0)
    for row, stratum in zip(rows, strata(rows), strict=True):
        here = [c for c in range(4) if row[c]]
        assert (stratum == 4) if not here else (row[stratum] == 1 and counts[stratum] == min(counts[c] for c in here))


def test_a_rare_class_is_held_out_as_well():
    rows = [(1, 0)] * 96 + [(1, 1)] * 4
    kept, held = hold_out(table([["a"]] * 100), strata(rows), fraction=0.1, seed=0)
    assert {rows[row] for row in held} == {rows[row] for row in kept} == {(1, 0), (1, 1)}
