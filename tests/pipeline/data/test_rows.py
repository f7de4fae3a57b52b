"""One row of any table: its image, its text, and what became of them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from diptych.pipeline.data.rows import STATUSES, Columns, read_pair, read_text
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

COLUMNS = Columns("photo", "caption")


def photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("text", ["a red shirt", " padded ", "naïve 東京 🙂", "two\nlines", "None", "nan", "0"])
def test_text_is_taken_as_it_stands(text):
    assert read_text(text) == (text, None)


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (0, "0"), (-3, "-3"), (2.5, "2.5"), (10**20, "1" + "0" * 20)])
def test_a_number_is_read_as_its_digits(value, text):
    assert read_text(value) == (text, None)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, "text_missing"),
        (float("nan"), "text_missing"),
        ("", "text_missing"),
        (" \t\n", "text_missing"),
        ("\u00a0", "text_missing"),
        (["a"], "text_unreadable"),
        (("a",), "text_unreadable"),
        ({"a": 1}, "text_unreadable"),
        (b"bytes", "text_unreadable"),
        ("broken \ud800", "text_unreadable"),
    ],
)
def test_what_is_no_text_has_a_status_and_a_reason(value, status):
    text, problem = read_text(value)
    assert text is None
    assert problem is not None
    assert problem[0] == status
    assert problem[1]


def test_the_reason_names_the_type_or_the_place():
    assert "list" in read_text(["a"])[1][1]
    assert "character 7" in read_text("broken \ud800")[1][1]


@given(st.text("aé🙂 \n\0\ud800\udfff", max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_text_is_taken_whole_or_refused(value):
    text, problem = read_text(value)
    assert (text is None) == (problem is not None)
    if text is not None:
        assert text == value
        text.encode("utf-8")


def test_a_good_row_is_ok():
    pair = read_pair(5, {"photo": photo(), "caption": "a red shirt", "other": 1}, COLUMNS)
    assert (pair.row, pair.text, pair.status, pair.reason) == (5, "a red shirt", "ok", "")
    assert pair.image is not None
    assert (pair.image.mode, pair.image.size) == ("RGB", (3, 2))


BAD_IMAGES = {"image_missing": None, "image_unreadable": b"junk"}
BAD_TEXTS = {"text_missing": None, "text_unreadable": ["a"]}


@pytest.mark.parametrize("status", BAD_IMAGES)
def test_a_bad_image_leaves_the_text(status):
    pair = read_pair(0, {"photo": BAD_IMAGES[status], "caption": "a"}, COLUMNS)
    assert (pair.image, pair.text, pair.status) == (None, "a", status)


@pytest.mark.parametrize("status", BAD_TEXTS)
def test_a_bad_text_leaves_the_image(status):
    pair = read_pair(0, {"photo": photo(), "caption": BAD_TEXTS[status]}, COLUMNS)
    assert (pair.text, pair.status) == (None, status)
    assert pair.image is not None


def test_too_large_an_image_has_its_own_status(monkeypatch):
    monkeypatch.setattr("diptych.pipeline.data.images.MAX_PIXELS", 5)
    pair = read_pair(0, {"photo": photo(), "caption": "a"}, COLUMNS)
    assert (pair.image, pair.text, pair.status) == (None, "a", "image_too_large")


@pytest.mark.parametrize("image", BAD_IMAGES)
@pytest.mark.parametrize("text", BAD_TEXTS)
def test_the_most_severe_wins_and_the_reason_lists_all(image, text):
    pair = read_pair(0, {"photo": BAD_IMAGES[image], "caption": BAD_TEXTS[text]}, COLUMNS)
    assert (pair.image, pair.text, pair.status) == (None, None, "both_missing")
    alone = [
        read_pair(0, {"photo": BAD_IMAGES[image], "caption": "a"}, COLUMNS).reason,
        read_pair(0, {"photo": photo(), "caption": BAD_TEXTS[text]}, COLUMNS).reason,
    ]
    assert all(reason and reason in pair.reason for reason in alone)


def test_the_statuses_are_listed_in_their_order():
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    table = text[text.index("| status |") : text.index("## The tree")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(STATUSES)


def test_absent_columns_are_absent_halves():
    assert read_pair(0, {}, COLUMNS).status == "both_missing"
    assert read_pair(0, {"caption": "a"}, COLUMNS).status == "image_missing"
    assert read_pair(0, {"photo": photo()}, COLUMNS).status == "text_missing"


def test_relative_paths_start_at_the_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(photo())
    assert read_pair(0, {"photo": "a.png", "caption": "a"}, COLUMNS, tmp_path).status == "ok"
    pair = read_pair(0, {"photo": "b.png", "caption": "a"}, COLUMNS, tmp_path)
    assert (pair.status, str(tmp_path / "b.png") in pair.reason) == ("image_missing", True)


ANYTHING = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text("a /\0\ud800", max_size=6),
    st.binary(max_size=6),
    st.lists(st.none(), max_size=2),
    st.dictionaries(st.sampled_from(["bytes", "path", "other"]), st.none() | st.just("a") | st.binary(max_size=3)),
)


@given(ANYTHING, ANYTHING)
@settings(max_examples=80, deadline=None)
def test_no_row_raises(image, text):
    pair = read_pair(0, {"photo": image, "caption": text}, COLUMNS)
    assert pair.status in STATUSES
    assert (pair.status == "ok") == (pair.reason == "") == (pair.image is not None and pair.text is not None)


def test_columns_say_what_they_hold():
    assert str(Columns("photo", "caption")) == "image from 'photo', text from 'caption'"
    assert str(Columns("photo", "caption", "kind")) == "image from 'photo', text from 'caption', label from 'kind'"
