"""What a check finds: each thing where it is and not elsewhere; an error exactly where training would stop."""

from __future__ import annotations

import datetime
import re

import datasets
import pytest
from diptych import check
from diptych.pipeline.check.findings import ERRORS, WARNINGS
from diptych.pipeline.runtime.console import Console
from diptych.pipeline.training.config import read_options
from diptych.pipeline.training.setup import _read
from hypothesis import given, settings
from hypothesis import strategies as st

from ...conftest import picture

IMAGES = [picture("red", seed=i, size=20) for i in range(40)]


def clean(start: int, count: int) -> list[dict]:
    return [{"image": IMAGES[i], "text": f"shirt {i}", "label": "yn"[i % 2]} for i in range(start, start + count)]


def split_of(rows) -> datasets.Dataset:
    columns = {name: [row.get(name) for row in rows] for name in rows[0]} if rows else {"text": []}
    return datasets.Dataset.from_dict(columns, features=datasets.Features({
        name: datasets.Image() if name == "image" else datasets.Value("string") for name in columns
    }))  # fmt: skip


def checked(**changes) -> dict:
    """A check of three good splits, some of their rows changed: `train={3: {"text": ""}}`, or all: `test=[..]`."""
    parts = {"train": clean(0, 12), "validation": clean(12, 6), "test": clean(18, 6)}
    for split, change in changes.items():
        if isinstance(change, dict):
            for row, values in change.items():
                parts[split][row] = parts[split][row] | values
        elif change is None:
            del parts[split]
        else:
            parts[split] = change
    data = datasets.DatasetDict({split: split_of(rows) for split, rows in parts.items()})
    return check(data, quiet=True)


def same(field, value, count=12):
    return {row: {field: value} for row in range(count)}


CASES = {
    "no_images": (
        {"train": same("image", None)},
        "train: none of the 12 images can be used (row 0: there is no image)",
    ),
    "no_texts": ({"test": same("text", " ", 6)}, "test: none of the 6 texts can be used (row 0: the text is empty)"),
    "column_missing": (
        {"validation": [{"image": IMAGES[12], "title": "a", "label": "y"}]},
        "validation has no text column 'text', which other splits have",
    ),
    "labels_missing": ({"train": {5: {"label": None}}}, "train: 1 of 12 rows (8.3 %) have no label in 'label', row 5"),
    "unknown_labels": (
        {"validation": {4: {"label": "boot"}}},
        "validation: 1 of 6 rows (17 %) have a label that train lacks, row 4 first ('boot')",
    ),
    "one_label": ({"train": same("label", "y"), "validation": None, "test": None}, "all rows have the label 'y'"),
    "nothing_to_hold_out": (
        {"train": {row: {"label": f"id {row}"} for row in range(12)}, "validation": None, "test": None},
        "train has one row for each label, so that nothing can be held out: give a validation split",
    ),
    "both_missing": ({"test": {2: {"text": "", "image": None}}}, "1 of 24 rows (4.2 %) have neither an image nor"),
    "half_missing": (
        {"test": {2: {"text": ""}, 3: {"image": None}, 4: {"image": None}}},
        "3 of 24 rows (12 %) have one usable half only, which decides alone: 2 image_missing, 1 text_missing",
    ),
    "contradictions": (
        {"train": {4: {"image": IMAGES[1], "text": "Shirt  1", "label": "y"}}},
        "2 rows have the image and text of another row, but not its label (train row 1 'n' and train row 4 'y')",
    ),
    "similar_labels": (
        {"train": {0: {"label": "boot"}, 1: {"label": " Boot"}, 3: {"label": "Boot "}, 5: {"label": "boot"}}},
        "labels 'Boot', 'boot' differ in letter case alone, and are 2 classes",
    ),
    "leaking_images": (
        {"test": {2: {"image": IMAGES[14]}}},
        "test: 1 of 6 rows (17 %) have an image of validation (row 2 that of row 2): metrics will look too good",
    ),
    "leaking_texts": (
        {"validation": {1: {"text": "SHIRT 7"}}},
        "validation: 1 of 6 rows (17 %) have a text of train (row 1 that of row 7)",
    ),
    "unlabelled": ({"test": same("label", None, 6)}, "test: no row has a label in 'label': it can be classified, not"),
    "repeated_rows": (
        {"train": {4: {"image": IMAGES[2], "text": "shirt 2"}}},
        "train: 1 of 12 rows (8.3 %) repeat the image and text of an earlier row",
    ),
    "same_image": ({"train": same("image", IMAGES[0], 10)}, "train: 10 of 12 rows (83 %) have one and the same image"),
    "same_text": ({"train": same("text", "no title", 10)}, "train: 10 of 12 rows (83 %) have one and the same text"),
    "single_row_classes": ({"train": {0: {"label": "z"}}}, "train: 1 of 3 classes have a single row ('z')"),
    "imbalance": (
        {"train": [{"image": None, "text": f"t {i}", "label": "y" if i else "n"} for i in range(22)]},
        "train: the largest class, 'y', has 21 rows, the smallest, 'n', 1",
    ),
    "absent_classes": (
        {
            "train": [{"image": None, "text": f"t {i}", "label": "ny"[i % 2]} for i in range(40)],
            "test": [{"image": None, "text": f"u {i}", "label": "y"} for i in range(20)],
        },
        "test has no row of 'n', of which train has 20: its metrics say nothing of that",
    ),
    "tiny_images": ({"train": {0: {"image": picture("red", size=15)}}}, "1 of 24 images (4.2 %) are under 16 pixels"),
    "no_label_column": (
        {s: [{"image": r["image"], "text": r["text"]} for r in clean(i, 6)] for i, s in ((0, "train"), (6, "test"))}
        | {"validation": None},
        "no column looks like the label",
    ),
}  # fmt: skip


