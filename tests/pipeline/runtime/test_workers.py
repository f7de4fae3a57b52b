"""A small /dev/shm, few file handles, no home folder: batches come through pipes, or one line says what to do."""

from __future__ import annotations

import logging
import pwd
import resource
from types import SimpleNamespace

import pytest
import torch
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table
from diptych.pipeline.feature_cache.folder import cache_folder, require_room
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.plan import Plan
from diptych.pipeline.loading.stream import PairStream, RowCounts
from diptych.pipeline.runtime import workers

from ...conftest import picture

COLUMNS = Columns("image", "text")
ROWS = [{"image": picture("red", seed=n), "text": f"a red {'shirt' if n % 2 else 'shoe'}"} for n in range(6)]


@pytest.fixture(params=["a table", "a stream"])
def source(request, tiny):
    table = Table(ROWS, None, "data")
    if request.param == "a table":
        return PairDataset(table, COLUMNS, [0, 1] * 3, tiny[1])
    counts = RowCounts(lambda number: True)
    for row in ROWS:
        counts.count(None, row["text"], b"")
    return PairStream(table, counts, COLUMNS, None, tiny[1])


def small(monkeypatch, room: int) -> None:
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=room))


def few(monkeypatch, handles: int) -> None:
    monkeypatch.setattr(workers.resource, "getrlimit", lambda kind: (handles, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("make", "reason"), [((small, 1000), "/dev/shm has room for 0 MB"), ((few, 40), "a process may open 40 files")]
)
def test_batches_of_workers_come_through_pipes_where_memory_is_not_shared(source, monkeypatch, caplog, make, reason):
    plan = Plan(len(ROWS), 2)
    alone = list(source.batches(plan))
    make[0](monkeypatch, make[1])
    with caplog.at_level(logging.WARNING):
        shared = list(source.batches(plan, workers=2))
    assert f"batches of workers go through pipes, more slowly: {reason}" in caplog.text
    assert [batch["rows"] for batch in shared] == [batch["rows"] for batch in alone]
    for ours, theirs in zip(shared, alone, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value


@pytest.mark.parametrize("room", [1 << 30, 10_000, 0])
def test_what_does_for_one_worker_and_not_for_many(monkeypatch, room):
    small(monkeypatch, room)
    batch = {"pixel_values": torch.zeros(1, 3, 16, 16), "rows": [0]}  # 3,072 bytes
    enough = [workers.too_little_shared(count, batch, rows=1) is None for count in (0, 1, 64)]
    assert enough == {1 << 30: [True, True, True], 10_000: [True, False, False], 0: [True, False, False]}[room]


@pytest.mark.parametrize("variables", [{}, {"HOME": ""}, {"HOME": "/nowhere/at/all"}, {"XDG_CACHE_HOME": "/dev/null"}])
def test_a_cache_that_cannot_be_made_is_one_line(monkeypatch, variables):
    for name in ("HOME", "XDG_CACHE_HOME", "DIPTYCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder(None).name == "diptych"
    for place in ("/dev/null/diptych", "/proc/diptych"):
        with pytest.raises(
            ValueError, match=r"cannot be written to \(.*\); choose another --cache-dir, or .*--no-cache"
        ):
            require_room(cache_folder(place), 1)


def test_nobody_has_no_home_and_is_told_what_to_do(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "DIPTYCH_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(
        ValueError, match=r"there is no home folder for ~.*: choose a --cache-dir, or set DIPTYCH_CACHE"
    ):
        cache_folder(None)
    monkeypatch.setenv("DIPTYCH_CACHE", "/tmp/here")
    assert str(cache_folder(None)) == "/tmp/here"
