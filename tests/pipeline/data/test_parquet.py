"""Parquet read row by row: what `datasets` reads, images undecoded."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diptych.pipeline.data.parquet import ParquetRows
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=3), st.integers(1, 100), st.integers(1, 5))
def test_rows_come_in_order_whatever_the_files_and_groups(tmp_path_factory, sizes, group, step):
    folder, start, files = tmp_path_factory.mktemp("parquet"), 0, []
    for index, size in enumerate(sizes):
        files.append(folder / f"{index}.parquet")
        pq.write_table(pa.table({"n": range(start, start + size)}), files[-1], row_group_size=group)
        start += size
    rows = ParquetRows(files)
    assert len(rows) == start
    for _ in range(2):
        assert [row["n"] for row in rows] == list(range(start))
    found = list(rows.only(lambda number: number % step == 0))
    assert found == [{"n": n} if n % step == 0 else None for n in range(start)]


def test_values_are_those_that_datasets_reads(pairs, tmp_path):
    few = pairs.select(range(3)).add_column("tags", [["a"], [], None]).add_column("when", ["x", None, "y"])
    few.to_parquet(tmp_path / "t.parquet")
    rows = ParquetRows([tmp_path / "t.parquet"])
    assert rows.features["label"] == pairs.features["label"]
    assert rows.features["image"] == datasets.Image(decode=False)
    assert list(rows) == list(few.cast_column("image", datasets.Image(decode=False)))


def test_a_column_that_a_later_file_lacks_is_none_there_and_one_more_is_left_out(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"text": ["b"], "other": [2.0]}), tmp_path / "2.parquet")
    rows = ParquetRows([tmp_path / "1.parquet", tmp_path / "2.parquet"])
    assert list(rows) == [{"text": "a", "label": 1}, {"text": "b", "label": None}]


def test_columns_of_two_types_are_refused(tmp_path):
    pq.write_table(pa.table({"label": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"label": ["1"]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet: 'label' is string, and int64 in .*1\.parquet; give both"):
        list(ParquetRows([tmp_path / "1.parquet", tmp_path / "2.parquet"]))
