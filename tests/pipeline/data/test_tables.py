"""From whatever holds the data to tables of rows; what cannot be read is one line that names it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.rows import read_pair
from diptych.pipeline.data.tables import load_tables, read_json_lines
from PIL import Image

ROWS = [
    {"image": "a.png", "text": "a red shirt", "label": "yes"},
    {"image": "b.png", "text": 'says "no", twice\nthen stops', "label": "no"},
    {"image": "c.png", "text": "naïve 東京 🙂", "label": "yes"},
]


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def write(path: Path, rows: list[dict] = ROWS) -> Path:
    """A table of rows in the format that the name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def load(data, **options) -> dict[str, list[dict]]:
    return {split: [dict(row) for row in table.rows] for split, table in load_tables(data, **options).items()}


def refusal(data, **options) -> str:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:  # one line
        load(data, **options)
    return str(caught.value)


# files


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_file_is_one_table_of_its_rows(name, streaming, tmp_path):
    path = write(tmp_path / name)
    assert load(path, streaming=streaming) == {"train": ROWS}
    assert load(str(path), streaming=streaming) == {"train": ROWS}


def test_a_table_knows_its_folder_its_name_and_its_length(tmp_path):
    path = write(tmp_path / "t.csv")
    table = load_tables(str(path))["train"]
    assert (table.folder, table.name, len(table)) == (tmp_path, str(path), 3)


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
def test_cells_of_a_csv_file_stay_as_they_stand(streaming, tmp_path):
    words = ["007", "None", "NA", "null", "nan", "true", "1e3", " padded ", "1.50", "-"]
    path = tmp_path / "t.csv"
    path.write_text("image,text,label\n" + "".join(f"{word},{word},{word}\n" for word in words) + ",,\n")
    rows = load(path, streaming=streaming)["train"]
    assert rows[:-1] == [{"image": word, "text": word, "label": word} for word in words]
    assert rows[-1] == {"image": None, "text": None, "label": None}


def test_a_csv_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "t.csv").write_bytes("image,text\na.png,é\n".encode("utf-8-sig"))
    assert load(tmp_path / "t.csv")["train"] == [{"image": "a.png", "text": "é"}]


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
def test_a_csv_file_may_have_a_column_without_a_name(streaming, tmp_path):
    pd.DataFrame(ROWS).to_csv(tmp_path / "t.csv")  # pandas writes its index so
    rows = load(tmp_path / "t.csv", streaming=streaming)["train"]
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
def test_a_comma_that_lacks_its_quotes_shifts_no_column(streaming, tmp_path):
    (tmp_path / "t.csv").write_text("image,text\na.png,red,blue\nb.png,green,white\n")
    assert str(tmp_path / "t.csv") in refusal(tmp_path / "t.csv", streaming=streaming)


