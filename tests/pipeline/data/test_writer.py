"""Rows of predictions as CSV, JSON lines or parquet: what goes in comes out, and what was written is kept."""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from diptych.pipeline.data import writer as tables
from diptych.pipeline.data.values import to_json
from diptych.pipeline.data.writer import FORMATS, RowWriter
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = {
    "image": "a.png",
    "text": 'naïve 東京 🙂, says "no"\nthen\r\nstops; a\tb',
    "row": 1,
    "status": "ok",
    "label": "yes",
    "score": 0.75,
    "scores": {"no": 0.25, "yes": 0.75},
    "image_contribution": -0.25,
    "text_contribution": 1.5,
}
BAD = dict.fromkeys(GOOD) | {"row": 0, "status": "both_missing"}
AS_TEXT = {"row": int, "scores": json.loads}
AS_TEXT |= dict.fromkeys(("score", "image_contribution", "text_contribution"), float)


def read(path: Path) -> list[dict]:
    """The rows of a file by another reader; the cells of a CSV file as the numbers they stand for."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: AS_TEXT.get(k, str)(v) if v != "" else None for k, v in row.items()} for row in rows]


def write(path: Path, rows: list[dict]) -> Path:
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return path


@pytest.fixture(params=FORMATS)
def path(request, tmp_path) -> Path:
    return tmp_path / f"out{request.param}"


@pytest.fixture(params=[1, 2, 1000], ids=lambda size: f"chunks of {size}")
def chunk(request, monkeypatch) -> int:
    monkeypatch.setattr(tables, "_CHUNK", request.param)
    return request.param


def test_rows_come_out_as_they_went_in(path, chunk):
    rows = [GOOD, BAD, {**GOOD, "row": 2, "text": ""}, BAD, GOOD]
    expected = [{**row, "text": None} if path.suffix == ".csv" and row["text"] == "" else row for row in rows]
    assert read(write(path, rows)) == expected


def test_a_prediction_may_come_after_chunks_without_any(path, chunk):
    found = read(write(path, [BAD, BAD, BAD, GOOD]))
    scores = found[3]["scores"]
    found[3]["scores"] = json.loads(scores) if isinstance(scores, str) else scores
    assert found == [BAD, BAD, BAD, GOOD]


def test_scores_are_a_struct_in_parquet_even_where_the_first_rows_have_none(tmp_path, chunk):
    with RowWriter(tmp_path / "out.parquet", labels=["no", "yes"]) as writer:
        for row in [BAD, BAD, GOOD]:
            writer.write(row)
    kind = pq.read_schema(tmp_path / "out.parquet").field("scores").type
    assert str(kind) == "struct<no: double, yes: double>"
    assert read(tmp_path / "out.parquet") == [BAD, BAD, GOOD]


def test_a_first_row_without_columns_of_its_own_hides_no_column(path):
    bare = dict.fromkeys(list(BAD)[2:])
    found = read(write(path, [bare, GOOD]))
    assert [row.get("image") for row in found] == [None, "a.png"]
    if path.suffix != ".jsonl":
        assert list(found[0]) == list(GOOD)


def test_a_chunk_of_long_texts_is_written_before_it_is_full_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_CHUNK_TEXT", 1000)
    with RowWriter(tmp_path / "out.jsonl") as writer:
        for _ in range(3):
            writer.write({"text": "x" * 600})
        assert len(writer.rows) == 1
        assert len(read(writer.path)) == 2


@pytest.mark.parametrize("number", [2**70, 10**5000], ids=["22 digits", "5000 digits"])
def test_a_number_of_any_length_spoils_no_file(number, path):
    found = read(write(path, [{"a": number}]))[0]["a"]
    assert int(str(found), 0) == number


@pytest.mark.parametrize("late", [7, 2.5, True, "x", {"a": 1}, [1, 2]], ids=lambda value: type(value).__name__)
def test_a_column_may_be_empty_for_chunks(late, path, chunk):
    found = read(write(path, [{"row": n, "extra": None} for n in range(3)] + [{"row": 3, "extra": late}]))
    assert [row["extra"] for row in found[:3]] == [None] * 3
    assert found[3]["extra"] in (late, str(late), json.dumps(late))


def test_a_column_of_nothing_is_null(path, chunk):
    assert read(write(path, [{"row": n, "extra": None} for n in range(3)])) == [
        {"row": n, "extra": None} for n in range(3)
    ]


@pytest.mark.parametrize(("early", "late"), [(1, 2.5), (1, "x"), ("x", 1), (1, None)])
def test_a_later_value_of_another_type_is_kept_or_refused_but_never_changed(early, late, path, chunk):
    try:
        found = read(write(path, [{"a": early}] * 3 + [{"a": late}]))
    except ValueError as error:
        named = "'a'" in str(error)
        assert named
        found = read(path)
        assert [row["a"] for row in found] == [early] * len(found)
    else:
        assert [row["a"] in (value, str(value)) for row, value in zip(found, [early] * 3 + [late], strict=True)] == [
            True
        ] * 4


def test_columns_keep_their_order(path):
    write(path, [GOOD])
    if path.suffix == ".csv":
        assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join(GOOD)
    else:
        assert list(read(path)[0]) == list(GOOD)


def test_a_row_may_be_changed_once_it_has_been_written(path):
    row = dict(BAD)
    with RowWriter(path) as writer:
        writer.write(row)
        row["row"] = 9
    assert read(path) == [BAD]


def test_text_that_is_no_unicode_spoils_no_file(path):
    (found,) = read(write(path, [{"text": "broken \ud800", "scores": {"a\udfff": 0.5}, "row": 0}]))
    assert found["text"] == "broken ?"


@pytest.mark.parametrize("suffix", FORMATS)
@given(texts=st.lists(st.text("aé🙂 ,;\"'\n\r\t\\", max_size=8), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_text_comes_out_as_it_went_in(suffix, texts, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("out") / f"t{suffix}", [{"text": text, "row": 0} for text in texts])
    assert [row["text"] or "" for row in read(path)] == texts


def test_rows_before_an_error_are_kept_and_readable(path, chunk):
    def rows():
        yield GOOD
        yield BAD
        yield GOOD
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        write(path, rows())
    assert read(path) == [GOOD, BAD, GOOD]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_full_chunks_are_on_the_disk_before_the_end(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_CHUNK", 2)
    with RowWriter(tmp_path / f"out{suffix}") as writer:
        for _ in range(3):
            writer.write(BAD)
        assert read(writer.path) == [BAD, BAD]


def test_the_file_is_replaced(path):
    write(path, [GOOD, GOOD])
    assert read(write(path, [BAD])) == [BAD]


def test_no_rows_make_a_file_that_can_be_read(path):
    assert read(write(path, [])) == []


def test_a_home_folder_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(Path("~/out.jsonl"), [BAD])
    assert read(tmp_path / "out.jsonl") == [BAD]


def test_a_dash_is_standard_output_row_by_row(capsys):
    with RowWriter("-") as writer:
        writer.write(GOOD)
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [GOOD]
        writer.write(BAD)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [BAD]
    assert not sys.stdout.closed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_standard_output_is_utf_8_whatever_the_terminal_is(encoding):
    code = (
        "from diptych.pipeline.data.writer import RowWriter\n"
        "print('first', flush=True)\n"
        "with RowWriter('-') as writer: writer.write({'text': 'naïve 東京 🙂 \\ud800'})\n"
        "print('last')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert '\n{"text": "naïve 東京 🙂 ?"}\n'.encode() in done.stdout.replace("\n".encode("utf-16-le"), b"\n")
    assert "last".encode(encoding.replace("16", "16-le")) in done.stdout


@pytest.mark.parametrize("depth", [99, 150, 600, 900, 5000])
@pytest.mark.parametrize("kind", [list, dict])
def test_a_value_nested_ever_so_deep_spoils_no_row(depth, kind, path):
    value = "core"
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    if path.suffix == ".parquet":
        value = json.dumps(depth)  # a column has one type, which such a value would settle
    found = read(write(path, [GOOD | {"extra": value}, GOOD | {"extra": None}]))
    assert [row["label"] for row in found] == ["yes", "yes"]
    assert found[0]["extra"]
    if depth < 100 and path.suffix == ".jsonl":
        assert found[0]["extra"] == value


@pytest.mark.parametrize("name", ["out", "out.txt", "out.json", "out.xlsx"])
def test_an_unknown_suffix_is_named_with_those_that_can_be_written(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} has no format") as caught:
        RowWriter(tmp_path / name)
    assert all(suffix in str(caught.value) for suffix in (".csv", ".jsonl", ".parquet"))
    assert not (tmp_path / name).exists()


def test_a_folder_that_is_not_there_is_named(path):
    with pytest.raises(ValueError, match=f"{path.name} cannot be written to .*--out"):
        RowWriter(path.parent / "nowhere" / path.name)


def test_a_folder_in_the_place_of_the_file_is_named(path):
    path.mkdir()
    with pytest.raises(ValueError, match=f"{path.name} cannot be written to"):
        RowWriter(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named(path):
    path.symlink_to("/dev/full")
    with pytest.raises((ValueError, OSError), match=f"{path.name} cannot be written to"):
        write(path, [BAD])


# JSON


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_says_null_for_what_is_no_number(value):
    assert to_json({"a": value, "b": [value], "c": {"d": value}}) == '{"a": null, "b": [null], "c": {"d": null}}'


def test_json_says_text_for_what_it_has_no_word_for():
    row = {"day": datetime.date(2024, 5, 6), "path": Path("a/b"), 3: "key"}
    assert json.loads(to_json(row)) == {"day": "2024-05-06", "path": "a/b", "3": "key"}


def test_json_keeps_plain_values_as_they_are():
    row = {"a": None, "b": True, "c": 3, "d": 0.1, "e": "東京 🙂\n", "f": [1, [2.5]], "g": {"h": (1, None)}}
    assert json.loads(to_json(row)) == {**row, "g": {"h": [1, None]}}
    assert "東京 🙂" in to_json(row)
    assert "\n" not in to_json(row)


def test_json_is_valid_unicode():
    assert json.loads(to_json({"a": "broken \ud800"}).encode("utf-8")) == {"a": "broken ?"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text("a\n\ud800🙂", max_size=4)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text("abc", max_size=2), VALUES, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_row_is_one_line_of_strict_json(row):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    line = to_json(row)
    assert "\n" not in line
    assert set(json.loads(line.encode("utf-8"), parse_constant=refuse)) == set(row)
