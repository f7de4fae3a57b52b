"""What fails while a row is made ready is that row's own: its status says so, and its neighbours stay as they are."""

from __future__ import annotations

import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table
from diptych.pipeline.data.values import first_line
from diptych.pipeline.feature_cache.encode import RowsToEncode, _Pictures
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from diptych.pipeline.model.processor import DiptychProcessor

from ...conftest import picture

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
    assert (found[1]["image_weight"], found[1]["text_weight"]) == (0.0, 1.0)


def test_training(failure, tiny):
    examples = [PairDataset(Table(ROWS, None, "data"), COLUMNS, [0, 1, 0], tiny[1])[row] for row in range(3)]
    assert [(example.status, example.reason) for example in examples] == [("ok", ""), failure, ("ok", "")]
    assert [example.pixel_values is None for example in examples] == [False, True, False]


def test_the_cache(failure, tiny):
    rows = RowsToEncode(Table(ROWS, None, "data"), COLUMNS, range(3))
    pictures = _Pictures([(rows, row) for row in range(3)], tiny[1].image_processor)
    assert pictures[1] == failure
    assert pictures[0].shape == pictures[2].shape


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("error", [MemoryError(), ValueError("no such word\nat all"), RuntimeError("a panic in Rust")])
def test_a_text_that_the_tokenizer_refuses(error, where, tiny, monkeypatch):
    pieces = DiptychProcessor.pieces

    def fail(self, texts):
        if any("blue" in text for text in texts):
            raise error
        return pieces(self, texts)

    monkeypatch.setattr(DiptychProcessor, "pieces", fail)
    rows = [row | {"text": "a blue shirt" if number == where else "a red shirt"} for number, row in enumerate(ROWS)]
    found = ImageTextClassifier(*tiny, device="cpu")(rows, batch_size=3)
    assert [row["status"] for row in found] == ["text_unreadable" if n == where else "ok" for n in range(3)]
    assert found[where]["reason"] == f"the text cannot be tokenized: {first_line(error)}"
    assert (found[where]["image_weight"], found[where]["text_weight"]) == (1.0, 0.0)
