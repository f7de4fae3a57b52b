"""Rows on their way to a model: batches of like length, order, errors in their place, memory."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diptych.pipeline.data.image_source import BadImage
from diptych.pipeline.data.images import read_image
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.inference import prefetch as module
from diptych.pipeline.inference.encoding import InferenceEncoders, RecentFeatures
from diptych.pipeline.inference.prefetch import BatchSize, ahead, windows
from diptych.pipeline.inference.reading import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from ...conftest import build_tiny, picture


@pytest.fixture(scope="module")
def processor(text_folder):
    return build_tiny(text_folder)[1]


def reader(processor, folder=None) -> Reader:
    return Reader(processor, Columns("image", "text"), folder, InferenceEncoders(), RecentFeatures())


WORDS = st.integers(0, 60).map(lambda count: "red " * count)


@settings(deadline=None)
@given(texts=st.lists(WORDS | st.none(), min_size=1, max_size=20), batch_size=st.integers(1, 6))
def test_batches_are_of_like_length_and_lose_no_row(processor, texts, batch_size):
    rows = reader(processor).plan([(number, {"text": text}) for number, text in enumerate(texts)], batch_size)
    assert sorted(row.number for row in rows) == list(range(len(texts)))
    batches, batch = [], []
    for row in rows:
        batch.append(row)
        if row.ends:
            batches.append(batch)
            batch = []
    assert not batch
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches[-1]) <= batch_size
    for before, after in itertools.pairwise(batches):
        assert max(len(row.pieces) for row in before) <= min(len(row.pieces) for row in after)


def test_a_single_batch_stays_in_order(processor):
    rows = reader(processor).plan([(number, {"text": "a " * (5 - number)}) for number in range(5)], 5)
    assert [row.number for row in rows] == list(range(5))


@settings(deadline=None)
@given(texts=st.lists(st.text("ab ?", max_size=120) | WORDS, min_size=1, max_size=6))
def test_pieces_are_those_of_the_tokenizer_counted_before_the_cut(processor, texts):
    found = processor.pieces(texts)
    assert [length for _, length in found] == [len(processor.tokenizer(text)["input_ids"]) for text in texts]
    batch, expected = processor.padded([ids for ids, _ in found]), processor.tokenize(texts)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_pictures_are_normalised_as_one_by_one(processor):
    pictures = [picture("red", seed) for seed in range(3)]
    expected = torch.stack([processor.image_processor.normalize(one) for one in pictures])
    tensors = [torch.tensor(list(one.tobytes()), dtype=torch.uint8).view(16, 16, 3) for one in pictures]
    found = processor.image_processor.pixel_values(tensors, torch.device("cpu"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    off_cpu = processor.image_processor.pixel_values(tensors, torch.device("meta"))
    assert off_cpu.shape == expected.shape


def test_a_window_holds_so_many_rows_or_bytes(monkeypatch):
    monkeypatch.setattr(module, "WINDOW_BYTES", 100)
    rows = [{"image": {"bytes": b"x" * 40, "path": None}, "text": "a" * 10}] * 5
    assert [[number for number, _ in window] for window in windows(rows, lambda: 10)] == [[0, 1], [2, 3], [4]]
    assert [len(window) for window in windows([{"text": "a"}] * 5, lambda: 3)] == [3, 2]
    assert [len(window) for window in windows([{"image": picture("red")}] * 3, lambda: 3)] == [1, 1, 1]
    assert [len(window) for window in windows([None, 3], lambda: 3)] == [2]
    assert list(windows([], lambda: 3)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_is_done_ahead_comes_in_order_and_so_do_errors(workers):
    def source():
        yield from range(20)
        raise OSError("the disk is gone")

    def do(number):
        if number == 30:
            raise ValueError("never")
        return 2 * number

    seen = []
    with ThreadPoolExecutor(workers) if workers else _nothing() as pool:
        with pytest.raises(OSError, match="the disk is gone"):
            seen.extend(ahead(pool, do, source(), lambda: 4))
        assert seen == [2 * number for number in range(20)]
        with pytest.raises(ValueError, match="never"):
            list(ahead(pool, do, [29, 30, 31], lambda: 4))


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def test_no_more_than_so_many_are_ahead():
    taken = []
    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, lambda number: number, (taken.append(n) or n for n in range(20)), lambda: 3)
        next(results)
        assert taken == [0, 1, 2, 3]
        next(results)
        assert taken == [0, 1, 2, 3, 4]


class Memory:
    """A device with room for so many rows."""

    def __init__(self, room: int) -> None:
        self.room, self.tried, self.done = room, [], []

    def __call__(self, rows: list[int]) -> None:
        self.tried.append(len(rows))
        if len(rows) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.done += rows


def test_a_batch_size_grows_until_memory_ends_and_no_row_is_lost():
    memory, size = Memory(100), BatchSize(None, torch.device("cuda"))
    rows = list(range(700))
    position = 0
    while position < len(rows):
        batch = rows[position : position + size.rows]
        position += len(batch)
        size.run(memory, batch)
    assert memory.done == rows
    assert memory.tried[:5] == [32, 64, 128, 64, 64]
    assert set(memory.tried[5:-1]) == {64}  # what failed is not tried again
    memory.room = 10
    size.run(memory, rows[:64])
    assert memory.done[-64:] == rows[:64]
    assert size.rows == 8


def test_a_batch_size_has_an_end():
    memory, size = Memory(10**6), BatchSize(None, torch.device("cuda"))
    for _ in range(10):
        size.run(memory, [0] * size.rows)
    assert size.rows == BatchSize.LARGEST


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        (BatchSize(8, torch.device("cuda")), 8),
        (BatchSize(None, torch.device("cpu")), 32),
        (BatchSize(None, torch.device("cuda")), 1),
    ],
)
def test_a_size_that_was_given_and_a_single_row_are_not_divided(size, rows):
    memory = Memory(0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        size.run(memory, list(range(rows)))
    assert memory.tried == [rows]


def test_files_say_what_they_say_without_being_read_first(processor, tmp_path):
    picture("red").save(tmp_path / "good.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    sources = ["good.png", "junk.png", "empty.png", "folder.png", "gone.png", "good.png/x", "data:image/png;base64,aa"]
    sources += ["https://example.com/a.png", " ", None, 3, "a\0b", "x" * 5000, tmp_path / "good.png"]
    sources += [str(tmp_path / "junk.png"), {"bytes": None, "path": "junk.png"}, {"bytes": b"junk", "path": "y.png"}]
    sources += [memoryview(b"junk"), BadImage("image_missing", "not fetched")]
    found = reader(processor, tmp_path)
    for row in found.plan([(number, {"image": one, "text": "a"}) for number, one in enumerate(sources)], 100):
        try:
            read_image(sources[row.number], folder=tmp_path)
            expected = []
        except BadImage as error:
            expected = [(error.status, str(error))]
        assert found.prepare(row).problems == expected, sources[row.number]
        assert (row.picture is not None) == (not expected)


def test_equal_images_have_equal_keys_whatever_they_come_as(processor, tmp_path):
    picture("red").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    stored = ["a.png", data, {"bytes": data, "path": "other.png"}, bytearray(data), tmp_path / "a.png"]
    rows = [{"image": one, "text": "a"} for one in (*stored, picture("red"), picture("red"), picture("blue"))]
    found = reader(processor, tmp_path)
    keys = [found.prepare(row).picture.key for row in found.plan(list(enumerate(rows)), 100)]
    assert len(set(keys[:5])) == 1
    assert keys[5] == keys[6] != keys[7]


def test_threads_are_gone_when_nobody_asks_for_more():
    before = threading.active_count()
    with ThreadPoolExecutor(2) as pool:
        next(ahead(pool, str, range(100), lambda: 4))
    assert threading.active_count() == before
