"""How a prediction stands beside its row's own columns: nothing of the row is lost."""

from __future__ import annotations

import numpy as np
import pytest
from diptych.pipeline.inference.predictions import COLUMNS, Prediction, output_columns, output_row
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

NAMES = tuple(COLUMNS)


def prediction(label) -> Prediction:
    return Prediction(**(dict.fromkeys(NAMES) | {"row": 0, "status": "ok", "reason": "", "label": label}))


def test_predictions_classified_again_and_again_lose_nothing():
    row = {"image": "a.png", "label": "mine"}
    for label in ("first", "second", "third"):
        row = output_row(row, prediction(label))
    labels = [row[name] for name in ("input_label", "input_input_label", "input_input_input_label", "label")]
    assert labels == ["mine", "first", "second", "third"]


def test_a_column_that_is_called_input_label_stays_what_it_was():
    found = output_row({"label": "a", "input_label": "b", "input_input_label": "c"}, prediction("d"))
    assert [found[f"{'input_' * i}label"] for i in range(4)] == ["d", "b", "c", "a"]


OWN = st.lists(st.sampled_from([f"{'input_' * i}{name}" for i in range(3) for name in (*NAMES, "text")]), unique=True)


@given(OWN)
def test_every_value_of_a_row_is_somewhere_in_the_output(names):
    row = {name: f"of {name}" for name in names}
    found = output_row(row, prediction("yes"))
    assert sorted(str(v) for n, v in found.items() if n not in NAMES) == sorted(row.values())
    assert [found[name] for name in names if name not in NAMES] == [row[name] for name in names if name not in NAMES]
    assert list(found) == output_columns(names)
    assert list(found)[-len(NAMES) :] == list(NAMES)


@pytest.mark.parametrize("image", [b"bytes", bytearray(b"a"), Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8)])
def test_pixels_and_bytes_drop_and_their_path_stays(image):
    assert "image" not in output_row({"image": image}, prediction("yes"))
    assert output_row({"image": {"bytes": image, "path": "a.png"}}, prediction("yes"))["image"] == "a.png"
