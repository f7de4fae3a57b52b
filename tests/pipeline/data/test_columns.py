"""Which columns hold what, and what the labels are."""

from __future__ import annotations

import re

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.labels import label_ids, label_names, label_text, label_values
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table, read_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

TEXT = Value("string")
NUMBER = Value("int64")
CLASS = ClassLabel(names=["b", "a"])
BYTES = Value("binary")


def table(**features) -> Table:
    """A table of no rows, named 'shop'."""
    return Table(datasets.Dataset.from_dict({name: [] for name in features}, features=Features(features)), None, "shop")


def labels(values, feature=None) -> Table:
    features = None if feature is None else Features({"kind": feature})
    return Table(datasets.Dataset.from_dict({"kind": values}, features=features), None, "shop")


# finding columns


@pytest.mark.parametrize(
    "image",
    [ImageFeature(), ImageFeature(decode=False), BYTES, Value("large_binary"), {"bytes": BYTES, "path": TEXT}],
    ids=["Image", "undecoded", "bytes", "large bytes", "dict"],
)
def test_an_image_is_told_by_its_feature_whatever_its_name(image):
    assert find_columns(table(x=image, text=TEXT, label=NUMBER)).image == "x"


@pytest.mark.parametrize("name", ["image", "img", "photo", "image_path", "file_name", "path", "Image", "FILE_NAME"])
def test_a_path_is_told_by_its_name(name):
    found = find_columns(table(text=TEXT, **{name: TEXT}, label=TEXT))
    assert found == Columns(name, "text", "label")


def test_an_image_feature_goes_before_a_path():
    assert find_columns(table(path=TEXT, text=TEXT, thumbnail=ImageFeature(), label=NUMBER)).image == "thumbnail"


def test_of_several_image_features_the_one_with_the_name_is_taken():
    assert find_columns(table(mask=ImageFeature(), photo=ImageFeature(), text=TEXT, label=NUMBER)).image == "photo"


@pytest.mark.parametrize("name", ["text", "caption", "sentence", "title", "description", "question", "Caption"])
def test_of_several_strings_the_text_is_told_by_its_name(name):
    found = find_columns(table(image=ImageFeature(), sku=TEXT, **{name: TEXT}, season=TEXT, label=NUMBER))
    assert found.text == name


def test_a_string_of_another_name_is_no_text_even_if_it_is_the_only_one():
    with pytest.raises(ValueError, match="shop: no column looks like the text: 'sku'; name it with --text-column"):
        find_columns(table(image=ImageFeature(), sku=TEXT, label=NUMBER))


@pytest.mark.parametrize("kind", [CLASS, TEXT, NUMBER, Value("bool"), Value("uint8")], ids=str)
@pytest.mark.parametrize("name", ["label", "labels", "target", "class", "category", "answer", "Label"])
def test_a_label_is_told_by_its_name(name, kind):
    found = find_columns(table(image=ImageFeature(), text=TEXT, row=NUMBER, **{name: kind}))
    assert found == Columns("image", "text", name)


def test_the_only_classlabel_is_the_label_whatever_its_name():
    assert find_columns(table(image=ImageFeature(), text=TEXT, row=NUMBER, season=CLASS)).label == "season"


def test_a_number_of_another_name_is_no_label():
    with pytest.raises(ValueError, match="shop: no column looks like the label"):
        find_columns(table(image=ImageFeature(), text=TEXT, price=NUMBER))


@pytest.mark.parametrize("name", ["label", "answer", "Label", "CATEGORY"])
@pytest.mark.parametrize("need_label", [True, False])
def test_the_text_is_never_the_label(name, need_label):
    found = find_columns(table(**{name: TEXT}, image=ImageFeature(), title=TEXT), need_label=need_label)
    assert found == Columns("image", "title", name if need_label else None)


