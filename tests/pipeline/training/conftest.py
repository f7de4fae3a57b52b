"""A run that nothing interrupts, with which the interrupted ones are compared."""

from __future__ import annotations

import pytest

from .test_train import run

OPTIONS = {"epochs": 2, "batch_size": 8, "checkpoint_steps": 3}
"""Two epochs of five steps: 40 rows of 48 are trained on, and every draw is on."""


@pytest.fixture(scope="module")
def few(pairs):
    return pairs.select(range(48))


def options(**others):
    return {**OPTIONS, "validation_share": 1 / 6, **others}


@pytest.fixture(scope="module")
def whole(few, text_folder, tmp_path_factory):
    """The folder and record of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(few, folder, text_folder, **options())
