"""What becomes of each row: cut texts, halves that are missing, and neighbours that stay as they are."""

from __future__ import annotations

import random

import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.data.rows import STATUSES, BadRow, UnreadableRow
from diptych.pipeline.demo.scenes import SHIPPED_MODEL

from ...conftest import picture
from .corpus import mutated

LONG = "a red shirt " * 50


@pytest.fixture
def classify(tiny) -> ImageTextClassifier:
    return ImageTextClassifier(*tiny, device="cpu")


def test_a_cut_text_is_said_and_the_row_has_its_prediction(classify):
    found = classify(image=picture("red"), text=LONG)
    assert found["status"] == "text_truncated"
    assert found["reason"] == "the text has 152 word pieces, of which the first 40 are read"
    assert found["label"] is not None
    assert found["text_contribution"] != 0


@pytest.mark.parametrize(("words", "status"), [(37, "ok"), (38, "ok"), (39, "text_truncated"), (40, "text_truncated")])
def test_the_limit_is_the_limit(classify, words, status):
    assert classify(image=picture("red"), text="red " * words)["status"] == status  # two special pieces make 40


@pytest.mark.parametrize("on_bad_row", ["mask", "skip", "error"])
def test_a_cut_text_is_not_bad(classify, on_bad_row):
    found = classify([{"image": picture("red"), "text": text} for text in (LONG, "a")], on_bad_row=on_bad_row)
    assert [p["status"] for p in found] == ["text_truncated", "ok"]
    assert all(p["label"] is not None for p in found)


@pytest.mark.parametrize("on_bad_row", ["mask", "skip"])
def test_of_several_the_most_severe_is_the_status_and_the_reason_lists_all(classify, on_bad_row):
    found = classify([{"image": b"junk", "text": LONG}, {"image": None, "text": [1]}], on_bad_row=on_bad_row)
    assert [p["status"] for p in found] == ["image_unreadable", "both_missing"]
    assert found[0]["reason"] == (
        "the image is no image that can be decoded; the text has 152 word pieces, of which the first 40 are read"
    )
    assert found[1]["reason"] == "there is no image; a list is no text"


def test_cut_texts_among_whole_ones_are_told_apart(classify):
    texts = ["a", LONG, None, "red shoe", LONG[:200], "", "a b c"]
    found = classify([{"image": picture("red"), "text": text} for text in texts], batch_size=4)
    expected = ["ok", "text_truncated", "text_missing", "ok", "text_truncated", "text_missing", "ok"]
    assert [p["status"] for p in found] == expected
    assert all(p["status"] in STATUSES for p in found)


@pytest.mark.parametrize(
    ("halves", "status"),
    [
        ({"image": picture("red")}, "text_missing"),
        ({"text": "a red shirt"}, "image_missing"),
        ({"image": picture("red"), "text": "a red shirt"}, "ok"),
        ({"image": None, "text": "a red shirt"}, "image_missing"),
        ({"image": None, "text": None}, "both_missing"),
    ],
)
def test_halves_may_be_given_by_name(classify, halves, status):
    found = classify(**halves)
    assert found == classify(halves)
    assert found["status"] == status
    assert (found["label"] is None) is (status == "both_missing")
    if status in ("text_missing", "image_missing"):
        absent, there = ("text", "image") if status == "text_missing" else ("image", "text")
        assert found[f"{absent}_contribution"] == 0 != found[f"{there}_contribution"]


@pytest.mark.parametrize("wrong", [{}, {"pairs": [], "text": "a"}, {"pairs": None, "image": None}])
def test_pairs_or_halves_but_not_both(classify, wrong):
    with pytest.raises(ValueError, match=r"give pairs, or an image, a text or both|a list of 0 images and one text"):
        classify(**wrong)


def test_what_is_no_row_among_rows_keeps_its_place(classify):
    good = {"image": picture("red"), "text": "a"}
    found = classify([good, None, 3, good, UnreadableRow("line 5 is no JSON")])
    expected = ["ok", "row_unreadable", "row_unreadable", "ok", "row_unreadable"]
    assert [p["status"] for p in found] == expected
    assert found[1]["reason"].startswith("a NoneType is no pair: give a dict")
    assert (found[4]["reason"], found[4]["label"]) == ("line 5 is no JSON", None)
    with pytest.raises(BadRow, match=r"row 1: a NoneType is no pair.* \(row_unreadable\)"):
        classify([good, None], on_bad_row="error")


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one["status"]) == (other["label"], other["status"])
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert one["image_contribution"] == pytest.approx(other["image_contribution"], abs=1e-4)


@pytest.mark.parametrize("model", ["tiny", "shipped"])
@pytest.mark.parametrize("batch_size", [3, 16])
def test_good_rows_say_the_same_whatever_bad_rows_share_their_batch(classify, model, batch_size):
    if model == "shipped":
        classify = ImageTextClassifier.from_pretrained(SHIPPED_MODEL, device="cpu")
    texts = ("a red circle", "the blue square is left of the red circle", "a", LONG)
    good = [{"image": picture(("red", "blue")[i % 2], i, 20 + i), "text": texts[i % 4]} for i in range(12)]
    alone = [classify(row) for row in good]
    generator = random.Random(0)
    damaged = [file.data for file in mutated(40, seed=5) if file.status is None]
    bad = [{"image": data, "text": "a red circle"} for data in damaged[:12]]
    bad += [
        {"image": b"", "text": LONG * 20},
        {"image": None, "text": None},
        {"text": "red"},
        {"image": picture("red")},
    ]
    bad += [{"image": "nope.png", "text": "\ud800"}, {"image": picture("blue"), "text": ["a"]}, {}, None]
    for _ in range(3):
        rows = [(row, number) for number, row in enumerate(good)] + [(row, None) for row in bad]
        generator.shuffle(rows)
        rows.sort(key=lambda item: item[0] is None)  # the first tells a wrong call
        found = classify([row for row, _ in rows], batch_size=batch_size)
        assert [p["row"] for p in found] == list(range(len(rows)))
        numbered = [(number, p) for (_, number), p in zip(rows, found, strict=True) if number is not None]
        close([p for _, p in sorted(numbered, key=lambda item: item[0])], alone)