def test_a_label_is_not_looked_for_where_none_is_needed():
    assert find_columns(table(image=ImageFeature(), text=TEXT), need_label=False).label is None
    assert find_columns(table(image=ImageFeature(), text=TEXT, y=NUMBER), label="y", need_label=False).label == "y"


def test_what_is_given_is_taken_and_not_taken_twice():
    made = table(image=ImageFeature(), other=ImageFeature(), text=TEXT, title=TEXT, label=NUMBER, y=NUMBER)
    assert find_columns(made, image="other", text="title", label="y") == Columns("other", "title", "y")
    assert find_columns(made, label="text") == Columns("image", "title", "text")
    assert find_columns(table(image=BYTES, label=TEXT), text="label", need_label=False).text == "label"


@pytest.mark.parametrize("option", ["image", "text", "label"])
def test_an_unknown_column_is_named_with_those_that_are_there(option):
    expected = f"shop has no {option} column 'colour'; it has 'image', 'text', 'label'"
    with pytest.raises(ValueError, match=re.escape(expected)):
        find_columns(table(image=ImageFeature(), text=TEXT, label=NUMBER), **{option: "colour"})


@pytest.mark.parametrize(
    ("option", "features", "candidates"),
    [
        ("image", {"x": BYTES, "y": BYTES, "text": TEXT, "label": NUMBER}, "'x', 'y'"),
        ("text", {"image": BYTES, "u": TEXT, "v": TEXT, "label": NUMBER}, "'u', 'v'"),
        ("label", {"image": BYTES, "text": TEXT, "p": CLASS, "q": CLASS}, "'p', 'q'"),
    ],
)
def test_an_ambiguity_names_the_candidates_and_the_option(option, features, candidates):
    expected = f"shop: several columns could be the {option}: {candidates}; name it with --{option}-column"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        find_columns(table(**features))


@pytest.mark.parametrize(
    ("option", "features"),
    [
        ("image", {"price": NUMBER}),
        ("text", {"image": BYTES, "label": NUMBER}),
        ("label", {"image": BYTES, "text": TEXT}),
    ],
)
def test_a_column_that_is_not_there_names_those_that_are_and_the_option(option, features):
    names = ", ".join(map(repr, features))
    expected = f"shop: no column looks like the {option}: {names}; name it with --{option}-column"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        find_columns(table(**features), need_label=option == "label")


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "image": "a.png", "text": "x"},
        {"photo": b"...", "caption": "x"},
        {"x": {"bytes": b"...", "path": None}, "text": "x"},
        {"x": Image.new("RGB", (1, 1)), "text": "x"},
        {"x": np.zeros((1, 1, 3), np.uint8), "text": "x"},
    ],
    ids=["path", "bytes", "dict", "PIL", "array"],
)
def test_without_features_the_first_row_tells(row):
    found = find_columns(Table([row], None, "rows"), need_label=False)
    names = [name for name in row if name != "id"]
    assert (found.image, found.text) == (names[0], names[1])


@pytest.mark.parametrize("line", ['{"image": null, "text": "x"}', '{"image": "a.png", "text": null}'])
def test_a_null_in_the_first_row_hides_no_column(line):
    assert find_columns(read_json_lines([line]), need_label=False) == Columns("image", "text")


def test_a_text_column_of_objects_says_how_a_part_of_it_is_named():
    features = {"image": ImageFeature(), "text": {"en": TEXT, "de": TEXT}, "label": CLASS}
    with pytest.raises(
        ValueError, match=r"'text' holds objects: say which part is the text, as by --text-column text.en"
    ):
        find_columns(table(**features))
    assert find_columns(table(**features), text="text.de") == Columns("image", "text.de", "label")
    beside = {"image": ImageFeature(), "title": TEXT, "seller": {"name": TEXT}, "label": CLASS, "more": {"kind": CLASS}}
    assert find_columns(table(**beside)) == Columns("image", "title", "label")


