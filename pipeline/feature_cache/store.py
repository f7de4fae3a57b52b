"""The feature cache: what a frozen trunk puts out, kept on disk by what went in, so that it is computed once.

    CACHE/features/<encoder>/encoder.json         what the encoder is, for people
    CACHE/features/<encoder>/<number>.safetensors   a chunk: `states` (tokens, width) in half precision,
                                                  `offsets` (items + 1,) into them, `ids` (items, 16)

`<encoder>` is a hash of all that shapes a feature but the item itself: weights, architecture, transforms. An
item's id is a hash of its content. So nothing is ever out of date: what has changed has another name. A
chunk is written beside its place, flushed to the disk and renamed, so it is whole or not there; names are
random, so that any number of processes may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from ..runtime.outputs import write_whole
from ..runtime.version import __version__

CHUNK_BYTES = 64 << 20
"""A chunk is written when it has reached this size; a process that is killed loses no more."""
ENCODING = 2
"""Part of every encoder's hash: to be raised when decoding, transforms or encoding come to give other numbers."""
_LEFT_OVER = 24 * 3600
"""Seconds after which half a chunk is of a process that was killed."""


class DoesNotFit(ValueError):
    """Features that half precision cannot hold: such an encoder is not cached."""


@dataclass(frozen=True)
class Places:
    """Where the features of n items stand.

    Attributes:
        chunk: (n,), index of the chunk; -1 where there is no feature.
        start: (n,), first token in it.
        length: (n,), tokens; 0 where there is no feature.
    """

    chunk: np.ndarray
    start: np.ndarray
    length: np.ndarray


