"""The feature cache: what a frozen trunk puts out, kept on disk by what went in, so that it is computed once.

    CACHE/features/<encoder>/encoder.json         what the encoder is, for people; the mark that the folder is ours
    CACHE/features/<encoder>/<number>.safetensors   a chunk: `states` (tokens, width) in half precision,
                                                  `offsets` (items + 1,) into them, `ids` (items, 16)

`<encoder>` is a hash of all that shapes a feature but the item itself: weights, architecture, transforms. An
item's id is a hash of its content. So nothing is ever out of date: what has changed has another name. A
chunk is written beside its place, synced and renamed, so it is whole or not there; names are random, so that any
number of processes may write at once. It is verified when it is first met, and read only as long as it is that file:
read, not mapped, so that one that is cut off meanwhile is an error and no crash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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

from ..model.fingerprint import hash_weights
from ..runtime.files import Lock, reason
from ..runtime.outputs import remove_leftovers, write_whole
from ..runtime.version import __version__

CHUNK_BYTES = 64 << 20
"""A chunk is written when it has reached this size; a process that is killed loses no more."""
ENCODING = 2
"""Part of every encoder's hash: to be raised when decoding, transforms or encoding come to give other numbers."""
State = tuple[int, int, int]
"""Inode, size in bytes and time of change of a file, by which a chunk is known to be what was verified."""


_MEANWHILE = "while it was in use; the same command encodes again what is missing, with --resume if it has checkpoints"


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
    """The features of one encoder on disk, read as they are asked for; while it lives, nobody clears them.

    Args:
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
        self._chunks: list[tuple[Path, int, State]] = []  # and where the states begin, in the order in which they came
        self._known: set[Path] = set()
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._lock: Lock | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: it asks for places only."""
        return self.__dict__ | {"_places": {}, "_lock": None, "say": print}

    def __len__(self) -> int:
        """How many items are known."""
        return len(self._places)

    def refresh(self) -> None:
        """Take in the chunks that have come since, each verified.

        One that is damaged is printed and removed, one that cannot be read now is printed: their items are new again.
        """
        self._share()
        for path in sorted({path for path in self.folder.glob("*.safetensors") if _is_named(path)} - self._known):
            self._known.add(path)
            try:
                start, state, offsets, ids = _verified(path, self.width)
            except FileNotFoundError:
                continue  # another process has found it damaged
            except (ValueError, KeyError, TypeError) as error:
                ours = is_chunk(path)
                what = "what it held is encoded again" if ours else "and not marked as ours: it stays, and is not read"
                self.say(f"features: {path} is damaged ({reason(error)}); {what}")
                if ours:
                    path.unlink(missing_ok=True)
                continue
            except (OSError, MemoryError) as error:
                self.say(f"features: {path} cannot be read ({reason(error)}); it stays, what it holds is encoded again")
                continue
            number, names = len(self._chunks), ids.tobytes()
            self._chunks.append((path, start, state))
            for index, (begin, end) in enumerate(pairwise(offsets.tolist())):
                self._places.setdefault(names[16 * index : 16 * index + 16], (number, begin, end - begin))

    def _share(self) -> None:
        """Keep others from clearing what is there, if there is anything."""
        if self._lock is None or not self._lock.is_of_path():
            with contextlib.suppress(FileNotFoundError):
                self._lock = Lock(self.folder, shared=True, wait=True)

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
            tokens: Of the longest; as many as it has if not given. Shorter ones are followed by 0.

        Raises:
            OSError: A chunk is not there any more, or not what was verified.
        """
        lengths = places.length[rows]
        tokens = max(1, int(lengths.max(initial=0))) if tokens is None else tokens
        states = np.zeros((len(rows), tokens, self.width), dtype=np.float16)
        chunks, starts, token = places.chunk[rows], places.start[rows], 2 * self.width  # bytes
        for number in np.unique(chunks[chunks >= 0]).tolist():
            path, begin, state = self._chunks[number]
            with path.open("rb", buffering=0) as file:
                for index in np.flatnonzero(chunks == number).tolist():
                    own = states[index, : lengths[index]]
                    if os.preadv(file.fileno(), [own.data], begin + int(starts[index]) * token) != own.nbytes:
                        raise OSError(f"{path} was cut off {_MEANWHILE}")
                if _state(file.fileno()) != state:
                    raise OSError(f"{path} was changed {_MEANWHILE}")
        return torch.from_numpy(states), torch.from_numpy(lengths.astype(np.int64))

    def writer(self) -> ChunkWriter:
        """What takes new features; makes the encoder's folder if need be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "encoder.json"
        if not about.exists():
            facts = self.about | {"width": self.width, "diptych": __version__}
            write_whole(about, (json.dumps(facts, indent=2, default=str) + "\n").encode())
        remove_leftovers(self.folder)
        self._share()
        return ChunkWriter(self.folder, self.width)


class ChunkWriter:
    """Collects features and writes them chunk by chunk; a context manager, which writes the last one at its end.

    Args:
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
    hash_weights(found, trunk)
    return found.hexdigest()


def item_id(*parts: bytes) -> bytes:
    """16 bytes, equal for equal contents: parts that are cut elsewhere are others."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def chunk_items(path: Path) -> int:
    """How many items a chunk of ours holds; 0 if it is none."""
    try:
        return int(_header(path)[0]["ids"]["shape"][0]) if is_chunk(path) else 0
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0


def _is_named(path: Path) -> bool:
    return len(path.stem) == 32 and set(path.stem) <= set("0123456789abcdef")


def is_chunk(path: Path) -> bool:
    """Whether a file is named as a chunk of ours and has its header."""
    try:
        header, _ = _header(path)
        return _is_named(path) and {"states", "offsets", "ids"} <= header.keys() and "crc32" in header["__metadata__"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _state(file: int | Path) -> State:
    found = os.stat(file)  # noqa: PTH116 - of a descriptor as well
    return found.st_ino, found.st_size, found.st_mtime_ns


def _verified(path: Path, width: int) -> tuple[int, State, np.ndarray, np.ndarray]:
    """Where the states of a chunk begin, the state of its file, offsets and ids; all of it was read.

    Raises:
        OSError: It cannot be read.
        ValueError, KeyError, TypeError: It is not whole, or not what was written.
    """
    header, start = _header(path)
    state, parts = _state(path), []
    content = np.fromfile(path, np.uint8)
    for name, dtype in (("states", np.float16), ("offsets", np.int64), ("ids", np.uint8)):
        begin, end = (start + int(place) for place in header[name]["data_offsets"])
        if not start <= begin <= end <= len(content):
            raise ValueError("it is cut off")
        parts.append(np.frombuffer(content[begin:end].tobytes(), dtype).reshape(header[name]["shape"]))
    states, offsets, ids = parts
    if _checksum(*parts) != int(header["__metadata__"]["crc32"]) or state != _state(path):
        raise ValueError("its checksum is wrong")
    if states.shape != (offsets[-1], width) or len(ids) != len(offsets) - 1 or ids.shape[1:] != (16,):
        raise ValueError("its parts don't fit together")
    return start + int(header["states"]["data_offsets"][0]), state, offsets, ids


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
