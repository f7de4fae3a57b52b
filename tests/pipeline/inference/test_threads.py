"""Requests from many threads, the first ones too; asyncio; and processes forked after use."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from diptych import ImageTextClassifier
from diptych.pipeline.model.folder import save_model

from ...conftest import build_tiny, picture

THREADS = 16
ROWS = [
    {
        "image": picture(("red", "blue", "green")[i % 3], seed=i),
        "text": ("a red shirt", "a blue shoe left", "a " * 30)[i % 3],
    }
    for i in range(THREADS)
]


def asked_at_once(model, processor) -> list[dict]:
    """The predictions of a fresh classifier that all threads ask at the same moment."""
    classify, together = ImageTextClassifier(model, processor, device="cpu"), Barrier(THREADS)

    def ask(row):
        together.wait()
        return classify(row)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(ask, ROWS))


def as_expected(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one["status"] == other["status"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


@pytest.mark.parametrize("classifiers", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_the_first_requests_of_many_threads_are_answered_each_with_its_own(text_folder, classifiers):
    model, processor = build_tiny(text_folder)
    expected = ImageTextClassifier(model, processor, device="cpu")(ROWS)
    assert len({tuple(one["scores"].values()) for one in expected}) == THREADS
    for _ in range(classifiers):
        as_expected(asked_at_once(model, build_tiny(text_folder)[1] if classifiers < 9 else processor), expected)


def test_tasks_of_an_event_loop_are_answered_each_with_its_own(tiny):
    classify = ImageTextClassifier(*tiny, device="cpu")

    async def ask():
        return await asyncio.gather(*(asyncio.to_thread(classify, row) for row in ROWS))

    as_expected(asyncio.run(ask()), ImageTextClassifier(*tiny, device="cpu")(ROWS))


FORKED = """
import os, signal, sys, torch
from diptych import ImageTextClassifier
torch.set_num_threads(2)
classify = ImageTextClassifier.from_pretrained(sys.argv[1], device="cpu")
row = {"image": sys.argv[2], "text": "a red shirt"}
before = classify([row] * 40, workers=2)
child = os.fork()
if not child:
    signal.alarm(60)
    after = classify([row] * 40)
    os._exit(0 if [p["label"] for p in after] == [p["label"] for p in before] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.multiprocessing, "get_context") or sys.platform == "win32", reason="no fork")
def test_a_process_forked_after_use_classifies_as_well(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    picture("red").save(tmp_path / "a.png")
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "model"), str(tmp_path / "a.png")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
