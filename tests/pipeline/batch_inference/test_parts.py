"""Parts: whole or not there, each row once and in order, whoever writes them and however often it is begun."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diptych.pipeline.batch_inference.part_files import damage_of_part, read_facts
from diptych.pipeline.batch_inference.parts import RECORD, Parts
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.data.writer import FORMATS, types_of_features, types_of_rows
from diptych.pipeline.runtime.outputs import MARK
from hypothesis import given, settings
from hypothesis import strategies as st

# Parts alone, of rows that stand for predictions


def predict(first, rows):
    for place, row in enumerate(rows):
        yield {"own": row["own"], "row": place, "status": "ok" if row["own"] % 3 else "image_missing"}


def share(parts, rows, index, count, *, stop=None):
    """What one of several processes does; it dies in part `stop`."""

    def mine(part):
        return part % count == index

    def dies(first, rows):
        if stop is not None and first // parts.rows >= stop:
            next(rows)
            raise KeyboardInterrupt
        return predict(first, rows)

    there = parts.whole(mine, lambda line: None)
    return parts.write_wanted(rows, dies, wanted=lambda part: mine(part) and part not in there, check=lambda: None)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    part_rows=st.integers(1, 12),
    processes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    suffix=st.sampled_from(FORMATS),
    streamed=st.booleans(),
    data=st.data(),
)
def test_each_row_is_there_once_however_many_write_and_die(
    rows, part_rows, processes, suffix, streamed, data, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("parts")
    table = [{"own": n} for n in range(rows)]
    source = iter if streamed else datasets.Dataset.from_list
    parts = Parts(folder / "p", rows=part_rows, suffix=suffix, file=folder / f"out{suffix}")
    for attempt, count in enumerate(processes):
        record = parts.begin({"data": "d"}, resume=attempt > 0, say=lambda line: None)
        for index in range(count):
            stop = data.draw(st.none() | st.integers(0, rows)) if attempt < len(processes) - 1 else None
            try:
                assert share(parts, source(table), index, count, stop=stop) == rows
            except KeyboardInterrupt:
                assert stop is not None
    assert parts.all_counts(rows) == Counter(
        status for n in range(rows) for status in [["image_missing", "ok"][n % 3 > 0]]
    )
    parts.end(record)
    assert [path.name for path in folder.iterdir()] == [f"out{suffix}"]
    found = load_tables(folder / f"out{suffix}")["train"].rows
    assert [(int(row["own"]), int(row["row"])) for row in found] == [(n, n) for n in range(rows)]


@pytest.fixture
def parts(tmp_path):
    """Five parts of 25 rows, and what begins a run in them."""
    found = Parts(tmp_path / "p", rows=5)
    found.begin({"data": "d"}, resume=False, say=lambda line: None)
    assert share(found, iter([{"own": n} for n in range(25)]), 0, 1) == 25
    return found


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_part_is_beside_its_place_until_it_is_whole(tmp_path, suffix):
    parts = Parts(tmp_path, rows=3, suffix=suffix)

    def rows():
        for n in range(3):
            assert not parts.path(0).exists()
            yield {"row": n, "status": "ok"}
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        parts.write(0, rows())
    assert not list(tmp_path.iterdir())


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    """Another byte at the end of a page, which no reader of two columns sees."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    place = column.dictionary_page_offset + column.total_compressed_size - 1
    found = bytearray(path.read_bytes())
    found[place] ^= 0xFF
    path.write_bytes(found)


def empty(path):
    path.write_bytes(b"")


def other_rows(path):
    shutil.copy(path.with_name("part-000002.parquet"), path)


def fewer_rows(path):
    pq.write_table(pq.read_table(path).slice(0, 4), path)


def no_status(path):
    pq.write_table(pq.read_table(path).drop(["status"]), path)


@pytest.mark.parametrize("damage", [cut, flip, empty, other_rows, fewer_rows, no_status])
def test_a_damaged_part_is_said_removed_and_computed_again(parts, damage):
    damage(parts.path(1))
    said = []
    assert parts.whole(lambda part: True, said.append) == {0, 2, 3, 4}
    assert [line.split(",")[0] for line in said] == [f"removing {parts.path(1)}"]
    assert not parts.path(1).exists()
    assert share(parts, iter([{"own": n} for n in range(25)]), 0, 1) == 25
    assert parts.all_counts(25).total() == 25


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_text_part_that_was_cut_is_damaged_wherever_it_was(tmp_path, suffix):
    parts = Parts(tmp_path, rows=5, suffix=suffix)
    share(parts, iter([{"own": n} for n in range(5)]), 0, 1)
    whole = parts.path(0).read_bytes()
    for length in range(len(whole)):
        parts.path(0).write_bytes(whole[:length])
        assert damage_of_part(parts.path(0), read_facts(parts.path(0))) == "it is not what was written"
    parts.path(0).write_bytes(whole)
    assert damage_of_part(parts.path(0), read_facts(parts.path(0))) is None


def test_the_last_part_may_be_short_and_no_other(parts):
    parts.write(4, [{"row": 0, "status": "ok"}] * 4)
    assert parts.whole(lambda part: True, lambda line: None) == {0, 1, 2, 3, 4}
    assert parts.all_counts(24).total() == 24
    with pytest.raises(
        ValueError, match=r"part-000004.parquet is not whole: it has 4 rows, not 5; resume with --resume"
    ):
        parts.all_counts(25)


def test_parts_that_are_missing_or_too_many_are_named(parts):
    with pytest.raises(ValueError, match=r"part-000003.parquet is of a row that the data does not have"):
        parts.all_counts(15)
    with pytest.raises(ValueError, match=r"part-000005.parquet is not whole: it is not there"):
        parts.all_counts(30)