def test_good_data_has_nothing_wrong_with_it():
    found = checked()
    assert (found["ok"], found["errors"], found["warnings"], found["bad_rows"]) == (True, [], [], [])


@pytest.mark.parametrize("code", CASES)
def test_each_thing_is_found_where_it_is(code):
    changes, message = CASES[code]
    found = checked(**changes)
    kind = "errors" if code in ERRORS else "warnings"
    mine = [finding for finding in found[kind] if finding["code"] == code]
    assert len(mine) == 1, found[kind]
    assert message in mine[0]["message"]
    assert "\n" not in mine[0]["message"]
    assert found["ok"] is not any(finding["code"] in ERRORS for finding in found["errors"])
    assert (kind == "errors") <= (not found["ok"])


def test_every_code_is_tested_here_or_with_files():
    elsewhere = {"no_rows", "odd_labels", "untrained_classes", "cut_texts", "huge_images"}
    assert set(ERRORS) | set(WARNINGS) == set(CASES) | elsewhere


def test_findings_come_in_the_order_of_their_codes():
    found = checked(
        train={0: {"label": None}, 1: {"image": None}, 2: {"image": picture("red", size=9)}, 3: {"label": "z"}},
        validation={0: {"text": "shirt 4"}, 1: {"label": "boot"}},
        test={0: {"image": IMAGES[5], "text": "shirt 5"}, 1: {"text": "", "image": None}},
    )
    assert [f["code"] for f in found["errors"]] == ["labels_missing", "unknown_labels"]
    assert [f["code"] for f in found["warnings"]] == [
        "both_missing", "half_missing", "contradictions", "leaking_images", "leaking_texts", "leaking_texts",
        "single_row_classes", "tiny_images",
    ]  # fmt: skip


def test_rows_that_are_no_labels():
    rows = [{"image": IMAGES[i], "text": str(i), "label": datetime.date(2020, 1, 1)} for i in range(3)]
    (finding,) = (f for f in check(rows, label_column="label", quiet=True)["errors"] if f["code"] == "odd_labels")
    assert "3 of 3 rows (100 %) have something in 'label' that is no label, row 0 first" in finding["message"]


def test_a_split_without_rows():
    (finding,) = (f for f in checked(validation=[])["errors"] if f["code"] == "no_rows")
    assert finding["message"].startswith("validation has no rows")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_of_other_columns_altogether(streaming):
    parts = {"train": split_of(clean(0, 12)), "test": datasets.Dataset.from_dict({"other": ["x"] * 3})}
    if streaming:
        parts = {split: rows.to_iterable_dataset() for split, rows in parts.items()}
    found = check((datasets.IterableDatasetDict if streaming else datasets.DatasetDict)(parts), quiet=True)
    assert [(error["code"], error["rows"]) for error in found["errors"]] == [("column_missing", 3)] * 2
    assert found["splits"]["test"]["statuses"] == {"both_missing": 3}