class FeatureStore:
    """The features of one encoder on disk, read through the page cache, never as a whole.

    Args:
        folder: Of the cache.
        key: Of the encoder, from `trunk_key`.
        width: Numbers of a token.
        about: What to tell people of the encoder.
        say: What to do with a line about a chunk that is damaged.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        width: int,
        about: Mapping[str, Any],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.width, self.about, self.say = folder / "features" / key, width, dict(about), say
        self._files: list[Path] = []  # in the order in which they were met
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._states: dict[int, np.ndarray] = {}  # of the chunks that were read from

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: it opens the chunks itself, and asks for places only."""
        return self.__dict__ | {"_states": {}, "_places": {}, "say": print}

    def __len__(self) -> int:
        """How many items are known."""
        return len(self._places)

    def refresh(self) -> None:
        """Take in the chunks that have come since. A damaged one is said, and taken away: its items are new again."""
        known = set(self._files)
        for path in sorted(set(self.folder.glob("*.safetensors")) - known):
            try:
                states, offsets, ids = _open(path, self.width)
            except FileNotFoundError:
                continue  # another process has found it damaged, or someone has cleared the cache
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.say(f"features: {path} is damaged ({error}); what it held is encoded again")
                path.unlink(missing_ok=True)
                continue
            number = len(self._files)
            self._files.append(path)
            self._states[number] = states
            names, ends = ids.tobytes(), offsets.tolist()
            for index, (start, end) in enumerate(pairwise(ends)):
                self._places.setdefault(names[16 * index : 16 * index + 16], (number, start, end - start))

    def __contains__(self, item: bytes) -> bool:
        return item in self._places

    def find(self, items: Iterable[bytes | None]) -> Places:
        """Places of these items, none where there is no feature; None stands for an item that is not there."""
        nowhere = (-1, 0, 0)
        found = [nowhere if item is None else self._places.get(item, nowhere) for item in items]
        table = np.array(found, dtype=np.int64).reshape(-1, 3)
        return Places(table[:, 0].astype(np.int32), table[:, 1], table[:, 2].astype(np.int32))

    def read(self, places: Places, rows: Sequence[int], *, tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Features of these rows of `places`, in half precision: (rows, tokens, width), and how many tokens each has.

        Args:
            places: As `find` gives them.
            rows: Indices into `places`.
            tokens: Of the longest; as many as it has if not given. Shorter ones are followed by 0.
        """
        lengths = places.length[rows]
        tokens = max(1, int(lengths.max(initial=0))) if tokens is None else tokens
        states = np.zeros((len(rows), tokens, self.width), dtype=np.float16)
        chunks, starts = places.chunk[rows], places.start[rows]
        for number in np.unique(chunks[chunks >= 0]).tolist():
            here, chunk = np.flatnonzero(chunks == number), self._chunk(number)
            if tokens == 1:  # a vector of each: in one go
                states[here, 0] = chunk[starts[here]]
                continue
            for index, start, length in zip(here, starts[here].tolist(), lengths[here].tolist(), strict=True):
                states[index, :length] = chunk[start : start + length]
        return torch.from_numpy(states), torch.from_numpy(lengths.astype(np.int64))

    def _chunk(self, number: int) -> np.ndarray:
        if number not in self._states:
            self._states[number] = _open(self._files[number], self.width, verify=False)[0]
        return self._states[number]

    def writer(self) -> ChunkWriter:
        """What takes new features; makes the encoder's folder if need be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "encoder.json"
        if not about.exists():
            facts = self.about | {"width": self.width, "diptych": __version__}
            write_whole(about, (json.dumps(facts, indent=2, default=str) + "\n").encode())
        for left in self.folder.glob(".*"):
            with contextlib.suppress(FileNotFoundError):  # of another process, which has just put it in its place
                if time.time() - left.stat().st_mtime > _LEFT_OVER:
                    left.unlink()
        return ChunkWriter(self.folder, self.width)


class ChunkWriter:
    """Collects features and writes them chunk by chunk; a context manager, which writes the last one at its end.

    Args:
        folder: Of the encoder.
        width: Numbers of a token.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self._ids: list[bytes] = []
        self._states: list[np.ndarray] = []
        self._bytes = 0

    def add(self, item: bytes, states: Tensor) -> None:
        """Take the features (tokens, width) of an item.

        Raises:
            DoesNotFit: Half precision cannot hold them.
            OSError: A chunk was due and cannot be written.
        """
        half = states.half()
        if not bool(half.isfinite().all()):
            raise DoesNotFit("there are values beyond 65,504, or none that is a number")
        self._ids.append(item)
        self._states.append(half.contiguous().cpu().numpy())  # safetensors would write another order as it is
        self._bytes += self._states[-1].nbytes
        if self._bytes >= CHUNK_BYTES:
            self.write()

    def write(self) -> None:
        """Write what was collected, if anything was.

        Raises:
            OSError: It cannot be written.
        """
        if not self._ids:
            return
        states = np.concatenate(self._states)
        offsets = np.cumsum([0, *(len(part) for part in self._states)], dtype=np.int64)
        ids = np.frombuffer(b"".join(self._ids), dtype=np.uint8).reshape(len(self._ids), -1)
        check = _checksum(states, offsets, ids)
        content = save({"states": states, "offsets": offsets, "ids": ids}, metadata={"crc32": str(check)})
        write_whole(self.folder / f"{uuid.uuid4().hex}.safetensors", content)
        self._ids, self._states, self._bytes = [], [], 0

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, (OSError, DoesNotFit)):  # what was encoded before an interrupt is kept
            self.write()


def trunk_key(trunk: nn.Module, **facts: Any) -> str:
    """A hash of a trunk's weights, its buffers among them, and of the `facts` that shape what it puts out."""
    found = hashlib.blake2b(digest_size=16)
    found.update(json.dumps([ENCODING, facts], sort_keys=True, default=str).encode())
    for name, tensor in sorted(trunk.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def item_id(*parts: bytes) -> bytes:
    """16 bytes, equal for equal contents: parts that are cut elsewhere are others."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def _open(path: Path, width: int, *, verify: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, offsets and ids of a chunk, mapped.

    Raises:
        OSError: It cannot be read.
        ValueError, KeyError, TypeError: It is not whole, or not what was written.
    """
    header, start = _header(path)
    parts = []
    for name, dtype in (("states", np.float16), ("offsets", np.int64), ("ids", np.uint8)):
        begin, end = header[name]["data_offsets"]
        shape = tuple(header[name]["shape"])
        if end - begin != np.dtype(dtype).itemsize * int(np.prod(shape)) or path.stat().st_size < start + end:
            raise ValueError("it is cut off")
        mapped = np.memmap(path, dtype=dtype, mode="r", offset=start + begin, shape=shape)
        parts.append(mapped.view(np.ndarray))  # whose slices cost a third of a memmap's
    states, offsets, ids = parts
    if verify:  # reading it from end to end also brings it into memory, as epochs in a random order would not
        if _checksum(states, offsets, ids) != int(header["__metadata__"]["crc32"]):
            raise ValueError("its checksum is wrong")
        if states.shape != (offsets[-1], width) or len(ids) != len(offsets) - 1 or ids.shape[1:] != (16,):
            raise ValueError("its parts don't fit together")
    return states, offsets, ids


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What stands before the tensors of a safetensors file, and where they begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= 1 << 16:
            raise ValueError("it has no header")
        return dict(json.loads(file.read(length))), 8 + length


def _checksum(*parts: np.ndarray) -> int:
    check = 0
    for part in parts:
        check = zlib.crc32(part.reshape(-1).view(np.uint8).data, check)
    return check
