"""Modalities that are missing on purpose: the table by its definition, and metrics as of rows that lack them."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from diptych import evaluate
from diptych.pipeline.cli.evaluate import evaluation_text
from diptych.pipeline.cli.main import app
from diptych.pipeline.evaluation.missing import Missing
from diptych.pipeline.model.folder import save_model
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def rows(pairs):
    return [{**pairs[index], "label": ("no", "yes")[index % 3 == 0]} for index in range(20)]


@pytest.fixture
def saved(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    return tmp_path / "model"


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([None, "text", "image", "both"]), st.integers(0, 2**32))
def test_a_table_takes_what_it_should_from_as_many_rows(rows, rate, kind, seed):
    table = Missing(rate, kind, seed).table(rows)
    count = round(rate * rows)
    image, text = table.sum(axis=0).tolist()
    expected = {"text": (0, count), "image": (count, 0)}.get(kind, (count // 2, count - count // 2))
    assert (image, text) == expected
    assert not table.all(axis=1).any()
    assert np.array_equal(table, Missing(rate, kind, seed).table(rows))
    if rate <= 0.5:  # who lacks it at a low rate does at a higher one
        assert (table <= Missing(2 * rate, kind, seed).table(rows)).all()


def test_another_seed_is_another_table():
    first, second = (Missing(0.5, "text", seed).table(100) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": 1.1}, "missing is 1.1; it must be at least 0 and at most 1"),
        ({"missing": -0.1}, "missing is -0.1; it must be at least 0 and at most 1"),
        ({"missing": float("nan")}, "missing is nan; it must be"),
        ({"missing": "0.7"}, "missing is '0.7'; it must be a number"),
        ({"missing": 0.5, "missing_type": "sound"}, "missing_type is 'sound'; choose one of text, image, both"),
        ({"missing_type": "text"}, "missing_type is 'text', which does nothing without missing"),
        ({"missing": 0.5, "missing_seed": -1}, "missing_seed is -1; it must be at least 0"),
        ({"mising": 0.5}, "there is no option 'mising'; did you mean 'missing'"),
    ],
)
def test_what_makes_no_table_is_refused(saved, rows, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(saved, rows, quiet=True, **options)


@pytest.mark.parametrize("kind", ["text", "image", "both"])
def test_metrics_are_those_of_rows_that_lack_it(saved, rows, kind):
    options = {"missing": 0.6, "missing_type": kind, "missing_seed": 3}
    table = Missing(**options).table(len(rows))
    blank = [
        {**row, "image": None if no_image else row["image"], "text": None if no_text else row["text"]}
        for row, (no_image, no_text) in zip(rows, table.tolist(), strict=True)
    ]
    found, expected = evaluate(saved, rows, quiet=True, **options), evaluate(saved, blank, quiet=True)
    assert found["one_half"] == expected["one_half"] == 12
    assert found["missing"] == f"0.6 of the rows, {kind}, seed 3"
    for name in ("accuracy", "macro_f1", "loss"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    for name in ("text_only", "image_only"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    assert found["worth"]["accuracy"]["both"] == pytest.approx(expected["worth"]["accuracy"]["both"])
    assert f"missing on purpose: a modality of 0.6 of the rows, {kind}, seed 3" in evaluation_text(found)


def test_nothing_missing_is_the_plain_evaluation(saved, rows):
    plain, none, every = (evaluate(saved, rows, quiet=True, **o) for o in ({}, {"missing": 0}, {"missing": 1}))
    assert plain["missing"] is None
    assert "missing on purpose" not in evaluation_text(plain)
    assert none["accuracy"] == plain["accuracy"]
    assert (every["one_half"], every["without_prediction"]) == (20, 0)
    assert "worth" not in every


def test_a_row_that_has_one_modality_keeps_it(saved, rows):
    one = [{**row, "image": None} if number % 2 else row for number, row in enumerate(rows)]
    found = evaluate(saved, Dataset.from_list(one), quiet=True, missing=1, missing_type="text")
    assert found["without_prediction"] == 0
    assert (found["text_only"]["rows"], found["image_only"]["rows"]) == (10, 10)


def test_on_the_command_line(saved, rows, tmp_path):
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    given = ["evaluate", str(saved), str(tmp_path / "rows.parquet"), "--missing", "0.5", "--missing-type", "image"]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0, shown.output
    assert "missing on purpose: a modality of 0.5 of the rows, image, seed 0" in shown.output
    assert not list(tmp_path.glob("**/coverage.png"))  # the model is not in a run's folder
    wrong = CliRunner().invoke(app, [*given[:4], "2"])
    assert wrong.exit_code == 1
    assert "missing is 2.0; it must be at least 0 and at most 1" in wrong.output
