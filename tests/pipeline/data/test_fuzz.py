"""Damaged image files through classify: no crash, no hang, memory bounded, every row back in its place."""

from __future__ import annotations

import random
import resource
import time

import numpy as np
import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from hypothesis import given, settings
from hypothesis import strategies as st

from ...conftest import build_tiny
from .corpus import bombs, mutate, mutated, originals

KNOWN = ("ok", "image_unreadable", "image_too_large")
SECONDS = 5.0
MEGABYTES = 300


@pytest.fixture(scope="module")
def classify(text_folder) -> ImageTextClassifier:
    return ImageTextClassifier(*build_tiny(text_folder), device="cpu")


def peak() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def pixels(source) -> np.ndarray | None:
    try:
        return np.asarray(read_image(source))
    except BadImage:
        return None


def check(classify, files, folder=None):
    """Classify `files`, half of them from a disk, one at a time, and check each row."""
    slowest, started = 0.0, time.process_time()

    def rows():
        nonlocal slowest, started
        for number, file in enumerate(files):
            source = file.data
            if folder is not None and number % 2:
                source = folder / f"{number}{file.suffix}"
                source.write_bytes(file.data)
            started = time.process_time()
            yield {"image": source, "text": "a red shirt"}

    before = peak()
    for number, found in enumerate(classify(rows(), batch_size=1)):
        slowest = max(slowest, time.process_time() - started)
        file = files[number]
        assert found["row"] == number, file.name
        assert found["status"] in KNOWN if file.status is None else found["status"] == file.status, (file.name, found)
        assert (found["status"] == "ok") == (found["reason"] == ""), file.name
        assert found["label"] is not None
        assert (found["image_contribution"] != 0) == (found["status"] == "ok"), file.name
        if file.whole is not None and found["status"] == "ok":  # cut, and nothing of it was made up
            np.testing.assert_array_equal(pixels(file.data), pixels(file.whole), err_msg=file.name)
    assert number == len(files) - 1
    assert slowest < SECONDS
    assert peak() - before < MEGABYTES


def test_every_good_file_is_ok_and_every_bomb_is_refused(classify, tmp_path):
    check(classify, [*originals(), *bombs()], tmp_path)


def test_300_damaged_files(classify, tmp_path):
    check(classify, list(mutated(300)), tmp_path)


@pytest.mark.slow
def test_2000_damaged_files(classify, tmp_path):
    check(classify, list(mutated(2000, seed=1)), tmp_path)


def test_a_batch_of_damaged_files_says_what_each_says_alone(classify):
    rows = [{"image": file.data, "text": "a red shirt"} for file in mutated(64, seed=2)]
    alone = [classify(row) for row in rows]
    together = classify(rows, batch_size=16)
    assert [(p["status"], p["reason"], p["label"]) for p in together] == [
        (p["status"], p["reason"], p["label"]) for p in alone
    ]
    for one, other in zip(alone, together, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(file=st.sampled_from(originals()), kind=st.integers(0, 4), seed=st.integers(0, 2**32))
def test_any_damage_is_a_picture_or_a_status(classify, file, kind, seed):
    check(classify, [mutate(file, kind, random.Random(seed)), file])


@settings(max_examples=40, deadline=None)
@given(head=st.sampled_from([file.data[:20] for file in originals()]), tail=st.binary(max_size=200))
def test_any_bytes_behind_a_good_beginning_are_a_picture_or_a_status(classify, head, tail):
    (found,) = classify([{"image": head + tail, "text": "a"}])
    assert found["status"] in KNOWN
