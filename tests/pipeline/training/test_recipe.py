"""How long a run is by default, and which of its epochs are measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.training.recipe import MOST_EPOCHS, RECIPE, duration, measures, with_length
from hypothesis import given
from hypothesis import strategies as st

FROZEN: Any = SimpleNamespace(
    image_encoder=SimpleNamespace(pretrained=True), text_encoder=SimpleNamespace(pretrained=True)
)


@given(rows=st.integers(1, 100_000), recipe=st.sampled_from(sorted(RECIPE)), batch_size=st.sampled_from([1, 32, 64]))
def test_few_rows_get_their_steps_and_many_their_epochs(rows, recipe, batch_size):
    config, line = with_length(TrainConfig(recipe=recipe, batch_size=batch_size), FROZEN, rows)
    asked, steps = RECIPE[recipe], -(-rows // batch_size)
    assert config.epochs >= asked.epochs
    assert config.epochs == MOST_EPOCHS or config.epochs * steps >= asked.steps
    assert config.epochs == asked.epochs or (config.epochs - 1) * steps < asked.steps  # and no more than that
    assert line.startswith(f"length: {config.epochs} epochs of {steps} steps (--recipe {recipe}: ")


def test_what_is_asked_for_stays():
    config, line = with_length(TrainConfig(epochs=7), FROZEN, 100)
    assert config == TrainConfig(epochs=7)
    assert line == "length: 7 epochs of 4 steps, as asked"


def test_where_an_encoder_trains_there_are_more_epochs():
    frozen, trained = (with_length(TrainConfig(unfreeze_text=parts), FROZEN, 10_000) for parts in (0, 2))
    assert (frozen[0].epochs, trained[0].epochs) == (RECIPE["balanced"].epochs, RECIPE["balanced"].encoder_epochs)
    assert "as an encoder trains" in trained[1]


@pytest.mark.parametrize("epochs", [1, 5, 19, 20, 50])
def test_a_long_run_is_measured_about_ten_times_and_at_its_end(epochs):
    measured = [epoch for epoch in range(1, epochs + 1) if measures(epoch, epochs)]
    assert measured[-1] == epochs
    assert len(measured) <= 19
    assert epochs > 19 or len(measured) == epochs


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (3.2, 600, 7200)] == ["3 s", "10 min", "2.0 h"]
