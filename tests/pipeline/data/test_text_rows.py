"""CSV and JSON lines row by row: a broken line is a row of its own status, in its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from diptych.pipeline.data.csv_rows import CsvRows
from diptych.pipeline.data.json_rows import JsonRows
from diptych.pipeline.data.rows import Columns, UnreadableRow, read_pair
from diptych.pipeline.data.tables import load_tables, read_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st


def rows_of(path: Path, data: bytes) -> list:
    path.write_bytes(data)
    table = load_tables(path, streaming=True)["train"]
    rows = list(table.rows)
    assert list(table.rows) == rows, "read anew by every reader"
    for odd in (0, 1):  # what is not wanted keeps its place and is not read
        some = list(table.rows.only(lambda number, odd=odd: number % 2 == odd))
        assert some == [row if number % 2 == odd else None for number, row in enumerate(rows)]
    return [row.reason if isinstance(row, UnreadableRow) else row for row in rows]


def test_a_csv_line_with_too_many_cells_is_a_row_that_names_it(tmp_path):
    rows = rows_of(tmp_path / "t.csv", b"image,text\na,b\nc,d,e\n\nf\n")
    assert rows[0] == {"image": "a", "text": "b"}
    assert rows[1] == f"line 3 of {tmp_path}/t.csv: 3 cells for 2 columns"
    assert rows[2:] == [{"image": "f", "text": None}]


def test_a_csv_cell_that_is_no_utf_8_is_one_bad_text(tmp_path):
    rows = rows_of(tmp_path / "t.csv", "image,text\na,good\nb,caf\xe9\n".encode("latin-1") + "c,bön\n".encode())
    pairs = [read_pair(number, row, Columns("image", "text")) for number, row in enumerate(rows)]
    assert [pair.text for pair in pairs] == ["good", None, "bön"]
    assert pairs[1].problems[1] == (
        "text_unreadable", "the text is no valid Unicode at character 3; save its file as UTF-8"
    )  # fmt: skip


def test_a_csv_header_that_is_no_utf_8_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"t\.csv is no UTF-8 text; save it as UTF-8"):
        rows_of(tmp_path / "t.csv", "image,légende\na,b\n".encode("latin-1") + "c,bön\n".encode())


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (b'a,b\nc,"d\ne,f\ng,"h"\ni,j\n', 3),  # closed before h, which no quote may be
        (b'a,b\nc,"d\ne,f\ng,h\n', 3),  # closed nowhere
        (b'a,"two\nlines"\nc,"d\n' + b"e,f\n" * 2000, 4),
        (b'"a\nb,c\n"d,e"\n', 2),
        (b'a,"b"" c\nd,e\n', 2),
    ],
)
def test_a_quote_that_is_never_closed_is_refused_with_the_line_that_opens_it(lines, line, tmp_path):
    with pytest.raises(ValueError, match=rf"line {line} of .*t\.csv opens a quote that is not closed"):
        rows_of(tmp_path / "t.csv", b"image,text\n" + lines)


def test_quotes_inside_a_line_are_as_loose_as_ever(tmp_path):
    rows = rows_of(tmp_path / "t.csv", b'image,text\na,5" wide\nb,"red" shirt\nc,"two\n""quoted"" lines"\n')
    assert [row["text"] for row in rows] == ['5" wide', "red shirt", 'two\n"quoted" lines']


def test_a_cell_may_be_a_megabyte_long_and_the_limit_of_the_process_stays(tmp_path):
    before = csv.field_size_limit()
    rows = rows_of(tmp_path / "t.csv", b"image,text\na," + b"x" * 1_000_000 + b"\n")
    assert len(rows[0]["text"]) == 1_000_000
    assert csv.field_size_limit() == before


def test_a_cell_without_end_is_refused_and_the_reading_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.pipeline.data.csv_rows._LONGEST_CELL", 10)
    rows = rows_of(tmp_path / "t.csv", b"image,text\na,b\nc," + b"x" * 11 + b"\nd,e\n")
    assert rows[1].startswith(f"line 3 of {tmp_path}/t.csv is no CSV: field larger")
    assert rows[2] == {"image": "d", "text": "e"}


def test_several_csv_files_are_read_one_after_another(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.csv").write_text(f"image,text\n{number},x\n")
    rows = CsvRows([tmp_path / "0.csv", tmp_path / "1.csv"])
    assert [row["image"] for row in rows] == ["0", "1"]
    assert rows.first == {"image": "0", "text": "x"}


BROKEN = [
    b"{broken",
    b"3",
    b"[1]",
    b'"text"',
    b"null",
    b"[" * 100_000,
    b'{"a": "\xff"}',
    b'{"a": 1' + b"0" * 5000 + b"}",
]


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:8].decode("latin-1"))
def test_a_broken_json_line_is_a_row_that_names_it(line, tmp_path):
    lines = [b'{"text": "a"}\n', b"\n", line + b"\n", b'{"image": "b.png"}\n']
    rows = list(read_json_lines(lines).rows)
    assert (rows[0], rows[2], len(rows)) == ({"text": "a"}, {"image": "b.png"}, 3)
    assert rows[1].reason.startswith("line 3 of standard input is no JSON")
    pair = read_pair(1, rows[1], Columns("image", "text"))
    assert (pair.status, pair.image, pair.text) == ("row_unreadable", None, None)
    found = rows_of(tmp_path / "t.jsonl", '{"text": "ä"}\n'.encode() + b"".join(lines[1:]))
    assert found[0] == {"text": "ä", "image": None}
    assert found[1].startswith(f"line 3 of {tmp_path}/t.jsonl is no JSON")


def test_broken_json_lines_may_come_first():
    table = read_json_lines([b"junk\n", b"{\n", b'{"text": "a"}\n'])
    assert table.names == ["text"]
    assert [isinstance(row, UnreadableRow) for row in table.rows] == [True, True, False]


def test_the_columns_of_json_files_are_those_of_its_rows_together(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": null}\n{"image": "a.png"}\n{"text": "b", "late": 1}\n')
    rows = JsonRows([tmp_path / "t.jsonl"])
    assert rows.first == {"text": "b", "image": "a.png", "late": 1}
    assert next(iter(rows)) == {"text": None, "image": None, "late": None}


def test_a_byte_order_mark_is_no_json_and_no_matter(tmp_path):
    assert rows_of(tmp_path / "t.jsonl", b'\xef\xbb\xbf{"text": "a"}\n') == [{"text": "a"}]


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.text("aé🙂,;\"'\n\r\t ", max_size=6), st.text("ab", min_size=1)), min_size=1, max_size=5
    )
)
def test_any_csv_cells_come_back(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "image"), *cells])
    assert [(row["text"] or "", row["image"]) for row in CsvRows([path])] == cells


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line and line.strip()), max_size=5))
def test_any_lines_give_a_row_each(lines):
    good = json.dumps({"text": "a"}).encode()
    assert len(list(read_json_lines([good, *lines]).rows)) == len(lines) + 1


@pytest.mark.parametrize("blank", ["\u00a0", "\x0c", "\u2028 ", "\u3000", " \t", "\x1c"])
def test_a_line_of_blanks_of_any_script_is_no_row_however_rows_are_read(blank, tmp_path):
    rows = [{"image": "a.png", "text": f"line {number}"} for number in range(4)]
    lines = [json.dumps(row) for row in rows]
    data = "\n".join([blank, lines[0], blank, blank, *lines[1:3], blank, lines[3], blank]).encode()
    assert rows_of(tmp_path / "t.jsonl", data) == rows
    by_number = load_tables(tmp_path / "t.jsonl")["train"].rows
    assert [by_number[number] for number in range(len(by_number))] == rows
    assert list(read_json_lines(data.splitlines(keepends=True)).rows) == rows
