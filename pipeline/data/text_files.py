"""Files of text: read by lines, each of which can be read again by its place; and rows that stand in them."""

from __future__ import annotations

import os
import re
import shutil
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

from .image_source import what_it_is
from .readers import Rows, scratch_file
from .rows import UnreadableRow

_PEEK = 1000
"""Rows that are read ahead, to see whether a file is a table and which columns it has."""
_LOOK = 1 << 26
"""Bytes of a file that are looked through for its encoding."""
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class TextFile:
    """A file of text by lines, each of which can be read again by its place.

    It is UTF-8, or what its byte order mark says; else Windows-1252, if it has bytes that are no UTF-8 and no
    character that only UTF-8 has.

    Attributes:
        remark: How it is read, if not as UTF-8.

    Raises:
        ValueError: It is no text of a table, such as a pointer of git-lfs.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.remark, self._place = path, "", path
        with path.open("rb") as file:
            head = file.read(1 << 16)
            see_what_it_is(path, head)
            mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
            self.encoding = _MARKS.get(mark, "utf-8")
            if not mark and _is_windows_1252(file, head):
                self.encoding = "cp1252"
        if self.encoding not in ("utf-8", "utf-8-sig"):
            self.remark = f"{path} is read as {'Windows-1252' if self.encoding == 'cp1252' else self.encoding.upper()}"
        self._start = len(mark) if self.encoding == "utf-8-sig" else 0
        self._file: int | None = None
        if self.encoding in ("utf-16", "utf-32"):  # a character has several bytes, of which any may look like an end
            copy = scratch_file(self)
            with self.lines() as text, copy.open("w", encoding="utf-8", errors="surrogateescape", newline="") as lines:
                shutil.copyfileobj(text, lines)
            self.encoding, self._place = "utf-8", copy

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_file": None}

    def lines(self) -> IO[str]:
        """All lines with their ends, those of old Macs as well; bytes that say nothing become lone surrogates.

        So one bad cell is one bad text. The byte order mark is left out.
        """
        return self._place.open(encoding=self.encoding, errors="surrogateescape", newline="")

    def length(self, text: str) -> int:
        """How many bytes a text has in the file."""
        return len(text) if text.isascii() else len(text.encode(self._bytes, "surrogateescape"))

    @property
    def _bytes(self) -> str:
        return "utf-8" if self._start else self.encoding

    def read(self, start: int, end: int) -> str:
        """The text from one place to another, in bytes from the first line; whichever process asks.

        Raises:
            ValueError: The file has changed since it was first read so.
        """
        if self._file is None:
            self._file = os.open(self._place, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            self._stamp = _stamp(self._file)
        if _stamp(self._file) != self._stamp:
            raise ValueError(f"{self.path} was changed while it was read: begin anew")
        return os.pread(self._file, end - start, start + self._start).decode(self._bytes, "surrogateescape")


def _stamp(file: int) -> tuple[int, int]:
    now = os.fstat(file)
    return now.st_size, now.st_mtime_ns


def read_whole(path: Path) -> str:
    """All text of a file, in whatever encoding, without blanks around it.

    Raises:
        ValueError: As of `TextFile`.
    """
    with TextFile(path).lines() as text:
        return text.read().strip()


def see_what_it_is(path: Path, head: bytes) -> None:
    """See that a file is not what often lies in a table's place.

    Raises:
        ValueError: It is a pointer of git-lfs, a web page, or another file that tells itself.
    """
    words = None if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else what_it_is(head[:200])
    if words is not None:
        raise ValueError(f"{path} {words.replace(' and no image', '')}")


def _is_windows_1252(file: IO[bytes], part: bytes) -> bool:
    read = len(part)
    while part and part.isascii() and read < _LOOK:
        part = file.read(1 << 20)
        read += len(part)
    others = re.findall("[^\0-\x7f]", (part + file.read(1 << 16)).decode("utf-8", "surrogateescape"))
    return bool(others) and all("\udc80" <= character <= "\udcff" for character in others)


class FileRows(Rows):
    """The rows of text files, one after another; also by number, from 8 bytes in memory for each.

    Attributes:
        remarks: How they are read, where that does not go without saying.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._texts = [TextFile(file) for file in files]
        self.remarks = [file.remark for file in self._texts if file.remark]
        self._starts: list[array[int]] | None = None
        self._names: list[str] = []
        ahead = list(islice((row for file in self._texts for row in self._read(file)), _PEEK))
        self._ahead = [row for row in ahead if not isinstance(row, UnreadableRow)]
        if ahead and not self._ahead:
            raise ValueError(ahead[0].reason)
        self._names = list(dict.fromkeys(name for row in self._ahead for name in row))

    @property
    def names(self) -> list[str]:
        """The columns of the first rows together."""
        return self._names

    def _read(
        self, file: TextFile, wanted: Callable[[], bool] | None = None, ends: array[int] | None = None
    ) -> Iterator[Any]:
        """The rows of a file; `wanted` is asked once for each, None stands for others; `ends` takes their places."""
        raise NotImplementedError

    def _parse(self, file: TextFile, text: str) -> Any:
        """A row that can be read, from its text."""
        raise NotImplementedError

    def only(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Any]:
        """As of `Rows`."""
        ask = None if wanted is None else partial(next, map(wanted, count()))
        every, whole = len(self._names), self._whole
        for file in self._texts:
            for row in self._read(file, ask):
                as_is = row is None or (self._selected is None and len(row) == every) or isinstance(row, UnreadableRow)
                yield row if as_is else whole(row)

    def _whole(self, row: dict[str, Any]) -> dict[str, Any]:
        if self._selected is not None:
            return {name: row.get(name) for name in self._selected}
        return row if len(row) == len(self._names) else dict.fromkeys(self._names) | row

    def _index(self) -> list[array[int]]:
        """Of each file the places where rows end; what cannot be read is kept."""
        if self._starts is None:
            self._bad: dict[int, UnreadableRow] = {}
            self._before, starts = [0], []
            for file in self._texts:
                ends = array("Q", [0])
                for number, row in enumerate(self._read(file, ends=ends), self._before[-1]):
                    if isinstance(row, UnreadableRow):
                        self._bad[number] = row
                self._before.append(self._before[-1] + len(ends) - 1)
                starts.append(ends)
            self._starts = starts
        return self._starts

    def __len__(self) -> int:
        self._index()
        return self._before[-1]

    def size(self) -> int | None:
        """As of `Rows`."""
        return None if self._starts is None else len(self)

    def __getitem__(self, number: int) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        if number in self._bad:
            return self._bad[number]
        which = bisect_right(self._before, number) - 1
        ends, place = self._index()[which], number - self._before[which]
        file = self._texts[which]
        row = self._parse(file, file.read(ends[place], ends[place + 1]))
        return row if isinstance(row, UnreadableRow) else self._whole(row)