def test_jsonl_keeps_its_types_and_an_absent_field_is_null(tmp_path):
    rows = [{"image": "a.png", "text": None, "label": 1}, {"image": "b.png", "text": "x", "label": 2, "late": "y"}]
    assert load(write(tmp_path / "t.jsonl", rows))["train"] == [{**rows[0], "late": None}, rows[1]]


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
@pytest.mark.parametrize("name", ["photos [2024]/t.csv", "a*b/t.csv", "t[1].csv", "with space/t?.csv"])
def test_a_path_is_a_path_and_no_pattern(name, streaming, tmp_path):
    write(tmp_path / "axb" / "t.csv", ROWS[:1])  # what the pattern `a*b` would find too
    assert load(write(tmp_path / name), streaming=streaming) == {"train": ROWS}


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
def test_parquet_images_stay_undecoded_so_that_a_broken_one_ends_nothing(streaming, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": data, "path": None}, "text": "a"} for data in (png(), b"junk")]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "t.parquet")
    table = load_tables(tmp_path / "t.parquet", streaming=streaming)["train"]
    assert [row["image"] for row in table.rows] == [{"bytes": png(), "path": None}, {"bytes": b"junk", "path": None}]
    columns = find_columns(table, need_label=False)
    found = [read_pair(i, row, columns, table.folder).status for i, row in enumerate(table.rows)]
    assert found == ["ok", "image_unreadable"]


# folders


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_has_a_split_for_each_file(suffix, streaming, tmp_path):
    for number, split in enumerate(("test", "train", "validation")):
        write(tmp_path / f"{split}{suffix}", [ROWS[number]])
    found = load(tmp_path, streaming=streaming)
    assert list(found) == ["train", "validation", "test"]
    assert found == {"train": [ROWS[1]], "validation": [ROWS[2]], "test": [ROWS[0]]}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_validation_has_several_names(name, tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / f"{name}.csv")
    assert list(load(tmp_path)) == ["train", "validation"]


@pytest.mark.parametrize("place", [".", "data"])
def test_shards_are_one_split_in_their_order(place, tmp_path):
    for number, row in enumerate(ROWS[:2]):
        write(tmp_path / place / f"train-{number:05}-of-00002.parquet", [row])
    write(tmp_path / place / "test-00000-of-00001.parquet", [ROWS[2]])
    assert load(tmp_path) == {"train": ROWS[:2], "test": [ROWS[2]]}


def test_a_file_of_any_other_name_is_the_train_split(tmp_path):
    write(tmp_path / "products.csv")
    assert load(tmp_path) == {"train": ROWS}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_an_image_folder_has_its_images_beside_its_metadata(name, tmp_path):
    (tmp_path / "deep").mkdir()
    for file in ("a.png", "deep/b.png"):
        (tmp_path / file).write_bytes(png())
    write(tmp_path / name, [{"file_name": "a.png", "text": "a"}, {"file_name": "deep/b.png", "text": "b"}])
    (table,) = load_tables(tmp_path).values()
    columns = find_columns(table, need_label=False)
    assert columns.image == "file_name"
    assert [read_pair(i, row, columns, table.folder).status for i, row in enumerate(table.rows)] == ["ok", "ok"]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_an_image_folder_may_have_a_folder_for_each_split(name, tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / split / name, [{"file_name": f"{split}.png", "text": split}])
        (tmp_path / split / f"{split}.png").write_bytes(png())
    tables = load_tables(tmp_path)
    assert list(tables) == ["train", "validation", "test"]
    for split, table in tables.items():
        pair = read_pair(0, next(iter(table.rows)), find_columns(table, need_label=False), table.folder)
        assert (pair.status, pair.text) == ("ok", {"validation": "val"}.get(split, split))


def test_relative_images_start_at_the_folder_of_the_table(tmp_path, monkeypatch):
    write(tmp_path / "data" / "t.csv")
    (tmp_path / "data" / "a.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    table = load_tables("data/t.csv")["train"]
    columns = find_columns(table)
    assert [read_pair(i, row, columns, table.folder).status for i, row in enumerate(table.rows)] == [
        "ok",
        "image_missing",
        "image_missing",
    ]
    monkeypatch.chdir("/")
    assert read_pair(0, ROWS[0], columns, table.folder).status == "ok"


# datasets and rows in memory


def test_a_saved_dataset_is_one_table(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved") == {"train": ROWS}


def test_a_saved_dataset_dict_has_its_splits(tmp_path):
    parts = {"train": ROWS[:2], "other": ROWS[2:]}
    datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved") == parts


IN_MEMORY = {
    "Dataset": lambda: datasets.Dataset.from_list(ROWS),
    "IterableDataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "DatasetDict": lambda: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
    "IterableDatasetDict": lambda: datasets.IterableDatasetDict(
        train=datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    ),
    "DataFrame": lambda: pd.DataFrame(ROWS, index=[7, 3, 5]),
    "list": lambda: [dict(row) for row in ROWS],
    "tuple": lambda: tuple(ROWS),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_what_is_in_memory_is_taken_as_it_is(kind):
    assert load(IN_MEMORY[kind]()) == {"train": ROWS}


def test_images_in_memory_stay_undecoded_and_paths_start_at_the_current_directory():
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    source = datasets.Dataset.from_list([{"image": {"bytes": png(), "path": None}, "text": "a"}], features=features)
    table = load_tables(source)["train"]
    assert table.rows[0]["image"] == {"bytes": png(), "path": None}
    assert table.folder is None
    assert isinstance(source[0]["image"], Image.Image), "the caller's own still decodes"


@pytest.mark.parametrize("make", [list, pd.DataFrame], ids=["list", "DataFrame"])
def test_pil_images_in_rows_become_a_column_of_images(make):
    rows = [{"image": None, "text": "a"}, {"image": Image.new("RGB", (3, 2), "red"), "text": "b"}]
    table = load_tables(make(rows))["train"]
    columns = find_columns(table, need_label=False)
    found = [read_pair(i, row, columns, table.folder) for i, row in enumerate(table.rows)]
    assert [pair.status for pair in found] == ["image_missing", "ok"]
    assert found[1].image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("gap", [None, float("nan"), pd.NA], ids=["None", "nan", "NA"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_gap_in_a_dataframe_is_null(gap, place):
    texts, numbers = ["a", "b"], [1, 2]
    texts[place] = numbers[place] = gap
    frame = pd.DataFrame({"text": pd.Series(texts, dtype=object), "label": pd.Series(numbers, dtype=object)})
    rows = load(frame)["train"]
    assert rows[place] == {"text": None, "label": None}
    assert rows[1 - place]["text"] == ["b", "a"][place]


def test_a_field_that_comes_late_in_a_list_of_rows_is_kept():
    rows = load([{"image": "a.png"}, {"image": "b.png", "text": "x"}])["train"]
    assert rows == [{"image": "a.png", "text": None}, {"image": "b.png", "text": "x"}]


# what cannot be read


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
@pytest.mark.parametrize("name", ["gone.csv", "./gone", "/nowhere/gone", "a/b/c", "~/gone-entirely"])
def test_a_missing_path_is_named_without_asking_the_hub(name, streaming, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    assert refusal(name, streaming=streaming) == f"{name} does not exist"


def test_a_missing_path_object_is_named(tmp_path):
    assert str(tmp_path / "gone") in refusal(tmp_path / "gone")


@pytest.mark.parametrize("name", ["someone/products", "products"])
@pytest.mark.parametrize("error", [ConnectionError("offline"), FileNotFoundError("no such\ndataset"), RuntimeError()])
def test_a_hub_id_that_cannot_be_loaded_is_named(name, error, monkeypatch):
    def closed(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", closed)
    message = refusal(name)
    assert repr(name) in message
    assert "Hub" in message
    assert (str(error).splitlines() or ["RuntimeError"])[0] in message


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streaming"])
def test_a_hub_id_gives_its_splits(streaming, monkeypatch):
    asked = []

    def answer(name, **options):
        asked.append((name, options["streaming"]))
        return IN_MEMORY["IterableDatasetDict" if options["streaming"] else "DatasetDict"]()

    monkeypatch.setattr(datasets, "load_dataset", answer)
    assert load("someone/products", streaming=streaming) == {"train": ROWS}
    assert asked == [("someone/products", streaming)]


# JSON lines


def test_json_lines_are_read_as_they_come():
    drawn = []

    def lines():
        for number in range(3):
            drawn.append(number)
            yield f'{{"image": "{number}.png", "text": "x"}}\n'

    table = read_json_lines(lines())
    assert table.rows.first == {"image": "0.png", "text": "x"}
    assert drawn == [0]
    rows = iter(table.rows)
    assert [next(rows)["image"], next(rows)["image"]] == ["0.png", "1.png"]
    assert drawn == [0, 1]


def test_blank_json_lines_are_passed_over():
    assert list(read_json_lines(["\n", '{"text": "a"}\n', "  \n", '{"text": "b"}']).rows) == [
        {"text": "a"},
        {"text": "b"},
    ]


@pytest.mark.parametrize("lines", [[], ["\n", " \n"]])
def test_no_json_line_at_all_is_refused(lines):
    with pytest.raises(ValueError, match="standard input is empty"):
        read_json_lines(lines)