def test_no_first_row_is_an_empty_table():
    with pytest.raises(ValueError, match="rows is empty"):
        find_columns(Table([], None, "rows"))


# labels


@pytest.mark.parametrize(
    ("values", "feature", "texts", "names"),
    [
        ([1, 0, 0], CLASS, ["a", "b", "b"], ["b", "a"]),
        ([1, 1], CLASS, ["a", "a"], ["b", "a"]),
        (["b", "a", "b"], None, ["b", "a", "b"], ["a", "b"]),
        ([10, 9, -1, 10], None, ["10", "9", "-1", "10"], ["-1", "9", "10"]),
        (["10", "9", "-1"], None, ["10", "9", "-1"], ["-1", "9", "10"]),
        ([True, False], None, ["true", "false"], ["false", "true"]),
        ([2.0, 10.0], None, ["2", "10"], ["2", "10"]),
        ([0.5, 0.25], None, ["0.5", "0.25"], ["0.25", "0.5"]),
        (["x", "10", "9"], None, ["x", "10", "9"], ["10", "9", "x"]),
    ],
    ids=["ClassLabel", "ClassLabel, one unused", "text", "int", "digits", "bool", "whole float", "float", "mixed"],
)
def test_labels_are_text_in_a_settled_order(values, feature, texts, names):
    made = labels(values, feature)
    assert label_values(made, "kind") == texts
    assert label_names(made, "kind") == names
    assert label_ids(made, "kind", names) == [names.index(text) for text in texts]


@pytest.mark.parametrize(
    ("values", "feature", "count", "first"),
    [
        ([0, None, -1], CLASS, 2, 1),
        (["a", "b", ""], None, 1, 2),
        ([None, "b", None], None, 2, 0),
        ([1.0, float("nan"), 2.0], None, 1, 1),
        ([None, 3, 4], None, 1, 0),
    ],
    ids=["ClassLabel", "empty text", "null text", "nan", "null number"],
)
@pytest.mark.parametrize("ask", [label_values, lambda table, column: label_ids(table, column, ["a", "b"])])
def test_missing_labels_are_counted_and_the_first_is_named(values, feature, count, first, ask):
    expected = f"shop: {count} of 3 rows have no label in 'kind', row {first} first"
    with pytest.raises(ValueError, match=re.escape(expected)):
        ask(labels(values, feature), "kind")


@pytest.mark.parametrize("values", [[[1], [2]], [{"a": 1}], [b"x"]], ids=["list", "dict", "bytes"])
def test_a_label_that_is_neither_text_nor_number_is_named_by_its_type(values):
    with pytest.raises(ValueError, match=f"shop: a {type(values[0]).__name__} in 'kind' is no label"):
        label_names(labels(values), "kind")


def test_an_unknown_label_is_named_with_its_row_and_what_the_model_knows():
    expected = "shop: label 'c' in 'kind' (row 2) is unknown to the model, which knows 2: a, b"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        label_ids(labels(["a", "b", "c", "c"]), "kind", ["a", "b"])


def test_of_many_labels_that_the_model_knows_ten_are_listed():
    with pytest.raises(ValueError, match=r"which knows 12: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.$"):
        label_ids(labels(["x"]), "kind", [str(number) for number in range(12)])


@given(st.lists(st.text("019-²٣.a", min_size=1, max_size=4), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_texts_are_labels_and_their_order_does_not_depend_on_that_of_the_rows(values):
    names = label_names(labels(values), "kind")
    assert set(names) == set(map(label_text, values))
    assert len(names) == len(set(map(label_text, values)))
    assert names == label_names(labels(values[::-1]), "kind")
    assert [names[i] for i in label_ids(labels(values), "kind", names)] == list(map(label_text, values))


def test_equal_numbers_written_in_several_ways_have_a_settled_order():
    assert label_names(labels(["7", "07", "0007", "007", "8"]), "kind") == ["0007", "007", "07", "7", "8"]
