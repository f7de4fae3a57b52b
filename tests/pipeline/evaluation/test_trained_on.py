"""A model knows the rows that it was trained on, whatever holds them; evaluation counts them."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
from diptych import ImageTextClassifier, evaluate, load_model
from diptych.pipeline.cli.evaluate import evaluation_text
from diptych.pipeline.data.digest import row_ids
from diptych.pipeline.data.rows import Columns, UnreadableRow
from diptych.pipeline.model.folder import remember_rows, save_model
from PIL import Image

from ...conftest import picture
from ..training.test_train import run

QUICK = {"epochs": 1, "validation_share": 0.25, "calibration": False, "quiet": True}
OLD = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """40 rows: images as PNG files, each different."""
    folder = tmp_path_factory.mktemp("photos")
    found = []
    for number in range(40):
        colour = ("red", "blue")[number % 2]
        picture(colour, seed=number).save(folder / f"{number}.png")
        found.append({"image": str(folder / f"{number}.png"), "text": f"a {colour} shirt", "label": colour})
    return found


@pytest.fixture(scope="module")
def trained(rows, text_folder, tmp_path_factory):
    """A run on the first 20 rows, of which all are trained on: the next 10 are to validate with."""
    folder = tmp_path_factory.mktemp("trained")
    data = {"train": datasets.Dataset.from_list(rows[:20]), "validation": datasets.Dataset.from_list(rows[20:30])}
    run(datasets.DatasetDict(data), folder, text_folder, **QUICK)
    return folder


def count(model, data, **options):
    return evaluate(model, data, quiet=True, **options)["trained_on"]


@pytest.mark.parametrize(("first", "end", "expected"), [(0, 20, 20), (10, 25, 10), (20, 40, 0)])
def test_all_some_and_none(trained, rows, first, end, expected):
    assert count(trained, rows[first:end]) == expected


def ways(rows, folder):
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_json(folder / "rows.jsonl", orient="records", lines=True)
    stored = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    stored.to_parquet(folder / "rows.parquet")  # with the bytes of the files
    opened = [{**row, "image": Image.open(row["image"]).copy()} for row in rows]
    yield from (folder / name for name in ("rows.csv", "rows.jsonl", "rows.parquet"))
    yield from (frame, stored, opened, pd.DataFrame(opened), datasets.Dataset.from_list(opened))
    yield [{**row, "image": Path(row["image"]).read_bytes()} for row in rows]
    yield rows[::-1]
    yield [{"text": f" {row['text'].upper()} ", "image": row["image"], "label": row["label"]} for row in rows]


def test_every_way_in_and_any_order(trained, rows, tmp_path):
    assert [count(trained, way) for way in ways(rows[10:25], tmp_path)] == [10] * 11


def test_another_image_or_another_text_is_another_row(trained, rows):
    swapped = [{**row, "image": rows[number + 20]["image"]} for number, row in enumerate(rows[:10])]
    reworded = [{**row, "text": row["text"] + " left"} for row in rows[:10]]
    blank = [{**row, "image": None} for row in rows[:10]] + rows[20:22]
    assert [count(trained, data) for data in (swapped, reworded, blank)] == [0, 0, 0]


def test_of_one_modality_that_one_is_compared(trained, rows):
    assert count(trained, rows[:10] + rows[20:30], text_only=True) == 20  # their texts stand in trained rows too
    assert count(trained, rows[:10] + rows[20:30], image_only=True) == 10


def test_rows_held_out_to_validate_are_not_trained_on(rows, text_folder, tmp_path):
    record = run(rows, tmp_path / "run", text_folder, **QUICK)
    assert count(tmp_path / "run", rows) == record["rows"]["train"] == 30


def test_a_model_that_is_saved_again_calibrated_or_trained_on_still_knows(trained, rows, text_folder, tmp_path):
    ImageTextClassifier.from_pretrained(trained).save_pretrained(tmp_path / "copy")
    assert count(tmp_path / "copy", rows) == 20
    run(rows[30:], tmp_path / "more", None, model=trained, **QUICK)
    assert count(tmp_path / "more", rows) == 20 + len(rows[30:]) - 2


@pytest.mark.parametrize("name", ["model-1", "model-2", "model-3", "a stream"])
def test_a_model_that_does_not_remember_says_so(name, trained, rows, tmp_path):
    folder = OLD / name
    labels = [["no"], ["yes"]] if name == "model-3" else ["no", "yes"]
    data = [{**row, "label": label} for row, label in zip(rows, labels * 20, strict=True)]
    if name == "a stream":
        folder, data = tmp_path / "model", rows
        model, processor = load_model(trained)
        remember_rows(model, None)
        save_model(model, processor, folder)
    found = evaluate(folder, data, quiet=True)
    assert found["trained_on"] is None
    assert "how many of them the model was trained on is not known" in evaluation_text(found)


def test_the_printed_line(trained, rows):
    some, none = evaluate(trained, rows[:25], quiet=True), evaluate(trained, rows[20:], quiet=True)
    assert "warning: the model was trained on 20 of these 25 rows" in evaluation_text(some)
    assert "the model was trained on 0 of these 20 rows" in evaluation_text(none)


def test_a_damaged_memory_is_an_error_in_one_line(trained, rows, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    (tmp_path / "model" / "training_rows.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be loaded"):
        evaluate(tmp_path / "model", rows, quiet=True)


def test_ids_are_of_pixels_where_there_are_few_and_of_bytes_where_there_are_many(tmp_path):
    columns = Columns("image", "text")
    for side, same in ((16, True), (600, False)):
        image = picture("red", size=side)
        image.save(tmp_path / "a.png")
        image.save(tmp_path / "b.png", compress_level=0)
        found = {row_ids({"image": value, "text": "a"}, columns, tmp_path) for value in ("a.png", "b.png")}
        assert (len(found) == 1) is same
    assert row_ids({"image": "gone.png", "text": " "}, columns, tmp_path) == (0, 0, 0)
    assert row_ids(UnreadableRow("broken"), columns, tmp_path) == (0, 0, 0)
    image, text = (row_ids({name: value}, columns, tmp_path) for name, value in (("image", "a.png"), ("text", "a")))
    assert image[2] == text[1] == 0
    assert len({*image[:2], text[0], text[2]}) == 4


def test_a_run_over_a_stream_forgets(rows, text_folder, tmp_path):
    data = datasets.Dataset.from_list(rows).to_iterable_dataset()
    run(data, tmp_path / "run", text_folder, stream=True, **QUICK)
    assert load_model(tmp_path / "run")[0].training_ids is None
    assert not (tmp_path / "run" / "model" / "training_rows.safetensors").exists()


def test_what_is_remembered_is_small(tiny):
    model, _ = tiny
    ids = torch.arange(1, 301).reshape(100, 3)
    remember_rows(model, ids)
    remember_rows(model, ids + 3)
    assert model.training_ids.tolist() == list(range(1, 304))
