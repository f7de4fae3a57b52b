"""The store of features: whole chunks, by encoder and content, for any number of writers."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from diptych.pipeline.feature_cache import store as module
from diptych.pipeline.feature_cache.folder import cache_folder, cached_encoders, clear_cache, require_room
from diptych.pipeline.feature_cache.store import DoesNotFit, FeatureStore, item_id, trunk_key
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

WIDTH = 4


def store(folder: Path, key: str = "encoder", said: list[str] | None = None) -> FeatureStore:
    """Of what is on the disk now."""
    found = FeatureStore(
        folder, key, width=WIDTH, about={"encoder": "a test"}, say=[].append if said is None else said.append
    )
    found.refresh()
    return found


def states(tokens: int, value: float) -> torch.Tensor:
    return torch.full((tokens, WIDTH), value)


def fill(folder: Path, **items: tuple[int, float]) -> None:
    """Write one chunk: by name, how many tokens of what value."""
    with store(folder).writer() as writer:
        for name, (tokens, value) in items.items():
            writer.add(item_id(name.encode()), states(tokens, value))


def values(found: FeatureStore, *names: str) -> list[float | None]:
    """The value that each item was written with."""
    places = found.find(item_id(name.encode()) for name in names)
    read, lengths = found.read(places, range(len(names)))
    return [float(row[0, 0]) if length else None for row, length in zip(read, lengths, strict=True)]


def chunks(folder: Path) -> list[Path]:
    return sorted((folder / "features" / "encoder").glob("*.safetensors"))


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4),
    draw=st.randoms(use_true_random=False),
)
def test_what_is_written_is_read_in_any_order_with_padding_behind(sizes, draw):
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for chunk, lengths in enumerate(sizes):
            with store(Path(folder)).writer() as writer:
                for index, tokens in enumerate(lengths):
                    item = item_id(f"{chunk} {index}".encode())
                    expected[item] = torch.randn(tokens, WIDTH).half()
                    writer.add(item, expected[item].float())
        asked = [*expected, item_id(b"never written"), None]
        draw.shuffle(asked)
        found = store(Path(folder))
        assert len(found) == len(expected)
        read, lengths = found.read(found.find(asked), range(len(asked)))
        assert read.dtype == torch.float16
        assert read.shape == (len(asked), max(map(len, expected.values())), WIDTH)
        for item, row, length in zip(asked, read, lengths.tolist(), strict=True):
            assert length == len(expected.get(item, ()))
            assert not length or torch.equal(row[:length], expected[item])
            assert not row[length:].any()


def test_a_copy_in_another_process_opens_the_chunks_itself(tmp_path):
    fill(tmp_path, a=(2, 1.0), b=(3, 2.0))
    found = store(tmp_path)
    places = found.find([item_id(b"b"), item_id(b"a")])
    sent = pickle.dumps(found)
    assert len(sent) < 2000  # not what it has mapped
    read, lengths = pickle.loads(sent).read(places, [1, 0])
    assert (read[:, 0, 0].tolist(), lengths.tolist()) == ([1.0, 2.0], [2, 3])


def test_features_in_another_order_of_memory_are_written_as_they_are(tmp_path):
    grid = torch.arange(6.0).reshape(WIDTH - 2, 3).repeat(2, 1)  # (width, regions), as a trunk gives it
    with store(tmp_path).writer() as writer:
        writer.add(item_id(b"a"), grid.T)
    found = store(tmp_path)
    assert torch.equal(found.read(found.find([item_id(b"a")]), [0])[0][0], grid.T.half())


def test_a_chunk_is_written_when_it_is_large_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 * WIDTH * 2 * 3)  # three tokens of two bytes a number, twice
    with store(tmp_path).writer() as writer:
        for index in range(4):
            writer.add(item_id(bytes([index])), states(3, index))
            assert len(chunks(tmp_path)) == (index + 1) // 2
    assert len(chunks(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "no header", "shape"])
def test_a_damaged_chunk_is_said_and_what_it_held_is_new_again(damage, tmp_path):
    fill(tmp_path, a=(2, 1.0))
    [bad] = chunks(tmp_path)
    fill(tmp_path, b=(3, 2.0))
    content = bad.read_bytes()
    flipped = bytearray(content)
    flipped[-40] ^= 1
    bad.write_bytes(
        {
            "cut": content[:-7],
            "flip": bytes(flipped),
            "empty": b"",
            "no header": b"\xff" * 64,
            "shape": content.replace(b'"shape":[2,4]', b'"shape":[4,2]'),
        }[damage]
    )
    said: list[str] = []
    found = store(tmp_path, said=said)
    assert values(found, "a", "b") == [None, 2.0]
    assert len(said) == 1
    assert str(bad) in said[0]
    ours = damage not in ("empty", "no header")  # in which nothing says so any more
    assert ("encoded again" if ours else "it stays, and is not read") in said[0]
    fill(tmp_path, a=(2, 3.0))
    assert values(store(tmp_path, said=said), "a", "b") == [3.0, 2.0]
    assert bad.exists() is not ours
    assert len(said) == (1 if ours else 2)


def test_a_store_of_another_width_reads_nothing(tmp_path):
    fill(tmp_path, a=(2, 1.0))
    said: list[str] = []
    found = FeatureStore(tmp_path, "encoder", width=WIDTH + 1, about={}, say=said.append)
    found.refresh()
    assert (len(found), len(said)) == (0, 1)


def _write(folder: str, name: int, kill: bool) -> None:
    """In a process of its own: forty chunks, or killed in the middle of the third."""
    folder = Path(folder)
    replace = Path.replace
    written = []

    def dying(self: Path, target: Path) -> Path:
        written.append(target)
        if kill and len(written) == 4:  # the first is encoder.json
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = dying  # type: ignore[method-assign]
    module.CHUNK_BYTES = 1
    with store(folder).writer() as writer:
        for index in range(40):
            writer.add(item_id(f"{index}".encode()), states(1 + index % 3, index))


@pytest.mark.parametrize("kill", [False, True])
def test_writers_at_once_and_one_that_is_killed_leave_only_whole_chunks(kill, tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), n, kill and n == 0)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [w.exitcode for w in writers] == [-signal.SIGKILL if kill else 0, 0, 0]
    said: list[str] = []
    found = store(tmp_path, said=said)
    assert values(found, *map(str, range(40))) == list(range(40))
    assert said == []
    left = [path for path in (tmp_path / "features" / "encoder").iterdir() if path.name.startswith(".")]
    assert len(left) <= kill  # half a chunk, unless another writer has removed it already
    store(tmp_path).writer()
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("value", [70_000.0, -1e30, float("inf"), float("nan")])
def test_what_half_precision_cannot_hold_is_refused_and_not_written(value, tmp_path):
    with pytest.raises(DoesNotFit, match="65,504"), store(tmp_path).writer() as writer:
        writer.add(item_id(b"a"), states(2, value))
    assert not chunks(tmp_path)


def test_an_interrupt_keeps_what_was_encoded(tmp_path):
    def encode() -> None:
        with store(tmp_path).writer() as writer:
            writer.add(item_id(b"a"), states(2, 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode()
    assert values(store(tmp_path), "a") == [1.0]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    writer = store(tmp_path).writer()
    writer.add(item_id(b"a"), states(2, 1.0))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.write()
    assert [path.name for path in (tmp_path / "features" / "encoder").iterdir()] == ["encoder.json"]


def test_too_small_a_disk_is_told_before_anything_is_encoded(tmp_path):
    require_room(tmp_path, 1000)
    with pytest.raises(ValueError, match=r"need 1,000,000,000\.0 GB in .* are free; .*--cache-dir.*--no-cache"):
        require_room(tmp_path, 10**18)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written to .*--no-cache"):
        require_room(tmp_path / "file" / "cache", 1)


@settings(deadline=None)
@given(st.lists(st.lists(st.binary(max_size=4), max_size=3), min_size=2, max_size=2, unique_by=tuple))
def test_other_parts_have_other_ids(parts):
    assert item_id(*parts[0]) != item_id(*parts[1])
    assert item_id(*parts[0]) == item_id(*list(parts[0]))


def trunk() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@settings(deadline=None)
@given(which=st.integers(0, 100), place=st.integers(0, 100))
def test_any_weight_or_statistic_that_changes_is_another_encoder(which, place):
    changed = trunk()
    tensors = list(changed.state_dict().values())
    flat = tensors[which % len(tensors)].view(-1)
    flat[place % len(flat)] += 1
    assert trunk_key(changed) != trunk_key(trunk())
    assert trunk_key(trunk()) == trunk_key(trunk())


def test_facts_are_part_of_the_encoder():
    keys = {trunk_key(trunk(), **facts) for facts in ({}, {"grid": 0}, {"grid": 4}, {"transforms": {"mean": [0.5]}})}
    assert len(keys) == 4
    half = trunk_key(trunk().half())
    assert half not in keys


def test_a_later_way_to_encode_is_another_encoder(monkeypatch):
    before = trunk_key(trunk())
    monkeypatch.setattr(module, "ENCODING", module.ENCODING + 1)
    assert trunk_key(trunk()) != before


def test_the_cache_is_where_it_was_asked_for(monkeypatch, tmp_path):
    for name in ("DIPTYCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "diptych"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "diptych"
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "ours"))
    assert cache_folder() == tmp_path / "ours"
    assert cache_folder(tmp_path / "chosen") == tmp_path / "chosen"
    assert cache_folder("~/here") == Path.home() / "here"


def test_the_cache_tells_what_it_holds_and_can_be_cleared(tmp_path):
    assert cached_encoders(tmp_path) == []
    fill(tmp_path, a=(2, 1.0), b=(3, 2.0))
    fill(tmp_path, c=(1, 3.0))
    found = store(tmp_path)
    [entry] = cached_encoders(tmp_path)
    assert (entry["encoder"], entry["key"], entry["items"], entry["width"]) == ("a test", "encoder", 3, WIDTH)
    assert entry["bytes"] == sum(path.stat().st_size for path in (tmp_path / "features" / "encoder").iterdir())
    assert clear_cache(tmp_path) == [f"{tmp_path / 'features' / 'encoder'} stays: a run is using it"]
    read = values(found, "a", "c")
    assert read == [1.0, 3.0]
    del found
    assert clear_cache(tmp_path) == []
    assert cached_encoders(tmp_path) == []


DECOYS = {
    "features/mine/notes.txt": b"of the user",
    "features/encoder/model.safetensors": b"of the user",
    "features/encoder/0123456789abcdef0123456789abcdef.safetensors": b"of the user",
    "features/encoder/.x.safetensors.diptych/new.safetensors": b"of the user",
    "features/other/encoder.json": b"{}",
    "encoder.json": b'{"diptych": "", "width": 4}',
}


def test_only_what_is_ours_is_cleared_or_taken_away(tmp_path):
    for name, content in DECOYS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    fill(tmp_path, a=(2, 1.0))
    assert values(store(tmp_path), "a") == [1.0]
    stays = clear_cache(tmp_path)
    assert [line.split("features/")[1] for line in stays] == [
        "encoder stays: others have put something there",
        "mine stays: it is not marked as of diptych",
        "other stays: it is not marked as of diptych",
    ]
    assert {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == DECOYS


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM, None])
def test_an_error_that_passes_takes_nothing_away(tmp_path, monkeypatch, number):
    fill(tmp_path, a=(2, 1.0))
    [path], said = chunks(tmp_path), []

    def fails(*_, **__):
        raise MemoryError if number is None else OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(module.np, "fromfile", fails)
        assert values(store(tmp_path, said=said), "a") == [None]
    assert len(said) == 1
    assert "cannot be read" in said[0]
    assert path.exists()
    assert values(store(tmp_path), "a") == [1.0]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def another(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("change", [cut, zero, another, Path.unlink])
def test_a_chunk_that_is_changed_while_in_use_is_an_error_and_no_crash(tmp_path, change):
    fill(tmp_path, a=(200, 1.0), b=(200, 2.0))
    found = store(tmp_path)
    assert values(found, "a", "b") == [1.0, 2.0]
    [path] = chunks(tmp_path)
    change(path)
    with pytest.raises(OSError, match=rf"was (cut off|changed) while it was in use|No such file.*{path.name}"):
        values(found, "a", "b")
