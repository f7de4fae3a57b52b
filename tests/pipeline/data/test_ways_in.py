"""The same rows are the same on every way in, in columns, texts, pixels and labels; nothing is guessed silently."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from diptych.pipeline.data.labels import is_multi_label, label_ids, label_names, label_values, multi_label_names
from diptych.pipeline.data.options import Reading
from diptych.pipeline.data.read import Data, read_data
from diptych.pipeline.data.rows import read_pair
from diptych.pipeline.data.tables import load_tables, read_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ...conftest import picture

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.sampled_from(["red.png", "turned.jpg", "gone.png"]),
            "text": st.text("aé東🙂 ,;\t\"'\n", min_size=1, max_size=8).filter(str.strip),
            "label": st.sampled_from(["yes", "no", "True", "1.0", " 2 ", "é"]),
            "other": st.one_of(st.none(), st.text("ab", min_size=1, max_size=3)),
        }
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    picture("red").save(folder / "red.png")
    turned = picture("blue").crop((0, 0, 16, 8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    return folder


def ways(rows: list[dict], folder: Path):
    """Every way in, of rows whose images are named by whole paths."""
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "t.jsonl").write_text(text, encoding="utf-8")
    (folder / "t.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "t16.csv").write_text((folder / "t.csv").read_text(encoding="utf-8"), encoding="utf-16", newline="")
    pd.DataFrame(rows).to_parquet(folder / "t.parquet")
    whole = datasets.Dataset.from_list(rows)
    yield from (folder / name for name in ("t.csv", "t.jsonl", "t.json", "t.parquet", "t16.csv"))
    yield from (rows, tuple(rows), iter(rows), (row for row in rows), pd.DataFrame(rows), whole)
    yield whole.to_iterable_dataset()
    yield datasets.DatasetDict(train=whole)
    for form in ("numpy", "pandas", "arrow", "torch"):
        yield whole.with_format(form)
    try:
        import polars
    except ImportError:
        return
    yield polars.DataFrame(rows)


def seen(data: Data) -> list[tuple]:
    """What training sees of every row."""
    table, columns = data.table, data.columns
    labels = label_values(table, str(columns.label))
    found = []
    for number, row in enumerate(table.rows):
        pair = read_pair(number, row, columns, table.folder)
        pixels = None if pair.image is None else np.asarray(pair.image).tobytes()
        found.append((pair.status, pair.text, pixels, labels[number]))
    return found


@settings(max_examples=12, deadline=None)
@given(ROWS)
def test_the_same_rows_are_the_same_on_every_way_in(photos, tmp_path_factory, rows):
    rows = [{**row, "image": str(photos / row["image"])} for row in rows]
    expected = None
    for way in ways(rows, tmp_path_factory.mktemp("ways")):
        data = read_data(way)
        found = seen(data)
        expected = expected or found
        assert found == expected, type(way)
        assert str(data.columns) == "image from 'image', text from 'text', label from 'label'"
        if data.table.rows.by_number:  # in any order as well
            some = [data.table.rows[number] for number in reversed(range(len(rows)))]
            assert some == list(data.table.rows)[::-1]
    table = read_json_lines(json.dumps(row) + "\n" for row in rows)
    stream = [(pair.status, pair.text) for pair in (read_pair(i, r, data.columns) for i, r in enumerate(table.rows))]
    assert stream == [row[:2] for row in expected]


PAIR = {"image": picture("red"), "text": "a", "label": "x"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"image,text,text\na,b,c\n", "two columns named 'text'"),
        ("t.csv", b"image, image,text\na,b,c\n", None),
        ("t.tsv", b"image\timage\ttext\na\tb\tc\n", "two columns named 'image'"),
        ("t.jsonl", b'{"text": "a", "image": "b", "text": "c"}\n', "the key 'text' stands twice"),
        ("t.json", b'[{"text": "a", "image": "b", "text": "c"}]', "the key 'text' stands twice"),
    ],
)
def test_a_name_that_stands_twice_is_refused(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    if reason is None:
        assert len(load_tables(tmp_path / name)["train"].names) == 3
        return
    with pytest.raises(ValueError, match=reason):
        load_tables(tmp_path / name)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_json_array_is_its_rows_whatever_the_file_is_called(name, tmp_path):
    (tmp_path / name).write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=2))
    assert [row["text"] for row in load_tables(tmp_path / name)["train"].rows] == ["a", "b"]


def test_an_object_with_one_list_of_rows_is_these(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=2))
    assert list(load_tables(tmp_path / "t.json")["train"].rows) == [{"text": "a"}]


@pytest.mark.parametrize("depth", [150, 600, 900, 5000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_json_of_great_depth_is_one_bad_row(depth, brackets, tmp_path):
    deep = "[" * depth + "]" * depth if brackets == "[]" else '{"a":' * depth + "1" + "}" * depth
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": ' + deep + '}\n{"text": "b"}\n')
    rows = list(load_tables(tmp_path / "t.jsonl")["train"].rows)
    assert [row.get("text") for row in rows] == ["a", None, "b"]
    assert "line 2" in rows[1].reason


@pytest.mark.parametrize(
    ("first", "second"),
    [("1", "1.0"), ("true", "True"), ("red", "red "), ("FALSE", "false"), ("a  b", "a b"), ("-3", "-3.00")],
)
def test_spellings_of_one_label_are_one(first, second, tmp_path):
    for number, label in enumerate((first, second)):
        (tmp_path / f"{number}.csv").write_text(f'label\n"{label}"\nother\n')
    tables = [load_tables(tmp_path / f"{number}.csv")["train"] for number in range(2)]
    names = label_names(tables[0], "label")
    assert names == label_names(tables[1], "label")
    assert label_ids(tables[0], "label", names) == label_ids(tables[1], "label", names)


@pytest.mark.parametrize(
    "cells",
    [
        ["['red', 'big']", "['red']"],
        ["['red' 'big']", "['red']"],
        ["('red', 'big')", "('red',)"],
        ["{'red', 'big'}", "{'red'}"],
        ['["red", "big"]', '["red"]'],
        [["red", "big"], ["red"]],
        [("red", "big"), ("red",)],
        [np.array(["red", "big"]), np.array(["red"])],
    ],
    ids=str,
)
def test_lists_of_labels_are_lists_however_they_are_written(cells):
    table = load_tables([{**PAIR, "label": cell} for cell in cells])["train"]
    assert is_multi_label(table, "label")
    assert multi_label_names(table, "label") == ["big", "red"]


@pytest.mark.parametrize("labels", [[0.5, 1.5], [1, "a"], [True, 2], [1.0, None]], ids=str)
def test_a_column_named_label_is_the_label_whatever_is_in_it(labels):
    assert read_data([{**PAIR, "label": label} for label in labels]).columns.label == "label"


@pytest.mark.parametrize("name", ["photo_file", "filepath", "image ", "Image_Path", "productImage", "f"])
def test_paths_are_found_by_their_name_or_by_what_they_are(name, tmp_path):
    picture("red").save(tmp_path / "a.png")
    for make in (list, pd.DataFrame):
        columns = read_data(make([{name: str(tmp_path / "a.png"), "text": "a", "label": "x"}])).columns
        assert columns.image == name


def test_raw_bytes_that_are_no_image_are_not_taken_for_it():
    rows = [{"phash": b"\x01\x02\x03\x04\x05\x06\x07\x08", "image": "a.png", "text": "a", "label": "x"}]
    for way in (rows, pd.DataFrame(rows), datasets.Dataset.from_list(rows)):
        assert read_data(way).columns.image == "image"


@pytest.mark.parametrize("column", ["image", "text"])
def test_lists_where_one_value_is_wanted_are_refused_with_what_takes_the_first(column):
    rows = [{"image": "a.png", "text": "a", "label": "x"} | {column: ["a.png", "b.png"]}]
    for way in (rows, datasets.Dataset.from_list(rows)):
        with pytest.raises(ValueError, match=rf"'{column}' holds lists.* --{column}-column {column}\.0"):
            read_data(way)
        columns = read_data(way, Reading(**{f"{column}_column": f"{column}.0"})).columns
        assert getattr(columns, f"{column}_of")(rows[0]) == "a.png"


@pytest.mark.parametrize("gap", [pd.NaT, pd.NA, float("nan"), None], ids=str)
def test_a_gap_in_a_column_that_nobody_reads_ends_nothing(gap):
    frame = pd.DataFrame({"image": ["a.png"] * 2, "text": "a", "label": "x", "when": [gap, pd.Timestamp(0)]})
    assert len(seen(read_data(frame))) == 2


def test_columns_may_be_numbers_and_cells_paths_and_arrays(tmp_path):
    rows = [{0: np.zeros((4, 4, 3), np.uint8), 1: "a", 2: "x"}, {0: tmp_path / "a.png", 1: "b", 2: "y"}]
    picture("red").save(tmp_path / "a.png")
    for way in (rows, pd.DataFrame(rows)):
        data = read_data(way, Reading(image_column="0", text_column="1", label_column="2"))
        assert [status for status, *_ in seen(data)] == ["ok", "ok"]


def test_a_map_in_parquet_and_sounds_are_no_matter(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.map_(pa.string(), pa.int64())
    columns = {"image": ["a.png"], "text": ["a"], "label": ["x"], "more": pa.array([[("k", 1)]], kind)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert seen(read_data(tmp_path / "t.parquet"))[0][1] == "a"
    rows = [{"image": "a.png", "text": "a", "label": "x", "sound": {"bytes": b"RIFF", "path": None}}]
    data = datasets.Dataset.from_list(rows).cast_column("sound", datasets.Audio())
    assert seen(read_data(data))[0][1] == "a"


def test_a_parquet_cell_that_is_no_utf_8_is_one_bad_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb")]
    )
    pq.write_table(pa.table({"image": ["x"] * 3, "text": texts, "label": ["y"] * 3}), tmp_path / "t.parquet")
    data = read_data(tmp_path / "t.parquet")
    for rows in (list(data.table.rows), [data.table.rows[number] for number in range(3)]):
        assert [read_pair(0, row, data.columns).text for row in rows] == ["a", None, "b"]


SPLITS = {
    "dev_seen.jsonl": "validation", "Test.csv": "test", "products_test.csv": "test", "VAL-2.jsonl": "validation",
    "valid.csv": "validation", "evalSet.csv": "test", "x.training.csv": "train", "testing/data.csv": "test",
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_splits_go_by_words_in_any_case_and_with_any_separator(name, tmp_path):
    other = "train.csv" if SPLITS[name] != "train" else "test.csv"
    said: list[str] = []
    for file in (name, other):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        csv_rows = "image,text,label\na,b,c\n"
        (tmp_path / file).write_text('{"image": "a"}\n' if file.endswith(".jsonl") else csv_rows)
    assert set(load_tables(tmp_path, say=said.append)) == {SPLITS[name], other.partition(".")[0]}
    assert f"{SPLITS[name]} from {name}" in said[0]


@pytest.mark.parametrize("name", ["sample_submission.csv", ".ipynb_checkpoints/train-checkpoint.csv", "train_test.csv"])
def test_a_file_that_fits_no_split_is_named_and_never_trained_on(name, tmp_path):
    said: list[str] = []
    for file in (name, "train.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("image,text,label\na,b,c\n")
    assert len(load_tables(tmp_path, say=said.append)["train"]) == 1
    assert any(line.startswith("left out") and name in line for line in said)


def test_a_test_split_alone_is_not_trained_on(tmp_path):
    for name in ("products.csv", "products_test.csv"):
        (tmp_path / name).write_text("image,text,label\na,b,c\n")
    with pytest.raises(ValueError, match="there is no split to train on, only test"):
        read_data(tmp_path)


def test_keys_of_a_dataset_dict_are_splits_as_files_are():
    one = datasets.Dataset.from_list([{"image": "a", "text": "b", "label": "c"}])
    said: list[str] = []
    assert set(load_tables(datasets.DatasetDict(train=one, val=one), say=said.append)) == {"train", "validation"}
    assert said == ["splits: train from train; validation from val"]
    assert set(load_tables(datasets.DatasetDict(train=one, dev_a=one, dev_b=one))) == {"train", "dev_a", "dev_b"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image;text\na;é\n".encode(), "semicolons"),
        ("image\ttext\na\té\n".encode(), "tabs"),
        ("sep=|\nimage|text\na|é\n".encode(), "bars"),
        ("image,text\na,é\n".encode("cp1252"), "Windows-1252"),
        ("image,text\na,é\n".encode("utf-16"), "UTF-16"),
        ("image,text\ra,é\r".encode(), ""),
    ],
)
def test_delimiters_and_encodings_are_detected_and_printed(content, said, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    lines: list[str] = []
    table = load_tables(tmp_path / "t.csv", say=lines.append)["train"]
    assert list(table.rows) == [{"image": "a", "text": "é"}] == [table.rows[0]]
    assert said in " ".join(lines)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("image,text\na,b\nc,d\n")
    rows = load_tables(tmp_path / "t.csv")["train"].rows
    assert rows[1]["text"] == "d"
    (tmp_path / "t.csv").write_text("image,text\nanother,b\nc,d\n")
    with pytest.raises(ValueError, match="was changed while it was read"):
        rows[0]


def test_an_image_in_memory_is_read_upright():
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    data = read_data([{"image": Image.open(file), "text": "a", "label": "x"}])
    assert read_pair(0, data.table.rows[0], data.columns).image.size == (2, 4)