def test_an_unfinished_run_is_not_overwritten_and_a_done_one_is(parts):
    with pytest.raises(ValueError, match=r"holds a run that is not done, in 5 parts: go on with --resume, choose"):
        parts.begin({"data": "d"}, resume=False, say=print)
    parts.end(parts.begin({"data": "d"}, resume=True, say=lambda line: None))
    said = []
    assert parts.begin({"data": "d"}, resume=True, say=said.append)["state"] == "done"
    with pytest.raises(ValueError, match="p is there already: give --overwrite to replace it, or choose"):
        parts.begin({"data": "other"}, resume=False, say=said.append)
    parts.begin({"data": "other"}, resume=False, overwrite=True, say=said.append)
    assert said == [
        f"the run in {parts.folder} is done: there is nothing to resume",
        f"replacing the earlier predictions in {parts.folder}: 5 parts removed",
    ]
    assert parts.numbers() == []


def test_a_done_run_that_lost_a_part_goes_on(parts):
    parts.end(parts.begin({"data": "d"}, resume=True, say=lambda line: None))
    parts.path(2).unlink()
    said = []
    assert parts.begin({"data": "d"}, resume=True, say=said.append)["state"] == "running"
    assert said == ["resuming: 4 parts are there"]


def test_what_differs_is_named(parts):
    with pytest.raises(ValueError, match=r"cannot go on: data is e, and was d; give what the run began with, or"):
        parts.begin({"data": "e"}, resume=True, say=print)
    (parts.folder / RECORD).unlink()
    with pytest.raises(ValueError, match=r"holds parts, but no \.classify\.json that says what they are of"):
        parts.begin({"data": "d"}, resume=True, say=print)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_says_that_parts_stay(tmp_path, monkeypatch):
    (tmp_path / ".part-000000.parquet.diptych").mkdir()
    (tmp_path / ".part-000000.parquet.diptych" / MARK).touch()
    monkeypatch.setattr("diptych.pipeline.runtime.outputs._undo", lambda space, path: None)
    (tmp_path / ".part-000000.parquet.diptych" / "new.parquet").symlink_to("/dev/full")
    with pytest.raises(
        ValueError, match=r"part-000000.parquet cannot be written \(No space left on device\); the parts"
    ):
        Parts(tmp_path, rows=5).write(0, [{"row": 0, "status": "ok"}])


@pytest.mark.parametrize(
    ("out", "folder"),
    [("x", "x"), ("x/", "x"), ("x.csv/", "x.csv"), ("there.csv", "there.csv"), ("a.b/x", "a.b/x")],
)
def test_what_is_no_file_is_a_folder_of_parts(out, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").mkdir()
    parts = Parts.of(out, rows=5, always=False)
    assert (str(parts.folder), parts.suffix, parts.file) == (folder, ".parquet", None)


def test_a_file_has_parts_if_it_must(tmp_path):
    out = tmp_path / "x.csv"
    assert Parts.of(str(out), rows=5, always=False) is None
    assert Parts.of("-", rows=5, always=False) is None
    parts = Parts.of(str(out), rows=5, always=True)
    assert (parts.folder, parts.suffix, parts.file) == (tmp_path / ".x.csv.parts", ".csv", out)
    with pytest.raises(ValueError, match="standard output takes the rows of one process"):
        Parts.of("-", rows=5, always=True)
    with pytest.raises(ValueError, match=r"out.xlsx has no format .* out.xlsx/ for a folder"):
        Parts.of("out.xlsx", rows=5, always=False)
    with pytest.raises(ValueError, match="--part-rows is 0"):
        Parts.of(str(out), rows=0, always=True)


# Types that suit all parts


def test_types_suit_all_rows_of_all_chunks(monkeypatch):
    monkeypatch.setattr("diptych.pipeline.data.writer._CHUNK", 2)
    values = {
        "late": [None, None, 3, None, 4],
        "number": [1, 2, 2.5, 1, 1],
        "wide": [2**60 + 1, 2, 2.5, 1, 1],
        "mixed": [1, 2, "x", 1, 1],
        "bool": [True, None, 1, None, None],
        "lists": [[], [], ["a"], [], []],
        "nothing": [None] * 5,
        "huge": [1, 2, 2**70, 1, 1],
        "object": [{"a": 1}, {"a": 2}, {"b": "x"}, None, None],
    }
    found = types_of_rows({name: column[n] for name, column in values.items()} for n in range(5))
    text = dict.fromkeys(("wide", "mixed", "bool", "nothing", "huge"), pa.string())
    assert {n: k for n, k in found.items() if n not in ("object",)} == text | {
        "late": pa.int64(),
        "number": pa.float64(),
        "lists": pa.list_(pa.string()),
    }
    assert found["object"] == pa.struct([("a", pa.int64()), ("b", pa.string())])


def test_types_of_features_leave_out_bytes_and_keep_paths():
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "raw": datasets.Value("binary"),
            "label": datasets.ClassLabel(names=["a"]),
            "nothing": datasets.Value("null"),
            "half": datasets.Value("float32"),
            "grid": datasets.Array2D((2, 2), "int32"),
            "tags": datasets.List(datasets.Value("string")),
        }
    )
    assert types_of_features(features) == {
        "image": pa.string(),
        "label": pa.int64(),
        "nothing": pa.string(),
        "half": pa.float32(),
        "grid": pa.list_(pa.list_(pa.int32())),
        "tags": pa.list_(pa.string()),
    }


# Whole tables
