"""Tables that cannot be read are named, and what would be one."""

from __future__ import annotations

import datasets
import pandas as pd
import pytest
from diptych.pipeline.data.options import OptionNeeded, Reading
from diptych.pipeline.data.read import read_data
from PIL import Image

from .test_tables import ROWS, load, png, refusal, write


@pytest.mark.parametrize("name", ["t.txt", "t.xlsx", "t.feather", "t"])
def test_a_file_of_another_kind_is_named_with_those_that_can_be_read(name, tmp_path):
    (tmp_path / name).write_text("a\tb\n")
    message = refusal(tmp_path / name)
    assert str(tmp_path / name) in message
    assert all(suffix in message for suffix in (".csv", ".jsonl", ".parquet"))


MALFORMED = {
    "empty.csv": b"",
    "empty.jsonl": b"",
    "empty.parquet": b"",
    "blank.csv": b"\n",
    "blank.jsonl": b"\n",
    "ragged.csv": b"image,text\na,b,c\n",
    "twice.csv": b"image,text,text\na,b,c\n",
    "quote.csv": b'image,text\na,"b\nc,d\n',
    "page.csv": b"<!DOCTYPE html><html><body>Not found</body></html>\n",
    "pointer.csv": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "cut.jsonl": b'{"image": \n',
    "cut.json": b'[{"image": "a"}, ',
    "pointer.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "junk.jsonl": b"hello\n",
    "junk.parquet": b"PAR1hello",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_file_that_cannot_be_read_is_named_and_nothing_else_is_said(name, tmp_path, caplog):
    (tmp_path / name).write_bytes(MALFORMED[name])
    assert str(tmp_path / name) in refusal(tmp_path / name)
    assert not caplog.records


def test_a_csv_file_with_a_header_alone_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("image,text,label\n")
    assert str(tmp_path / "t.csv") in refusal(tmp_path / "t.csv")


@pytest.mark.parametrize("name", MALFORMED)
def test_a_stream_that_cannot_be_begun_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(MALFORMED[name])
    assert str(tmp_path / name) in refusal(tmp_path / name, streaming=True)


def test_a_folder_without_tables_says_what_would_be_one(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    message = refusal(tmp_path)
    assert str(tmp_path) in message
    assert "metadata.csv" in message


def test_files_of_one_split_must_be_of_one_format(tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "train.jsonl")
    message = refusal(tmp_path)
    assert "train.csv" in message
    assert "train.jsonl" in message


@pytest.mark.parametrize("form", ["Dataset", "DatasetDict"])
def test_a_saved_dataset_that_is_damaged_is_named(form, tmp_path):
    saved = datasets.Dataset.from_list(ROWS)
    (saved if form == "Dataset" else datasets.DatasetDict(train=saved)).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").rglob("*.arrow"):
        file.unlink()
    assert str(tmp_path / "saved") in refusal(tmp_path / "saved")


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
def test_a_dataset_saved_without_rows_is_named_or_empty(streaming, tmp_path):
    datasets.Dataset.from_dict({"image": [], "text": []}).save_to_disk(tmp_path / "saved")
    try:
        found = load(tmp_path / "saved", streaming=streaming)
    except ValueError as error:
        found = {"train": []}
        named = str(tmp_path / "saved") in str(error)
        assert named
    assert found == {"train": []}


@pytest.mark.parametrize(
    "data", [3, None, object(), b"bytes", {"image": "a.png"}], ids=lambda data: type(data).__name__
)
def test_what_is_no_data_is_named_by_its_type(data):
    assert f"a {type(data).__name__} is no data" in refusal(data)


@pytest.mark.parametrize("rows", [[1, 2], [None], [("a.png", "text")], ["a.png"]], ids=str)
def test_a_list_of_something_else_is_refused_in_words(rows):
    assert "row" in refusal(rows)


def test_a_list_may_mix_kinds_of_images():
    rows = [{"image": "a.png", "text": "a"}, {"image": Image.new("RGB", (1, 1)), "text": "b"}]
    assert load(rows) == {"train": rows}


@pytest.mark.parametrize("rows", [[], pd.DataFrame({"image": [], "text": []})], ids=["list", "DataFrame"])
def test_no_rows_are_refused_and_called_empty(rows):
    assert "no rows" in refusal(rows)


def test_a_dataset_with_a_transform_of_its_own_is_not_read_without_it():
    data = datasets.Dataset.from_list(ROWS)
    with pytest.raises(ValueError, match=r"has a transform of its own, which is not applied: apply it with map\(\)"):
        load(data.with_transform(lambda batch: batch))
    assert load(data.with_format("numpy")) == load(data)


def test_no_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match="the data has no splits"):
        load(datasets.DatasetDict())
    datasets.DatasetDict().save_to_disk(tmp_path / "none")
    assert f"{tmp_path}/none has no splits" in refusal(tmp_path / "none")


def test_standard_input_and_devices_are_no_tables():
    assert "- is standard input, which is read by classify alone" in refusal("-")
    assert "/dev/null is neither a file nor a folder" in refusal("/dev/null")


@pytest.mark.parametrize("name", ["text", "label"])
def test_a_column_of_bytes_says_that_it_wants_to_be_text(name, tmp_path):
    rows = [{"image": "a.png", "text": "a red shirt", "label": "shirt"}] * 3
    pd.DataFrame([row | {name: row[name].encode()} for row in rows]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=f"'{name}' holds bytes: decode them, and store the column as text"):
        read_data(tmp_path / "t.parquet")


def test_no_command_is_suggested_that_fails_alike(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / f"{number}.png")
    lines = "".join(f"photos/{number}.png,a red shirt,{number % 2}\n" for number in range(3))
    (tmp_path / "t.csv").write_text("image,text,label\n" + lines)
    with pytest.raises(OptionNeeded, match=r"no column looks like the text: .*, or give --image-only") as caught:
        read_data(tmp_path / "t.csv", Reading(label_column="text"))
    assert not caught.value.options
