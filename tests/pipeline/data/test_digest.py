"""Data is known by all its content: any row that is changed, moved, left out or added makes it another."""

from __future__ import annotations

import csv
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diptych.pipeline.data.digest import row_digest, table_digest
from diptych.pipeline.data.rows import Columns, UnreadableRow
from diptych.pipeline.data.tables import Table, load_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

ROWS = [{"image": f"{n}.png", "text": f"a shirt {n:04d}", "label": n % 3} for n in range(600)]


def write(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


def edited(rows, n):
    """One letter of a row, at the same size."""
    return [*rows[:n], {**rows[n], "text": rows[n]["text"].replace("shirt", "short")}, *rows[n + 1 :]]


CHANGES = {
    "edited": lambda rows: edited(rows, 333),
    "reversed": lambda rows: rows[::-1],
    "swapped": lambda rows: [rows[1], rows[0], *rows[2:]],
    "label": lambda rows: [*rows[:-1], {**rows[-1], "label": 7}],
    "shorter": lambda rows: rows[:-1],
    "longer": lambda rows: [*rows, rows[-1]],
    "doubled": lambda rows: [*rows[:10], rows[10], *rows[10:-1]],
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_in_a_file_is_seen(tmp_path, suffix, streaming, change):
    path = tmp_path / f"t{suffix}"
    digests = []
    for rows in (ROWS, CHANGES[change](ROWS), ROWS):
        write(path, rows)
        digests.append(table_digest(load_tables(path, streaming=streaming)["train"]))
    assert digests[0] == digests[2] != digests[1]
    assert None not in digests


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 599), column=st.sampled_from(["image", "text", "label"]))
def test_any_cell_of_a_dataset_counts(row, column):
    rows = datasets.Dataset.from_list(ROWS)
    value = 99 if column == "label" else "other"
    other = datasets.Dataset.from_list([{**r, column: value} if n == row else r for n, r in enumerate(ROWS)])
    assert table_digest(Table(rows, None, "")) != table_digest(Table(other, None, ""))


def test_how_rows_are_stored_does_not_count():
    rows = datasets.Dataset.from_list(ROWS)
    joined = datasets.concatenate_datasets([rows.select(range(100)), rows.select(range(100, 600))])
    assert table_digest(Table(rows, None, "")) == table_digest(Table(joined, None, ""))
    assert table_digest(Table(rows, None, "")) == table_digest(Table(rows.select(list(range(600))), None, ""))


def test_a_stream_of_the_hub_is_known_by_its_commit_and_no_other_stream_is(tmp_path, monkeypatch):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    local = datasets.load_dataset("parquet", data_files=str(tmp_path / "t.parquet"), split="train", streaming=True)
    assert table_digest(Table(local, None, "")) is None
    digests = []
    for commit in ("a" * 40, "b" * 40, "a" * 40):
        local._ex_iterable.kwargs["files"] = [f"hf://datasets/someone/some@{commit}/t.parquet"]
        digests.append(table_digest(Table(local, None, "")))
    assert digests[0] == digests[2] != digests[1]
    assert digests[0] is not None
    for changed in (local.take(5), local.map(lambda row: row), local.filter(bool), local.shuffle(seed=1)):
        assert table_digest(Table(changed, None, "")) is None


COLUMNS = Columns("image", "text")


def test_a_row_is_known_by_its_picture_however_it_stands(tmp_path):
    def digest(image, text="a", read=True):
        return row_digest({"image": image, "text": text}, COLUMNS, tmp_path, read=read)

    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "a.png")
    before = digest("a.png")
    assert before == digest(tmp_path / "a.png") == digest({"bytes": (tmp_path / "a.png").read_bytes(), "path": None})
    second.save(tmp_path / "a.png")  # another picture of the same name
    assert digest("a.png") != before
    assert digest("a.png", read=False) == digest("a.png", read=False) != digest("b.png", read=False)
    assert digest(first) != digest(second)
    assert digest(np.zeros((4, 4, 3), np.uint8)) != digest(np.ones((4, 4, 3), np.uint8))
    assert digest("gone.png") != digest("away.png")
    assert digest(None) != digest(None, text="b")
    assert digest("a.png", text="\ud800") == digest("a.png", text="\ud800")
    broken = [row_digest(UnreadableRow(why), COLUMNS, None, read=True) for why in ("one", "two", "one")]
    assert broken[0] == broken[2] != broken[1]