ROWS = st.lists(
    st.tuples(
        st.sampled_from([IMAGES[0], IMAGES[1], None]), st.sampled_from(["t", ""]), st.sampled_from(["a", "b", ""])
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(ROWS, st.none() | ROWS, st.booleans())
def test_there_is_an_error_exactly_where_training_stops(train, validation, declared):
    feature = datasets.ClassLabel(names=["a", "b", "c"]) if declared else datasets.Value("string")
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), label=feature)
    parts = {"train": train} | ({"validation": validation} if validation is not None else {})
    data = datasets.DatasetDict({
        split: datasets.Dataset.from_list(
            [{"image": image, "text": text, "label": label or None} for image, text, label in rows], features=features
        )
        for split, rows in parts.items()
    })  # fmt: skip
    config, _, reading = read_options({})
    try:
        _read(data, config, reading, labelled=True, console=Console(lambda line: None, bars=False))
        stops = False
    except ValueError:
        stops = True
    codes = {finding["code"] for finding in check(data, quiet=True)["errors"]}
    assert bool(codes) is stops, codes


def test_a_class_that_is_declared_but_never_trained_is_a_warning():
    classes = datasets.ClassLabel(names=["a", "b", "c"])
    features = datasets.Features(image=datasets.Value("string"), text=datasets.Value("string"), label=classes)
    parts = datasets.DatasetDict()
    for split, labels in {"train": ["a", "b", "a", "b"], "validation": ["c", "a", "c"]}.items():
        rows = [{"image": "x.png", "text": "t", "label": label} for label in labels]
        parts[split] = datasets.Dataset.from_list(rows, features=features)
    found = check(parts, quiet=True)
    assert {error["code"] for error in found["errors"]} == {"no_images"}
    (finding,) = (f for f in found["warnings"] if f["code"] == "untrained_classes")
    assert finding["message"].startswith("validation: 2 of 3 rows (67 %) are of classes without a row in train ('c')")


def test_no_message_is_endless():
    rows = [{"image": "x.png", "text": "t", "label": f"{i} " + "long " * 100} for i in range(40)]
    found = check(rows + rows[:3], quiet=True)
    (finding,) = (f for f in found["warnings"] if f["code"] == "single_row_classes")
    assert "37 of 40 classes" in finding["message"]
    assert re.search(r"\.\.\.', '.*\.\.\.' and 34 more", finding["message"])
    assert all(len(f["message"]) < 400 for f in found["warnings"] + found["errors"])


def tagged(**changes) -> dict:
    """A check of two good splits of lists of labels, as JSON text, some of their rows changed."""
    parts = {"train": clean(0, 12), "validation": clean(12, 6)}
    for rows in parts.values():
        for number, row in enumerate(rows):
            row["label"] = ('["a"]', '["b", "a"]', '["b"]', "[]")[number % 4]
    for split, change in changes.items():
        for row, label in change.items():
            parts[split][row]["label"] = label
    return check(datasets.DatasetDict({split: split_of(rows) for split, rows in parts.items()}), quiet=True)


def test_lists_of_labels_are_counted_class_by_class():
    found = tagged()
    assert (found["ok"], found["errors"], found["warnings"]) == (True, [], [])
    assert found["splits"]["train"]["labels"]["counts"] == {"a": 6, "b": 6}
    assert found["splits"]["train"]["labels"]["missing"] == 0


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"train": {5: None}}, "labels_missing", "train: 1 of 12 rows (8.3 %) have no label in 'label', row 5 first"),
        ({"train": {5: "a"}}, "odd_labels", "that is no label, row 5 first: give lists of text or numbers"),
        ({"validation": {3: '["c", "a"]'}}, "unknown_labels", "a label that train lacks, row 3 first ('c')"),
        ({"train": dict.fromkeys(range(12), '["a"]'), "validation": dict.fromkeys(range(6), '["a"]')}, "one_label", ""),
        ({"validation": dict.fromkeys(range(6), "[]")}, "labels_missing", "validation: no row has a label in 'label'"),
    ],
)
def test_lists_that_would_break_training_are_errors(changes, code, message):
    found = tagged(**changes)
    assert [finding["code"] for finding in found["errors"]] == [code]
    assert message in found["errors"][0]["message"]


def test_a_combination_that_occurs_once_is_no_class_of_its_own():
    found = tagged(validation={0: '["a", "b"]', 1: '["b", "a", "a"]'}, train={1: '["a"]', 5: '["a"]', 9: '["a"]'})
    assert (found["errors"], found["warnings"]) == ([], [])
