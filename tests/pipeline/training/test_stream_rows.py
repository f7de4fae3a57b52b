"""Training on streams: every row once an epoch whoever shares it, in an order of its own, and the run of a table."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
from diptych import load_model
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.loading.augmentation import Augmentation
from diptych.pipeline.loading.loader import Collate
from diptych.pipeline.loading.plan import Plan
from diptych.pipeline.loading.stream import shuffled
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.training.stream_rows import StreamRows
from hypothesis import given, settings
from hypothesis import strategies as st

from ...conftest import picture
from .test_train import run

COLUMNS = Columns("image", "text", "label")


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 3))
def test_a_buffer_changes_the_order_and_loses_nothing(count, buffer, seed):
    found = list(shuffled(range(count), seed=seed, buffer=buffer))
    assert sorted(found) == list(range(count))
    assert found == list(shuffled(range(count), seed=seed, buffer=buffer))
    for place, item in enumerate(found):
        assert item < place + buffer  # nothing comes before it was read
    if buffer == 1:
        assert found == list(range(count))


def test_an_order_is_another_in_another_epoch():
    assert list(shuffled(range(40), seed=1, buffer=10)) != list(shuffled(range(40), seed=2, buffer=10))


@pytest.fixture
def stream(pairs):
    return datasets.IterableDatasetDict({"train": pairs.select(range(50)).to_iterable_dataset(num_shards=3)})


def sets(stream, processor, **options):
    config = TrainConfig(**({"shuffle_buffer": 7} | options))
    rows = StreamRows(load_tables(stream), COLUMNS, config, labelled=True)
    augmentation = Augmentation(processor.image_processor, flip=True, crop=True, colour=False)
    return rows, rows.pairs(processor, augmentation=augmentation), rows.pairs(processor, held=True)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(0, 4), st.integers(1, 2))
def test_processes_share_every_row_once(tiny_processor, shared_stream, processes, accumulate, skip, epoch):
    _, training, validation = sets(shared_stream, tiny_processor)
    size = 2 * processes * accumulate
    whole = [row for batch in shares(training, epoch, size=size) for row in batch]
    held = [row for batch in shares(validation, 1, size=size, shuffle=False) for row in batch]
    assert sorted(whole) == sorted(set(range(50)) - set(held))
    assert held == sorted(held)
    assert 0 < len(held) < 25
    parts = [
        shares(training, epoch, size=size, skip=skip, accumulate=accumulate, process=p, processes=processes)
        for p in range(processes)
    ]
    together = [row for passed in zip(*parts, strict=True) for part in passed for row in part]
    assert together == whole[skip * size // accumulate :]


@pytest.fixture(scope="module")
def tiny_processor(text_folder):
    from ...conftest import build_tiny

    return build_tiny(text_folder)[1]


@pytest.fixture(scope="module")
def shared_stream(pairs):
    return datasets.IterableDatasetDict({"train": pairs.select(range(50)).to_iterable_dataset(num_shards=3)})


def shares(data, epoch, *, size, skip=0, workers=0, shuffle=True, **plan):
    batches = data.batches(Plan(len(data), size, **plan), shuffle=shuffle, workers=workers)
    return [batch["rows"] for batch in batches.epoch(epoch, skip=skip)]


def test_workers_change_nothing_and_stay_for_the_next_epoch(stream, tiny_processor):
    _, training, _ = sets(stream, tiny_processor)
    alone = [shares(training, epoch, size=6, skip=1) for epoch in (1, 2)]
    batches = training.batches(Plan(len(training), 6), shuffle=True, workers=2)
    for epoch in (1, 2):
        assert [batch["rows"] for batch in batches.epoch(epoch, skip=1)] == alone[epoch - 1]
    assert alone[0] != alone[1]


def test_what_a_row_becomes_is_what_a_table_makes_of_it(stream, tiny_processor, pairs):
    """Pixels after augmentation too: they follow from seed, epoch and row."""
    from diptych.pipeline.loading.dataset import PairDataset

    _, training, _ = sets(stream, tiny_processor)
    table = load_tables(pairs)["train"]
    labels = list(pairs["label"])
    plain = PairDataset(table, COLUMNS, labels, tiny_processor, augmentation=training.augmentation)
    for batch in training.batches(Plan(len(training), 10), shuffle=True).epoch(2):
        expected = Collate(tiny_processor)([plain[2, row] for row in batch["rows"]])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["labels"], expected["labels"])


@pytest.mark.slow
def test_a_streamed_run_is_recorded_resumes_and_learns(pairs, text_folder, tmp_path):
    split = datasets.IterableDatasetDict(
        {
            "train": pairs.select(range(64)).to_iterable_dataset(),
            "validation": pairs.select(range(64, 96)).to_iterable_dataset(),
        }
    )
    options = {"epochs": 3, "checkpoint_steps": 3, "shuffle_buffer": 32}
    said: list[str] = []
    record = run(split, tmp_path / "whole", text_folder, **options, say=said.append)
    assert record["rows"] == {"train": 64, "validation": 32}
    assert record["best"]["accuracy"] > 0.9
    assert any(line.startswith("streaming: one pass") for line in said)
    assert "features: of a stream they are not kept, so a frozen encoder computes them in every epoch" in said

    class Enough(Exception):
        pass

    def stop(epoch):
        raise Enough

    with pytest.raises(Enough):
        run(split, tmp_path / "cut", text_folder, **options, after_epoch=stop)
    resumed = run(split, tmp_path / "cut", text_folder, **options, resume=True)
    assert resumed["best"]["loss"] == record["best"]["loss"]
    ours, theirs = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_are_streamed_if_asked(suffix, pairs, text_folder, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for index in range(24):
        picture(("red", "blue")[index % 2], index).save(folder / f"{index}.png")
        rows.append({"image": f"{index}.png", "text": "a red shirt", "label": ("red", "blue")[index % 2]})
    table = datasets.Dataset.from_list(rows)
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[suffix](folder / f"train.{suffix}")
    record = run(str(folder), tmp_path / "run", text_folder, epochs=1, stream=True)
    assert record["rows"]["train"] + record["rows"]["validation"] == 24
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["label2id"] == {"blue": 0, "red": 1}


def test_lists_of_labels_are_streamed_too(text_folder, tmp_path):
    rows = [
        {"image": picture(("red", "blue")[i % 2], i), "text": "a shirt", "label": [["red"], ["blue", "odd"]][i % 2]}
        for i in range(30)
    ]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    record = run(stream, tmp_path, text_folder, epochs=1, class_weights="balanced")
    assert "mean_average_precision" in record["best"]


def broken(pairs, how):
    rows = [dict(row) for row in pairs.select(range(12))]
    if how == "none":
        rows[3]["label"] = None
    elif how == "one":
        for row in rows:
            row["label"] = 1
    names = pairs.features["label"].names
    rows = [row | {"label": None if row["label"] is None else names[row["label"]]} for row in rows]
    return datasets.Dataset.from_list(rows).to_iterable_dataset()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("none", r"row 3 has no label in 'label'; give every row one or take it out"),
        ("one", r"all 12 rows have the same label in 'label'; nothing can be learned"),
    ],
)
def test_what_cannot_be_trained_is_said(pairs, text_folder, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        run(broken(pairs, how), tmp_path, text_folder)


def test_labels_of_a_validation_stream_must_be_known(pairs, text_folder, tmp_path):
    some = broken(pairs, "nothing")
    other = datasets.Dataset.from_list([{"image": picture("red"), "text": "a", "label": "green"}]).to_iterable_dataset()
    with pytest.raises(ValueError, match="label 'green' in 'label' does not occur in the rows to train on"):
        run(datasets.IterableDatasetDict({"train": some, "validation": other}), tmp_path, text_folder)


def test_data_that_changes_meanwhile_is_said(pairs, text_folder, tmp_path):
    left, red = [40], tmp_path / "red.png"
    picture("red").save(red)

    def rows():
        left[0] -= 1  # one row fewer at each reading
        yield from ({"image": str(red), "text": "a", "label": "ab"[i % 2]} for i in range(left[0]))

    stream = datasets.IterableDataset.from_generator(rows)
    with pytest.raises(ValueError, match=r"rows when the run began and has .* now: it was changed; begin anew"):
        run(stream, tmp_path, text_folder, epochs=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_cannot_be_read_to_its_end_is_said_in_one_line(text_folder, tmp_path, workers):
    readings, red = [0], tmp_path / "red.png"
    picture("red").save(red)

    def rows():
        readings[0] += 1
        for index in range(40):
            if index == 30 and readings[0] > 2:  # not yet when its features are looked for, nor when labels are read
                raise OSError("the line is dead")
            yield {"image": str(red), "text": "a", "label": "ab"[index % 2]}

    stream = datasets.IterableDataset.from_generator(rows)
    with pytest.raises(ValueError, match=r"^data cannot be read past its first 30 rows: the line is dead$"):
        run(stream, tmp_path, text_folder, workers=workers)
