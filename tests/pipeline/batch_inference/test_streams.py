"""Datasets that are read row by row: undecoded, so that one bad row ends nothing."""

from __future__ import annotations

import io

import datasets
import pandas as pd
import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.inference.predictions import COLUMNS
from diptych.pipeline.model.folder import save_model

from ...conftest import picture


def png(colour: str) -> bytes:
    file = io.BytesIO()
    picture(colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def classify(tiny) -> ImageTextClassifier:
    return ImageTextClassifier(*tiny, device="cpu")


@pytest.fixture
def parquet(tmp_path):
    """Two files of three rows each, the second image of each corrupt, as the Hub has them."""
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "id": datasets.Value("int64")}
    )
    images = [png("red"), b"corrupt", png("blue")]
    for part in range(2):
        rows = [
            {"image": {"bytes": data, "path": f"{i}.png"}, "text": "a red shirt", "id": 3 * part + i}
            for i, data in enumerate(images)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"train-{part}.parquet")
    return [str(tmp_path / f"train-{part}.parquet") for part in range(2)]


STATUSES = ["ok", "image_unreadable", "ok"] * 2


def test_a_corrupt_image_does_not_end_a_stream(classify, parquet):
    stream = datasets.load_dataset("parquet", data_files=parquet, split="train", streaming=True)
    found = classify(stream, batch_size=2)
    assert next(found)["row"] == 0  # a generator, read as it goes
    rows = [*found]
    assert [row["status"] for row in rows] == STATUSES[1:]
    assert [(row["id"], row["row"]) for row in rows] == [(i, i) for i in range(1, 6)]
    assert rows[0]["image"] == "1.png"


@pytest.mark.parametrize("change", ["map", "filter", "take", "rename"])
def test_a_stream_may_have_been_changed(classify, parquet, change):
    stream = datasets.load_dataset("parquet", data_files=parquet, split="train", streaming=True)
    stream = stream.cast_column("image", datasets.Image(decode=False))
    changed = {
        "map": lambda: stream.map(lambda row: {**row, "more": 1}),
        "filter": lambda: stream.filter(lambda row: row["id"] >= 0),
        "take": lambda: stream.take(6),
        "rename": lambda: stream.rename_column("image", "photo"),
    }[change]()
    assert sorted(row["status"] for row in classify(changed)) == sorted(STATUSES)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_stream_is_classified_into_a_table(tiny, parquet, suffix, tmp_path):
    save_model(*tiny, tmp_path / "model")
    stream = datasets.load_dataset("parquet", data_files=parquet, split="train", streaming=True)
    counts = classify_table(
        stream, str(tmp_path / f"out{suffix}"), model=tmp_path / "model", quiet=True, say=lambda _: None
    )
    assert counts == {"ok": 4, "image_unreadable": 2}
    (table,) = load_tables(tmp_path / f"out{suffix}").values()
    assert [row["status"] for row in table.rows] == STATUSES
    assert [int(row["id"]) for row in table.rows] == list(range(6))


def test_all_splits_at_once_are_refused_and_named(classify, parquet):
    for data in (
        datasets.load_dataset("parquet", data_files={"train": parquet[:1], "test": parquet[1:]}, streaming=True),
        datasets.DatasetDict(
            train=datasets.Dataset.from_list([{"text": "a"}]), test=datasets.Dataset.from_list([{"text": "a"}])
        ),
    ):
        with pytest.raises(ValueError, match=r"the data has the splits train, test: give one of them, data\['train'\]"):
            classify(data)


def test_images_that_a_stream_keeps_on_the_hub_are_fetched_and_no_others(classify, monkeypatch):
    there = "hf://datasets/someone/photos@main/a.png"
    paths = [
        there,
        "hf://datasets/someone/photos@main/gone.png",
        f"zip://b.png::{there}",
        "https://example.com/a.png",
        "hf://models/x.png",
    ]
    asked = []

    def xopen(path, mode):
        asked.append(path)
        if "gone" in path:
            raise FileNotFoundError("404\nnot there")
        return io.BytesIO(png("red"))

    monkeypatch.setattr("diptych.pipeline.data.dataset_rows.xopen", xopen)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": p} for p in paths], "text": ["a"] * 5}, features=features
    )
    (table,) = load_tables(rows.to_iterable_dataset()).values()
    assert [row and row["text"] for row in table.rows.only(lambda number: number == 1)] == [None, "a", None, None, None]
    assert [path for path in asked if "gone" not in path] == []
    asked.clear()
    found = list(classify(rows.to_iterable_dataset()))
    assert [row["status"] for row in found] == ["ok", "image_missing", "ok", "image_missing", "image_missing"]
    assert found[1]["reason"] == f"{paths[1]} cannot be fetched: 404"
    assert "is a URL, which is not followed" in found[3]["reason"]
    assert asked == [there, *paths[:3]], "the first is looked at before anything is classified"
    assert found[0]["image"] == there


def test_a_stream_that_breaks_off_keeps_what_came_before_and_says_where(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")

    def rows():
        for _ in range(3):
            yield {"text": "a red shirt"}
        raise RuntimeError("the network is gone\nand more")

    features = datasets.Features({"text": datasets.Value("string")})
    stream = datasets.IterableDataset.from_generator(rows, features=features)
    message = r"data cannot be read past its first 3 rows: the network is gone; the rows .* are in .*out\.partial"
    with pytest.raises(ValueError, match=message):
        classify_table(stream, str(tmp_path / "out.jsonl"), model=tmp_path / "model", text_only=True, quiet=True)
    assert not (tmp_path / "out.jsonl").exists()
    assert len((tmp_path / "out.partial.jsonl").read_text().splitlines()) == 3


def test_an_empty_table_keeps_the_columns_of_the_output(classify, tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    frame = pd.DataFrame({"image": [str(tmp_path / "a.png")], "text": ["a"], "label": ["x"]})
    assert list(classify(frame.head(0))) == list(classify(frame)) == ["image", "text", "input_label", *COLUMNS]
    rows = datasets.Dataset.from_pandas(frame)
    assert classify(rows.select([])).column_names == classify(rows).column_names
    assert len(classify(rows.select([]))) == 0
