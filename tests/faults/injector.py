"""Faults on purpose: at a call of ours that opens, reads, writes, renames, syncs or removes, an error or a SIGKILL.

Python's audit events tell of most of these calls; what has no event is wrapped. A call site is a line of `pipeline/`,
the innermost on the stack, and what it does.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from diptych import pipeline
from diptych.pipeline.training import checkpoints

ERRORS = (errno.EACCES, errno.EIO, errno.ENOSPC, errno.EMFILE)
KILL = 0
"""In the place of an error: the process is killed."""
OURS = pipeline.__path__[0]
EVENTS = {
    *("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "os.chmod", "fcntl.flock"),
    *("shutil.rmtree", "shutil.copytree", "shutil.copyfile"),
}
Site = tuple[str, str]
"""What is done, and the line that does it."""


class Faults:
    """Counts calls by site; the call `at` of `site` fails."""

    def __init__(self) -> None:
        self.calls: Counter[Site] = Counter()
        self.site: Site | None = None
        self.at = self.error = 0
        self.struck = False

    def call(self, what: str) -> None:
        """A call of this kind is about to be made; raises if it is to fail."""
        line = _own_line()
        if line is None:
            return
        site = (what, line)
        self.calls[site] += 1
        if site == self.site and self.calls[site] == self.at and not self.struck:
            self.struck = True
            if self.error == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.error, os.strerror(self.error))


_active: list[Faults] = []


def _own_line() -> str | None:
    frame = sys._getframe(2)
    for _ in range(40):
        if frame.f_code.co_filename.startswith(OURS):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        if frame.f_back is None or "importlib" in frame.f_code.co_filename:
            return None
        frame = frame.f_back
    return None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active or event not in EVENTS:
        return
    if event == "open" and str(arguments[0]).endswith((".py", ".pyc", ".so")):
        return
    _active[-1].call(event)


sys.addaudithook(_audit)


@contextlib.contextmanager
def faults(site: Site | None = None, at: int = 0, error: int = 0) -> Iterator[Faults]:
    """While it is entered, calls are counted, and the one that was named fails."""
    found = Faults()
    found.site, found.at, found.error = site, at, error

    def wrapped(what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **others: Any) -> Any:
            found.call(what)
            return original(*arguments, **others)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for holder, name in (
            (os, "fsync"),
            (os, "preadv"),
            (np, "fromfile"),
            (checkpoints, "save_file"),
            (pq.ParquetWriter, "write_table"),
            (Path, "write_bytes"),
            (Path, "write_text"),
            (Path, "read_bytes"),
            (Path, "read_text"),
            (Path, "stat"),
        ):
            patch.setattr(holder, name, wrapped(name, getattr(holder, name)))
        _active.append(found)
        try:
            yield found
        finally:
            _active.pop()


def in_child(work: Callable[[], Any]) -> int:
    """Do it in a forked process; its exit code, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            sys.stdout = sys.stderr = io.StringIO()
            work()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """All that is in a folder: files with their content, links with their targets, folders."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found
