"""Any text, or what stands in its place, gets a status or a result; and comes out of every format."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.data.rows import STATUSES, read_text
from diptych.pipeline.data.writer import FORMATS, RowWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from ...conftest import build_tiny, picture

PLANES = [chr(start) + chr(start + 0x41) + chr(start + 0xFF) for start in range(0x10000, 0x110000, 0x10000)]
TEXTS = {
    "empty": ("", "text_missing"),
    "blanks": (" \t\r\n\u2003\u3000", "text_missing"),
    "zero width": ("\u200b\ufeff\u200d", "text_missing"),
    "NUL alone": ("\0\0", "text_missing"),
    "NUL": ("a\0red\0shirt", "ok"),
    "1 MB of words": ("red shirt " * 100_000, "text_truncated"),
    "1 MB without a blank": ("a" * 1_000_000, "ok"),  # one word that nobody knows
    "1 MB of blanks": (" " * 1_000_000, "text_missing"),
    "1 MB of emoji": ("🙂 " * 250_000, "text_truncated"),
    "right to left": ("قميص أحمر \u202e red \u202c חולצה", "ok"),
    "combining": ("a" + "\u0301" * 500, "ok"),
    "lone high": ("a \ud800", "text_unreadable"),
    "lone low": ("\udfff a", "text_unreadable"),
    "pair in two": ("\ud83d\ude42", "text_unreadable"),
    "last": ("\U0010ffff\uffff\ufffe", "ok"),
    "markup": ('<b>"red"</b>, {"a": 1}\r\n=SUM(A1)\\', "ok"),
    "special": ("[PAD] [CLS] [SEP] [MASK] [UNK] </s>", "ok"),
    "None": (None, "text_missing"),
    "NaN": (float("nan"), "text_missing"),
    "NaN of numpy": (np.float32("nan"), "text_missing"),
    "NA": (pd.NA, "text_missing"),
    "NaT": (pd.NaT, "text_missing"),
    "whole": (7, "ok"),
    "huge": (10**5000, "text_unreadable"),
    "true": (True, "ok"),
    "broken": (2.5, "ok"),
    "infinite": (float("inf"), "ok"),
    "number of numpy": (np.int64(7), "ok"),
    "list": (["a red shirt"], "text_unreadable"),
    "dict": ({"text": "a"}, "text_unreadable"),
    "bytes": (b"a red shirt", "text_unreadable"),
    "array": (np.array(["a", "b"]), "text_unreadable"),
    "date": (datetime.date(2024, 5, 6), "text_unreadable"),
    "decimal": (decimal.Decimal("1.5"), "text_unreadable"),
} | {f"plane {number + 1}": (text, "ok") for number, text in enumerate(PLANES)}


@pytest.fixture(scope="module")
def classify(text_folder) -> ImageTextClassifier:
    return ImageTextClassifier(*build_tiny(text_folder), device="cpu")


@pytest.fixture(scope="module")
def said(classify) -> dict[str, tuple[dict, float]]:
    """Of every text its prediction, beside a good picture, and the seconds that it took."""
    found = {}
    for name, (text, _) in TEXTS.items():
        started = time.process_time()
        found[name] = classify({"image": picture("red"), "text": text}), time.process_time() - started
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_has_its_status(said, name):
    found, seconds = said[name]
    status = TEXTS[name][1]
    assert (found["status"], found["reason"] == "") == (status, status == "ok")
    assert found["label"] is not None
    assert len(found["reason"]) < 300
    assert seconds < 5


def written(folder, name, rows):
    with RowWriter(folder / name, labels=["no", "yes"]) as writer:
        for row in rows:
            writer.write(row)
    if name.endswith(".csv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            limit = csv.field_size_limit(1 << 25)
            read = list(csv.DictReader(file))
            csv.field_size_limit(limit)
            return read
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").split("\n")[:-1]]
    return pq.read_table(folder / name).to_pylist()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_text_comes_out_of_every_format(said, suffix, tmp_path):
    texts = [text for text, _ in TEXTS.values()]
    predictions = ({"text": TEXTS[name][0], **p, "row": row} for row, (name, (p, _)) in enumerate(said.items()))
    rows = written(tmp_path, f"out{suffix}", predictions)
    assert [int(row["row"]) for row in rows] == list(range(len(texts)))
    assert [row["status"] for row in rows] == [status for _, status in TEXTS.values()]
    for text, row in zip(texts, rows, strict=True):
        if isinstance(text, str) and read_text(text)[1] is None:
            assert row["text"] == text


CHARACTERS = st.characters(categories=None) | st.sampled_from("\0\r\n\t \u202e\ud800\udfff\U000e0001🙂")
ANYTHING = st.text(CHARACTERS, max_size=30) | st.none() | st.floats() | st.integers() | st.lists(st.text(), max_size=2)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(ANYTHING, min_size=1, max_size=6))
def test_any_texts_have_a_status_and_keep_their_order(classify, texts):
    found = classify([{"image": None, "text": text} for text in texts], batch_size=4)
    assert [p["row"] for p in found] == list(range(len(texts)))
    for text, p in zip(texts, found, strict=True):
        assert p["status"] in STATUSES
        assert (p["label"] is None) == (read_text(text)[0] is None) == (p["status"] == "both_missing")


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(ANYTHING, min_size=1, max_size=6))
def test_any_texts_come_out_of_every_format(suffix, texts, tmp_path_factory):
    rows = [{"text": text, "row": number} for number, text in enumerate(texts)]
    found = written(tmp_path_factory.mktemp("out"), f"out{suffix}", rows)
    assert [int(row["row"]) for row in found] == list(range(len(texts)))
