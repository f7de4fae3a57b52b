"""Damaged tables through check, classify and train: every row accounted for, or one clear line; no hang."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from diptych import ImageTextClassifier, check, train
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.data.read import read_data
from diptych.pipeline.data.rows import STATUSES, UnreadableRow

from ...conftest import build_tiny
from .corpus import mutated, originals
from .mutated_tables import FORMATS, ROWS, mutate, write_table

SECONDS = 10.0
TINY = {"hidden_size": 16, "fusion_heads": 2, "fusion_layers": 1, "fusion_hidden_size": 32}


@pytest.fixture(scope="module")
def model(text_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ImageTextClassifier(*build_tiny(text_folder), device="cpu").save_pretrained(folder / "model")
    return folder / "model"


def run_tiny(data, out, text_folder, **options):
    build = {"image_encoder": "resnet-tiny", "image_weights": "random", "image_size": (16, 16), "architecture": TINY}
    quiet = {"say": lambda line: None, "quiet": True}
    return train(data, out, text_encoder=text_folder, epochs=1, batch_size=8, **build, **quiet, **options)


def refused(do) -> str | None:
    """The one line with which `do` refuses; None if it does its work."""
    try:
        do()
    except ValueError as error:
        line = str(error)
        assert line
        assert "\n" not in line
        assert len(line) < 2000
        return line
    return None


def accounted(data: Path, model: Path, out: Path) -> None:
    """Classify and check `data`: each gives all rows their place, or refuses with one line."""
    found: dict = {}
    counts: dict = {}
    no_check = refused(lambda: found.update(check(data, quiet=True)))
    options = {"model": model, "say": lambda line: None, "quiet": True}
    no_rows = refused(lambda: counts.update(classify_table(data, str(out / "out.jsonl"), **options)))
    if no_check is None:
        assert set(found["all"]["statuses"]) <= set(STATUSES)
        assert sum(found["all"]["statuses"].values()) == found["all"]["rows"]
    if no_rows is None:
        rows = [json.loads(line) for line in (out / "out.jsonl").read_bytes().split(b"\n")[:-1]]
        assert [row["row"] for row in rows] == list(range(len(rows)))
        assert Counter(row["status"] for row in rows) == {status: n for status, n in counts.items() if n}
        assert no_check is not None or found["all"]["rows"] == len(rows), "two readers"


def the_same_by_number(data: Path) -> None:
    """Rows are the same one after another and by number."""
    rows = read_data(data).table.rows
    one_by_one, by_number = [*rows], [rows[number] for number in range(len(rows))]
    for one, other in zip(one_by_one, by_number, strict=True):
        both = [row.reason if isinstance(row, UnreadableRow) else row for row in (one, other)]
        assert both[0] == both[1]


def cases(count: int, seed: int, folder: Path):
    for number in range(count):
        generator = random.Random(seed * 10_000 + number)
        data = write_table(folder / str(number), FORMATS[number % len(FORMATS)])
        done = [mutate(data, generator) for _ in range(generator.choice((1, 1, 1, 2)))] if number >= 4 else []
        yield number, data, done


def fuzz(count: int, seed: int, folder: Path, model: Path) -> None:
    for number, data, done in cases(count, seed, folder):
        started = time.process_time()
        out = folder / f"out {number}"
        out.mkdir()
        try:
            accounted(data, model, out)
            refused(lambda data=data: the_same_by_number(data))
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed}: {data.name}, {done}") from error
        assert time.process_time() - started < SECONDS, (number, done)


def test_good_tables_are_read_whole(model, tmp_path):
    for number, data, _ in cases(4, 0, tmp_path):
        out = tmp_path / f"out {number}"
        out.mkdir()
        accounted(data, model, out)
        assert check(data, quiet=True)["all"]["statuses"] == {"ok": ROWS}
        assert len((out / "out.jsonl").read_text(encoding="utf-8").splitlines()) == ROWS


def test_40_damaged_tables(model, tmp_path):
    fuzz(44, 1, tmp_path, model)


@pytest.mark.slow
def test_500_damaged_tables(model, tmp_path):
    fuzz(504, 2, tmp_path, model)


@pytest.mark.slow
def test_training_on_damaged_tables_ends_well_or_in_one_line(text_folder, tmp_path):
    for number, data, done in cases(64, 3, tmp_path):
        try:
            refused(lambda data=data, number=number: run_tiny(data, tmp_path / f"run {number}", text_folder))
        except Exception as error:
            raise AssertionError(f"case {number}: {data.name}, {done}") from error


def test_check_train_and_classify_say_the_same_of_damaged_pictures(model, text_folder, tmp_path):
    files = [*mutated(60, seed=3), *originals()[:4]]
    for split, part in (("train", files), ("validation", originals()[:4])):
        (tmp_path / split).mkdir()
        rows = [{"image": f"{i}{file.suffix}", "text": "a", "label": "yn"[i % 2]} for i, file in enumerate(part)]
        for row, file in zip(rows, part, strict=True):
            (tmp_path / split / row["image"]).write_bytes(file.data)
        (tmp_path / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = check(tmp_path, quiet=True)["splits"]["train"]["statuses"]
    assert sum(found.values()) == len(files)
    assert len(found) >= 3
    bad = {status: count for status, count in found.items() if status != "ok"}
    assert run_tiny(tmp_path, tmp_path / "run", text_folder)["problems"] == bad
    out = {"split": "train", "model": model, "say": lambda line: None, "quiet": True}
    counts = classify_table(tmp_path, str(tmp_path / "out.jsonl"), **out)
    assert {status: count for status, count in counts.items() if count} == found
