"""Tables as other tools write them: read whole, or refused in a line that says what to do."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diptych.pipeline.data.csv_rows import CsvRows
from diptych.pipeline.data.labels import is_multi_label, label_names, multi_label_names
from diptych.pipeline.data.options import Reading
from diptych.pipeline.data.read import read_data
from diptych.pipeline.data.rows import UnreadableRow, read_pair
from diptych.pipeline.data.tables import load_tables

from ...conftest import picture

ROWS = [{"image": f"{i}.png", "text": f"a red shirt {i}", "label": ("yes", "no")[i % 2]} for i in range(4)]


@pytest.mark.parametrize(
    "make", [np.int64, np.array, torch.tensor, np.float32, np.str_], ids=lambda make: make.__name__
)
def test_a_number_of_numpy_or_torch_is_a_label_in_any_rows(make):
    rows = [{**row, "label": make(i % 2)} for i, row in enumerate(ROWS)]
    for way in (rows, iter(rows), pd.DataFrame(rows)):
        assert label_names(read_data(way).table, "label") == ["0", "1"]


@pytest.mark.parametrize("make", [set, frozenset, np.array, lambda labels: torch.tensor([len(labels), 1])])
def test_labels_in_any_container_are_lists(make):
    table = read_data([{**ROWS[0], "label": make(labels)} for labels in (["b", "a"], ["a"])]).table
    assert is_multi_label(table, "label")
    assert multi_label_names(table, "label") in (["a", "b"], ["1", "2"])


def test_decimals_are_labels_in_parquet_as_in_csv(tmp_path):
    frame = pd.DataFrame([{**row, "label": Decimal(f"{i % 2}.0")} for i, row in enumerate(ROWS)])
    for way in (frame, tmp_path / "t.parquet", tmp_path / "t.csv"):
        (frame.to_parquet if str(way).endswith("parquet") else frame.to_csv)(
            tmp_path / "t.parquet" if way is frame else way
        )
        assert label_names(read_data(way).table, "label") == ["0", "1"]


@pytest.mark.parametrize("way", ["frame", "t.csv", "t.parquet"])
def test_names_of_photos_that_pandas_has_made_fractions_are_found(way, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    picture("red").save(tmp_path / "photos" / "7.jpg")
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"photo": [7, None], "text": ["a", "b"], "label": ["x", "y"]})  # 7.0 beside a gap
    if way != "frame":
        (frame.to_csv if way == "t.csv" else frame.to_parquet)(tmp_path / way)
    data = read_data(frame if way == "frame" else tmp_path / way, Reading(image_column="photo"))
    assert read_pair(0, data.table.rows[0], data.columns, data.table.folder).status == "ok"


@pytest.mark.parametrize("first", ["0.png,a red shirt,yes", '"photos/0.JPG" ;a red shirt;yes', "7\tred\tC:\\a\\0.jpeg"])
def test_a_csv_file_without_a_header_loses_no_row_to_it(first, tmp_path):
    (tmp_path / "t.csv").write_text(f"{first}\n{first}\n")
    with pytest.raises(ValueError, match=r"t\.csv begins with a row and not .* is an image\): put them above it"):
        load_tables(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["test_predictions.csv", "test-out.csv", "predicted/test.csv"])
def test_predictions_beside_the_data_are_not_joined_in(name, tmp_path):
    for split in ("train", "test"):
        pd.DataFrame(ROWS).to_csv(tmp_path / f"{split}.csv", index=False)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    predictions = [{**row, "status": "ok", "reason": "", "scores": "{}", "image_contribution": 0.5} for row in ROWS]
    pd.DataFrame(predictions).to_csv(tmp_path / name, index=False)
    said: list[str] = []
    assert len(load_tables(tmp_path, say=said.append)["test"]) == len(ROWS)
    assert f"left out, as they hold predictions: {name}" in said


WHOLE = ({"info": {}, "annotations": ROWS}, {"version": "1.0", "data": ROWS}, {"schema": {"fields": []}, "data": ROWS})


def test_a_table_with_columns_of_such_names_is_read(tmp_path):
    rows = [{**row, "status": "new", "reason": "sale", "scores": 3} for row in ROWS]
    for name in ("train-1.csv", "train-2.csv"):
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
    assert len(load_tables(tmp_path, say=lambda line: None)["train"]) == 2 * len(ROWS)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_with_one_list_of_rows_is_these_on_one_line_too(whole, indent, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(whole, indent=indent) + "\n\n")
    assert [row["image"] for row in load_tables(tmp_path / "t.json")["train"].rows] == [row["image"] for row in ROWS]


@pytest.mark.parametrize("orient", ["columns", "index"])
def test_an_object_of_columns_is_refused_and_what_pandas_calls_the_other_is_said(orient, tmp_path):
    pd.DataFrame(ROWS).to_json(tmp_path / "t.json", orient=orient)
    with pytest.raises(ValueError, match=r"one JSON object, of which 0 fields are lists of rows: .* orient='records'"):
        load_tables(tmp_path / "t.json")


@pytest.mark.parametrize("row", [ROWS[0], {**ROWS[0], "more": {"a": 1}}, {}])
def test_one_row_in_a_json_file_is_one(row, tmp_path):
    for name in ("t.json", "t.jsonl"):
        (tmp_path / name).write_text(json.dumps(row))
        assert list(load_tables(tmp_path / name)["train"].rows) == [row]


@pytest.mark.parametrize("content", ["a é", "\ufeffa é", "a é".encode("cp1252"), "a é".encode("utf-16")], ids=repr)
def test_a_text_beside_an_image_is_read_in_the_encodings_of_tables(content, tmp_path):
    picture("red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert load_tables(tmp_path)["train"].rows[0]["text"] == "a é"


@pytest.mark.parametrize("place", [".", "red", "train/red"])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_beside_images_is_of_them_and_no_table(place, indent, tmp_path):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for i in range(3):
        picture("red", seed=i).save(tmp_path / place / f"{i}.png")
        (tmp_path / place / f"{i}.json").write_text(
            json.dumps({"caption": f"a {i}", "boxes": [{"x": 1}]}, indent=indent)
        )
    assert [row["caption"] for row in load_tables(tmp_path)["train"].rows] == ["a 0", "a 1", "a 2"]
    (tmp_path / place / "1.json").write_text('{"caption": "a')
    with pytest.raises(ValueError, match=r"line 1 of .*1\.json is no JSON"):
        load_tables(tmp_path)


ESCAPED = [
    (r'0.png,"says \"hi\", twice"', None),
    (r'1.png,"6\", red"', None),
    (r'2.png,"ends \"so\""', None),
    (r'3.png,"a path C:\"', "a path C:\\"),
    (r"4.png,6\" long", '6\\" long'),
    (r'5.png,"red" shirt 6\" long', 'red shirt 6\\" long'),
    (r'6.png,"C:\photos\" ', "C:\\photos\\ "),
    (r'7.png,"[""a \"" b""]"', '["a \\" b"]'),
]
"""Lines, and the text that a line has; None where only backslashes make it a line."""


@pytest.mark.parametrize("again", [False, True])
def test_a_quote_behind_a_backslash_makes_a_row_unreadable(again, tmp_path):
    """As Spark and MySQL write them: read as CSV, the text would lose its quotes, or be cut at the next comma."""
    (tmp_path / "t.csv").write_text("\n".join(["image,text", *(line for line, _ in ESCAPED)]) + "\n")
    rows = CsvRows([tmp_path / "t.csv"])
    read = [rows[number] for number in range(len(ESCAPED))] if again else list(rows)
    said = [None if isinstance(row, UnreadableRow) else row["text"] for row in read]
    assert said == [text for _, text in ESCAPED]
    assert read[0].reason == f'line 2 of {tmp_path / "t.csv"} writes a quote as \\": write it twice, ""'


def test_a_cell_that_ends_in_one_is_no_open_quote_but_says_what_it_is(tmp_path):
    (tmp_path / "t.csv").write_text('image,text\n0.png,"screen 15\\""\n1.png,"red"\n')
    with pytest.raises(ValueError, match=r'line 2 of .*t\.csv writes a quote as \\": write it twice, ""'):
        list(CsvRows([tmp_path / "t.csv"]))


@pytest.fixture
def closed(monkeypatch):
    """Folders called `closed` cannot be listed, whoever asks."""
    listed = Path.iterdir

    def iterdir(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)


@pytest.mark.parametrize("place", ["closed", "red/closed"])
def test_a_folder_that_cannot_be_listed_is_left_out_with_a_word(place, closed, tmp_path):
    (tmp_path / place).mkdir(parents=True)
    picture("red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red shirt")
    said: list[str] = []
    assert len(load_tables(tmp_path, say=said.append)["train"]) == 1
    assert said.count(f"left out, as it cannot be read (Permission denied): {place}") == 1
    pd.DataFrame(ROWS).to_csv(tmp_path / "train.csv", index=False)
    said.clear()
    assert len(load_tables(tmp_path, say=said.append)["train"]) == len(ROWS)
    assert sum(line.startswith("left out, as it cannot") for line in said) == (place == "closed")


def test_a_folder_of_data_that_cannot_be_listed_is_said(closed, tmp_path):
    (tmp_path / "closed").mkdir()
    with pytest.raises(ValueError, match=r"closed cannot be read \(Permission denied\)"):
        load_tables(tmp_path / "closed")
