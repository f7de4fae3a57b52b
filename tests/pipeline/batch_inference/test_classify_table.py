"""A whole table into another: columns, the summary, and where it stops."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.data.rows import STATUSES, BadRow
from diptych.pipeline.model.folder import save_model

from ...conftest import picture


@pytest.fixture
def run(tiny, tmp_path):
    """Classify a table of these lines of CSV, or `-`: what was said, the rows that came out, the counts."""
    save_model(*tiny, tmp_path / "model")
    picture("red").save(tmp_path / "red.png")
    (tmp_path / "junk.png").write_bytes(b"junk")

    def classify(data, **options):
        if data != "-":
            (tmp_path / "t.csv").write_text("\n".join(data) + "\n")
            data = str(tmp_path / "t.csv")
        said, out = [], tmp_path / "out.csv"
        out.unlink(missing_ok=True)
        counts = classify_table(data, str(out), model=tmp_path / "model", say=said.append, quiet=True, **options)
        with out.open(newline="") as file:
            return said, list(csv.DictReader(file)), counts

    return classify


LONG = "red " * 50
EVERY = [
    "image,text",
    "red.png,a red shirt",
    f"red.png,{LONG}",
    "red.png,",
    "gone.png,a",
    "junk.png,a",
    "gone.png, ",
    "red.png,a,b",
    "red.png,shoe",
]
EXPECTED = [
    "ok",
    "text_truncated",
    "text_missing",
    "image_missing",
    "image_unreadable",
    "both_missing",
    "row_unreadable",
    "ok",
]


def test_the_summary_counts_every_status_in_the_order_of_severity(run):
    said, rows, counts = run(EVERY)
    assert [row["status"] for row in rows] == EXPECTED
    assert [row["row"] for row in rows] == [str(number) for number in range(8)]
    assert list(counts) == [status for status in reversed(STATUSES) if status in EXPECTED]
    assert counts == {status: EXPECTED.count(status) for status in counts}
    shown = ", ".join(f"{count} {status}" for status, count in counts.items())
    assert said[-1].startswith(f"8 rows: {shown}; ")


def test_ok_is_counted_even_where_no_row_is(run):
    said, _, counts = run(["image,text", "gone.png,a", "red.png,"])
    assert counts == {"ok": 0, "text_missing": 1, "image_missing": 1}
    assert "2 rows: 0 ok, 1 text_missing, 1 image_missing" in said[-1]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["image,text", "gone.png,a", "lost.png,b"], r"no row has an image .* in 'image' \(row 0: .*gone.png does not"),
        (["image,text", "https://x.org/a.png,a"], r"no row has an image .* is a URL"),
        (["image,text", ",a"], r"no row has an image that can be used in 'image' \(row 0: there is no image"),
        (["image,text", "red.png,", "red.png, "], "no row has a text that can be used in 'text'.* give --image-only"),
    ],
)
def test_a_table_without_any_image_or_text_is_refused_and_says_where_was_looked(run, lines, reason):
    with pytest.raises(ValueError, match=reason):
        run(lines)


def test_what_is_not_asked_for_is_no_problem_of_a_row(run):
    assert run(["image,text", "gone.png,a", ",b"], text_only=True)[2] == {"ok": 2}
    assert run(["image,text", "red.png,"], image_only=True)[2] == {"ok": 1}
    assert run(["image,text", "gone.png,a", "gone.png,"], text_only=True)[2] == {"ok": 1, "both_missing": 1}


def test_skip_gives_no_prediction_and_keeps_the_status(run):
    _, rows, _ = run(EVERY, on_bad_row="skip")
    assert [row["status"] for row in rows] == EXPECTED
    assert [row["label"] != "" for row in rows] == [True, True, *[False] * 5, True]


@pytest.mark.parametrize(("line", "number"), [(3, 2), (7, 0)])
def test_error_names_table_row_and_file_and_keeps_the_rows_before(run, tmp_path, line, number):
    lines = EVERY[:1] + (EVERY[1:3] + EVERY[line:] if number else EVERY[line:])
    left = r"the rows before it are in .*out\.partial\.csv" if number else "no row was written"
    with pytest.raises(BadRow, match=rf"t\.csv, row {number}: .*; {left}$"):
        run(lines, on_bad_row="error")
    assert not (tmp_path / "out.csv").exists()
    assert (tmp_path / "out.partial.csv").exists() is bool(number)
    for kept in tmp_path.glob("out.partial.csv"):
        with kept.open(newline="") as file:
            assert [row["status"] for row in csv.DictReader(file)] == ["ok", "text_truncated"]


def stream(monkeypatch, *lines: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines))))


def test_a_broken_line_of_a_stream_keeps_its_place(run, monkeypatch, tmp_path):
    whole = json.dumps({"image": str(tmp_path / "red.png"), "text": "c", "id": 3}).encode()
    stream(monkeypatch, b"{", b'{"text": "a", "id": 1}', b"\xff\xfe", b'{"text": "b", "id": 2}', b"[1]", whole)
    _, rows, counts = run("-")
    assert [row["status"] for row in rows] == ["row_unreadable", "image_missing"] * 2 + ["row_unreadable", "ok"]
    assert [row["id"] for row in rows] == ["", "1", "", "2", "", "3"]
    assert rows[2]["reason"].startswith("line 3 of standard input is no JSON: 'utf-8' codec")
    assert counts == {"ok": 1, "image_missing": 2, "row_unreadable": 3}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a"}, r"no row has an image that can be used in 'image' \(row 0: there is no image\)"),
        ({"image": "gone.png", "text": "a"}, r"no row has an image .* in 'image' \(row 0: gone.png does not exist\)"),
        ({"image": "junk", "text": " "}, r"no row has an image .*give --text-only"),
        ({"image": "red.png", "text": None}, r"no row has a text .*\(row 0: there is no text\).*give --image-only"),
    ],
)
@pytest.mark.parametrize("rows", [1, 150])
def test_standard_input_without_any_image_or_text_stops_in_the_end(row, reason, rows, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stream(monkeypatch, *[json.dumps(row).encode()] * rows, b"{")
    with pytest.raises(ValueError, match=rf"standard input: {reason}.*the rows before it are in .*out\.partial\.csv"):
        run("-")
    assert not (tmp_path / "out.csv").exists()
    assert len((tmp_path / "out.partial.csv").read_text().splitlines()) == rows + 2, "all rows have their status"


def test_parts_of_rows_that_pass_by_without_any_image_stop_in_the_end(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    rows = ({"image": None, "text": "a"} for _ in range(120))
    with pytest.raises(ValueError, match=r"^data: no row has an image .* reason of each is in .*out\)"):
        classify_table(
            rows, str(tmp_path / "out/"), model=tmp_path / "model", part_rows=50, quiet=True, say=lambda _: None
        )


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 150])
@pytest.mark.parametrize("missing", ["image", "text"])
def test_rows_that_pass_by_without_any_image_or_text_stop_the_run(rows, missing, tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    row = {"image": picture("red"), "text": "a red shirt"} | {missing: None}
    out = tmp_path / "out.jsonl"

    def classify(rows):
        return classify_table(rows, str(out), model=tmp_path / "model", quiet=True, say=lambda _: None)

    with pytest.raises(ValueError, match=f"^data: no row has an? {missing} that can be used in {missing!r} .row 0"):
        classify(dict(row) for _ in range(rows))
    assert not out.exists()
    assert (tmp_path / "out.partial.jsonl").exists() is (rows >= 100), "the first hundred are looked at beforehand"
    last = {"image": picture("blue"), "text": "a blue shirt"}
    assert classify(iter([*[dict(row)] * rows, last])) == {"ok": 1, f"{missing}_missing": rows}
    assert [json.loads(line)["row"] for line in out.read_text().splitlines()] == list(range(rows + 1))


def test_a_stream_of_broken_lines_is_a_row_for_each(run, monkeypatch, tmp_path):
    stream(monkeypatch, b"image,text", b"a.png,b")
    with pytest.raises(ValueError, match=r"standard input: no row can be read \(row 0: line 1 of .* is no JSON"):
        run("-")
    pair = json.dumps({"image": str(tmp_path / "red.png"), "text": "a"}).encode()
    stream(monkeypatch, b"image,text", pair, b"a.png,b")
    _, rows, counts = run("-")
    assert counts == {"ok": 1, "row_unreadable": 2}
    assert [bool(row["label"]) for row in rows] == [False, True, False]


def test_error_names_the_line_of_a_stream(run, monkeypatch):
    stream(monkeypatch, json.dumps({"image": "x", "text": "a"}).encode(), b"{")
    with pytest.raises(BadRow, match="standard input, row 0: x does not exist"):
        run("-", on_bad_row="error")
    stream(monkeypatch, b"", b"{")
    with pytest.raises(
        BadRow, match=r"standard input, row 0: line 2 of standard input is no JSON: .* \(row_unreadable\)"
    ):
        run("-", on_bad_row="error")


def test_the_columns_of_a_stream_may_have_other_names(run, monkeypatch, tmp_path):
    pair = {"photo": str(tmp_path / "red.png"), "caption": "a red shirt", "id": "x"}
    for options in (
        {},
        {"image_column": "photo"},
        {"text_column": "caption"},
        {"image_column": "photo", "text_column": "caption"},
    ):
        stream(monkeypatch, json.dumps(pair).encode(), b'{"caption": "b"}')
        assert [row["status"] for row in run("-", **options)[1]] == ["ok", "image_missing"]
    stream(monkeypatch, b'{"caption": "b"}', json.dumps(pair).encode())
    assert [row["status"] for row in run("-", image_column="photo")[1]] == ["image_missing", "ok"]


def test_a_table_of_one_half_is_classified_by_naming_it(run):
    with pytest.raises(ValueError, match=r"name it with --image-column, or give --text-only if there is none"):
        run(["id,text", "1,a red shirt"])
    said, rows, counts = run(["id,text", "1,a red shirt"], text_only=True)
    assert counts == {"ok": 1}
    assert (rows[0]["id"], rows[0]["image_contribution"]) == ("1", "0.0")
    assert said[0] == "columns: image from none, text from 'text'"


def test_a_column_that_is_not_there_is_named(run):
    with pytest.raises(ValueError, match="has no text column 'caption'; it has 'image', 'text'"):
        run(["image,text", "red.png,a"], text_column="caption")
