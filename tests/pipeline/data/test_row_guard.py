"""What fails while a row is made ready is that row's own: its status says so, and its neighbours stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import DatasetDict
from diptych import ImageTextClassifier
from diptych.pipeline.check.scan import scan
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table
from diptych.pipeline.feature_cache.encode import RowsToEncode, _Pictures, encode_texts
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import Collate
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from diptych.pipeline.model.processor import DiptychProcessor
from diptych.pipeline.runtime.files import reason

from ...conftest import picture
from ..training.test_train import run

COLUMNS = Columns("image", "text")
ROWS = [{"image": picture("red", seed=i, size=16 + 8 * (i == 1)), "text": "a red shirt"} for i in range(3)]
FAILURES = {
    "no memory": (MemoryError(), "image_too_large", "the image needs more memory than there is"),
    "a decoder": (ValueError("broken\nat line 2"), "image_unreadable", "the image cannot be decoded: broken"),
    "a disk": (OSError(5, "Input/output error"), "image_unreadable", "the image cannot be read: Input/output error"),
    "a library": (RuntimeError(""), "image_unreadable", "the image cannot be decoded: RuntimeError"),
}


@pytest.fixture(params=FAILURES)
def failure(request, monkeypatch) -> tuple[str, str]:
    """Scaling fails for the picture of 24 pixels a side; the status and the reason that it must have."""
    error, status, reason = FAILURES[request.param]
    resize = DiptychImageProcessor.resize

    def fail(self, image):
        if image.size == (24, 24):
            raise error
        return resize(self, image)

    monkeypatch.setattr(DiptychImageProcessor, "resize", fail)
    return status, reason


def test_classifying(failure, tiny):
    found = ImageTextClassifier(*tiny, device="cpu")(ROWS, batch_size=3)
    assert [(row["status"], row["reason"]) for row in found] == [("ok", ""), failure, ("ok", "")]
    assert found[1]["image_contribution"] == 0 != found[1]["text_contribution"]
    (alone,) = ImageTextClassifier(*tiny, device="cpu")([{"text": ROWS[1]["text"]}])
    assert found[1]["scores"] == pytest.approx(alone["scores"], abs=1e-5)


def test_training(failure, tiny):
    examples = [PairDataset(Table(ROWS, None, "data"), COLUMNS, [0, 1, 0], tiny[1])[row] for row in range(3)]
    assert [(example.status, example.reason) for example in examples] == [("ok", ""), failure, ("ok", "")]
    assert [example.pixel_values is None for example in examples] == [False, True, False]


def test_the_cache(failure, tiny):
    rows = RowsToEncode(Table(ROWS, None, "data"), COLUMNS, range(3))
    pictures = _Pictures([(rows, row) for row in range(3)], tiny[1].image_processor)
    assert pictures[1] == failure
    assert pictures[0].shape == pictures[2].shape


REFUSALS = [MemoryError(), ValueError("no such word\nat all"), RuntimeError("a panic in Rust")]


@pytest.fixture(params=REFUSALS, ids=lambda error: type(error).__name__)
def refusal(request, monkeypatch) -> tuple[str, str]:
    """The tokenizer fails on texts that say blue; the status and the reason that such a row must have."""
    pieces = DiptychProcessor.pieces

    def fail(self, texts):
        if any("blue" in text for text in texts):
            raise request.param
        return pieces(self, texts)

    monkeypatch.setattr(DiptychProcessor, "pieces", fail)
    return "text_unreadable", f"the text cannot be tokenized: {reason(request.param)}"


def blue_at(where: int, *, image: bool = True) -> list[dict[str, Any]]:
    return [row | {"text": "a blue shirt" if n == where else "a red shirt"}
            | ({} if image or n != where else {"image": None}) for n, row in enumerate(ROWS)]  # fmt: skip


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("where", [0, 2])
def test_a_text_that_the_tokenizer_refuses_in_training(refusal, where, ids, tiny):
    examples = PairDataset(Table(blue_at(where), None, "data"), COLUMNS, [0, 1, 0], tiny[1], ids=ids)
    batch = Collate(tiny[1])([examples[n] for n in range(3)])
    assert batch["problems"] == [(where, *refusal)]
    assert batch["text_present"].tolist() == [n != where for n in range(3)]
    assert batch["image_present"].tolist() == [True] * 3
    if ids:
        assert [int(found) == 0 for found in batch["text_ids"]] == [n == where for n in range(3)]
    rest = Collate(tiny[1])([examples[n] for n in range(3) if n != where])
    kept = torch.tensor([n for n in range(3) if n != where])
    assert torch.equal(batch["input_ids"][kept], rest["input_ids"]), "its neighbours are what they are without it"


def test_a_row_without_an_image_whose_text_the_tokenizer_refuses(refusal, tiny):
    examples = PairDataset(Table(blue_at(1, image=False), None, "data"), COLUMNS, [0, 1, 0], tiny[1])
    ((row, status, reason),) = Collate(tiny[1])([examples[n] for n in range(3)])["problems"]
    assert (row, status) == (1, "both_missing")
    assert "there is no image" in reason
    assert refusal[1] in reason


def test_a_text_that_the_tokenizer_refuses_in_the_cache(refusal, tiny, tmp_path):
    wanted = RowsToEncode(Table(blue_at(1), None, "data"), COLUMNS, range(3))
    (features,) = encode_texts(*tiny, [wanted], tmp_path)
    assert features.problems == {1: refusal}
    assert features.batch([0, 1, 2])["text_present"].tolist() == [True, False, True]


def test_a_text_that_the_tokenizer_refuses_in_a_check(tmp_path):
    def count(text: str) -> int:
        if "blue" in text:
            raise RuntimeError("a panic in Rust")
        return len(text)

    bad: list[Any] = []
    table = Table(blue_at(1), None, "data")
    found = scan(table, COLUMNS, {}, on_bad_row=lambda *row: bad.append(row), count_tokens=count)
    assert found["length"].tolist() == [11, 0, 11]
    assert bad == [(1, "text_unreadable", "the text cannot be tokenized: a panic in Rust")]


@pytest.mark.parametrize("cache", [False, True])
def test_a_run_goes_on_past_a_text_that_the_tokenizer_refuses(cache, pairs, text_folder, tmp_path, monkeypatch):
    pieces = DiptychProcessor.pieces

    def fail(self, texts):
        if any("green" in text for text in texts):
            raise RuntimeError("a panic in Rust")
        return pieces(self, texts)

    monkeypatch.setattr(DiptychProcessor, "pieces", fail)
    texts = ["a green shoe" if n == 3 else text for n, text in enumerate(pairs["text"][:16])]
    train = pairs.select(range(16)).remove_columns("text").add_column("text", texts)
    data = DatasetDict(train=train, validation=pairs.select(range(16, 32)))
    lines: list[str] = []
    options: dict[str, Any] = {"epochs": 1, "batch_size": 4, "say": lines.append}
    run(data, tmp_path / "run", text_folder, cache=cache, cache_dir=str(tmp_path / "cache"), **options)
    assert any("1 text_unreadable" in line for line in lines), lines


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_text_that_the_tokenizer_refuses_in_classifying(refusal, where, tiny):
    found = ImageTextClassifier(*tiny, device="cpu")(blue_at(where), batch_size=3)
    assert [row["status"] for row in found] == ["text_unreadable" if n == where else "ok" for n in range(3)]
    assert (found[where]["status"], found[where]["reason"]) == refusal
    assert found[where]["text_contribution"] == 0 != found[where]["image_contribution"]
    (alone,) = ImageTextClassifier(*tiny, device="cpu")([{"image": blue_at(where)[where]["image"]}])
    assert found[where]["scores"] == pytest.approx(alone["scores"], abs=1e-5)
