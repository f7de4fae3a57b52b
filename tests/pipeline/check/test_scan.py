"""What a check keeps of rows: all of them, in order, as `read_pair` sees them, and never many at a time."""

from __future__ import annotations

import io
import threading

import datasets
import numpy as np
import pandas as pd
import pytest
from diptych.pipeline.check import scan as module
from diptych.pipeline.check.scan import NO_LABEL, NOT_BAD, ODD_LABEL, label_code, scan, together
from diptych.pipeline.data.content import words_id
from diptych.pipeline.data.dataset_rows import PassingRows
from diptych.pipeline.data.labels import label_values
from diptych.pipeline.data.rows import STATUSES, Columns, read_pair
from diptych.pipeline.data.tables import Table
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ...conftest import picture

COLUMNS = Columns("image", "text", "label")
SAMPLES = {kind: io.BytesIO() for kind in ("PNG", "BMP", "JPEG")}
for kind, file in SAMPLES.items():
    picture("red", seed=1, size=64).save(file, kind)
PNG, BMP, JPEG = (file.getvalue() for file in SAMPLES.values())
IMAGES = [PNG, BMP, JPEG[:-200], b"", b"junk", None, "nope.png", 3]
TEXTS = ["a shirt", "", None, 7, ["a"], "\ud800"]


def frame_of(rows, **options) -> pd.DataFrame:
    found = options.pop("found", [])
    return scan(
        Table(rows if isinstance(rows, list) else PassingRows(rows, "data"), None, "data"),
        COLUMNS,
        options.pop("vocabulary", {}),
        on_bad_row=lambda *bad: found.append(bad),
        **options,
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(IMAGES), st.sampled_from(TEXTS)), max_size=60))
def test_every_row_has_the_status_that_classifying_gives_it(halves):
    rows = [{"image": image, "text": text, "label": "x"} for image, text in halves]
    pairs = [read_pair(number, row, COLUMNS) for number, row in enumerate(rows)]
    bad: list = []
    frame = frame_of(rows, found=bad)
    assert len(frame) == len(rows)
    assert bad == [(p.row, p.status, p.reason) for p in pairs if p.status not in NOT_BAD]
    assert list(frame["status"]) == [p.status for p in pairs]
    assert (frame["image"] != 0).tolist() == [p.image is not None for p in pairs]
    assert (frame["text"] != 0).tolist() == [p.text is not None for p in pairs]
    both = together({"train": frame})["pair"] != 0
    assert both.tolist() == [p.image is not None and p.text is not None for p in pairs]


def test_statuses_that_are_not_bad_are_those_of_pairs_that_are_not():
    assert set(NOT_BAD) < set(STATUSES)
    assert not any(read_pair(0, {"image": i, "text": t}, COLUMNS).bad for i in (PNG, BMP) for t in ("a", 7))


def test_rows_stay_in_order_whatever_the_threads_do():
    rows = [{"image": picture("red", seed=i, size=(200 if i % 9 else 2)), "text": str(i)} for i in range(150)]
    frame = frame_of(rows)
    assert frame["text"].tolist() == [words_id(str(i)) for i in range(150)]
    assert frame["width"].tolist() == [200 if i % 9 else 2 for i in range(150)]


def test_no_more_than_a_few_dozen_rows_are_held(monkeypatch):
    monkeypatch.setattr(module, "_THREADS", 2)
    drawn, ahead = [], []

    def rows():
        for number in range(500):
            drawn.append(number)
            yield {"image": PNG, "text": "a"}

    def progress(seen):
        for count, row in enumerate(seen):
            ahead.append(len(drawn) - count)
            yield row

    assert len(frame_of(rows(), progress=progress)) == 500
    assert max(ahead) <= 8 * (2 * 2 + 1)


def test_an_error_leaves_no_thread_behind():
    def stop(*_):
        raise ValueError("the disk is full")

    before = threading.active_count()
    table = Table(PassingRows(({"image": b"junk", "text": "a"} for _ in range(10_000)), "data"), None, "data")
    with pytest.raises(ValueError, match="the disk is full") as caught:
        scan(table, COLUMNS, {}, on_bad_row=stop)
    assert threading.active_count() == before
    assert caught.tb, "which holds the frames, so that nothing is closed by being forgotten"


def test_images_are_the_same_by_their_pixels():
    same = [PNG, BMP, picture("red", seed=1, size=64)]
    plain = [Image.new("RGB", size, "red") for size in ((8, 2), (2, 8), (4, 4))]  # as many bytes, all equal
    images = frame_of([{"image": i, "text": "a"} for i in (*same, picture("red", seed=2, size=64), *plain)])["image"]
    assert len(set(images[:3].tolist())) == 1
    assert len(set(images.tolist())) == 5


def test_a_file_that_ends_too_early_is_counted():
    frame = frame_of([{"image": i, "text": "a"} for i in (JPEG, JPEG[:-200], b"junk")])
    assert frame["cut"].tolist() == [0, 1, 0]
    assert list(frame["status"]) == ["ok", "image_unreadable", "image_unreadable"]


@example("Straße", "STRASSE")
@given(st.text(), st.text())
def test_texts_are_the_same_but_for_case_and_blanks(one, other):
    same = one.casefold().split() == other.casefold().split()
    assert (words_id(one) == words_id(other)) is same
    assert words_id(one) == words_id(f"  {one}\n") != words_id(None) == 0


LABELS = st.one_of(
    st.lists(st.sampled_from(["a", "b", "7"]), min_size=1),
    st.lists(st.integers(-3, 3), min_size=1),
    st.lists(st.booleans(), min_size=1),
    st.lists(st.sampled_from([1.0, 2.5, -0.0]), min_size=1),
)


@settings(deadline=None, max_examples=40)
@given(LABELS)
def test_labels_are_read_as_training_reads_them(values):
    rows = datasets.Dataset.from_dict({"label": values})
    vocabulary: dict[str, int] = {}
    codes = [label_code(value, rows.features["label"], vocabulary) for value in rows["label"]]
    names = list(vocabulary)
    assert [names[code] for code in codes] == label_values(Table(rows, None, "data"), "label")


def test_what_is_no_label_is_told_from_none():
    classes = datasets.ClassLabel(names=["a", "b"])
    assert [label_code(v, None, {}) for v in (None, "", float("nan"), ["a"], {})] == [NO_LABEL] * 3 + [ODD_LABEL] * 2
    assert [label_code(v, classes, {"b": 0}) for v in (None, -1, 1)] == [NO_LABEL, NO_LABEL, 0]


def test_lengths_are_words_or_what_the_counter_says():
    rows = [{"image": None, "text": text} for text in ("one two  three", None, "a")]
    assert frame_of(rows)["length"].tolist() == [3, 0, 1]
    assert frame_of(rows, count_tokens=len)["length"].tolist() == [14, 0, 1]


def test_what_is_kept_of_a_row_are_a_few_bytes():
    frame = frame_of([{"image": PNG, "text": "a" * 1000}] * 3)
    assert frame.memory_usage(index=False, deep=True).drop("status").sum() == 3 * 33
    assert frame["status"].cat.codes.dtype == np.int8
