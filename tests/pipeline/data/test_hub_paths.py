"""Images that a repository of the Hub keeps as files, named by relative paths in its tables."""

from __future__ import annotations

import io

import datasets
import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.data.options import Reading
from diptych.pipeline.data.read import read_data, require_some
from diptych.pipeline.data.rows import read_pair

from ...conftest import picture

ROOT = "hf://datasets/someone/shop"


@pytest.fixture
def hub(monkeypatch):
    """A dataset of the Hub with these values in its column `photo`; what is asked for there."""
    asked: list[str] = []
    there = io.BytesIO()
    picture("red").save(there, "PNG")

    def xopen(path, mode):
        asked.append(path)
        if "gone" in path:
            raise FileNotFoundError("404 not there")
        return io.BytesIO(there.getvalue())

    def make(*photos, stream=False):
        rows = datasets.Dataset.from_dict({"photo": list(photos), "text": ["a red shirt"] * len(photos)})
        split = rows.to_iterable_dataset() if stream else rows
        loaded = (datasets.IterableDatasetDict if stream else datasets.DatasetDict)(train=split)
        monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: loaded)
        return asked

    monkeypatch.setattr("diptych.pipeline.data.dataset_rows.xopen", xopen)
    return make


def statuses(**reading) -> list[str]:
    read = read_data("someone/shop", Reading(image_column="photo", **reading), need_label=False)
    pairs = [read_pair(n, row, read.columns, read.table.folder) for n, row in enumerate(read.table.rows)]
    return [pair.status for pair in pairs]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cell", "path"),
    [
        ("photos/1.jpg", "photos/1.jpg"),
        ("1.jpg", "1.jpg"),
        ("./photos/1.jpg", "photos/1.jpg"),
        ("photos\\a b\\1.jpg", "photos/a b/1.jpg"),
        (" photos/1.jpg ", "photos/1.jpg"),
        ("photos//1.jpg", "photos/1.jpg"),
    ],
)
def test_a_relative_path_is_one_of_the_repository(cell, path, stream, hub):
    asked = hub(cell, stream=stream)
    assert statuses() == ["ok"]
    assert asked == [f"{ROOT}/{path}"]


@pytest.mark.parametrize(
    "cell", ["/photos/1.jpg", "~/1.jpg", "C:\\photos\\1.jpg", "file:///1.jpg", "https://x.org/1.jpg", "data:,x"]
)
def test_what_is_no_relative_path_is_not_asked_for(cell, hub):
    asked = hub(cell)
    assert statuses()[0].startswith("image_")
    assert asked == []


def test_a_suffix_and_a_folder_of_the_repository(hub):
    asked = hub("0001", "0002")
    assert statuses(image_suffix=".jpg", image_folder="photos/") == ["ok", "ok"]
    assert asked == [f"{ROOT}/photos/0001.jpg", f"{ROOT}/photos/0002.jpg"]
    asked = hub(1, 2)
    asked.clear()
    assert statuses(image_suffix="jpg") == ["ok", "ok"]
    assert asked == [f"{ROOT}/1.jpg", f"{ROOT}/2.jpg"]


def test_a_folder_of_this_machine_goes_before_the_repository(hub, tmp_path):
    picture("blue").save(tmp_path / "1.png")
    asked = hub("1.png", "2.png")
    assert statuses(image_folder=str(tmp_path)) == ["ok", "image_missing"]
    assert asked == []


def test_a_revision_is_that_of_the_images_as_well(hub):
    asked = hub("1.jpg")
    assert statuses(revision="v2") == ["ok"]
    assert asked == [f"{ROOT}@v2/1.jpg"]


def test_what_is_not_there_is_missing_and_says_where_was_looked(hub, tiny):
    hub("gone.jpg", "1.jpg")
    assert statuses() == ["image_missing", "ok"]
    hub("gone.jpg")
    read = read_data("someone/shop", Reading(image_column="photo"), need_label=False)
    with pytest.raises(ValueError, match=f"no row has an image .*{ROOT}/gone.jpg cannot be fetched: 404 not there"):
        require_some(read.table, read.columns)


def test_rows_by_number_and_of_another_process_are_the_same(hub, tiny):
    hub("1.jpg", None, "gone.jpg")
    read = read_data("someone/shop", Reading(image_column="photo"), need_label=False)
    rows = [read.table.rows[number] for number in range(3)]
    assert [row["photo"] for row in rows[:2]] == [row["photo"] for row in [*read.table.rows][:2]]
    found = ImageTextClassifier(*tiny, device="cpu")([{"image": row["photo"], "text": "a"} for row in rows])
    assert [row["status"] for row in found] == ["ok", "image_missing", "image_missing"]
