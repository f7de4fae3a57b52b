"""Files: paths as users write them, reasons and sizes for people, digests, and locks that end with their owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar


def reason(error: BaseException) -> str:
    """Why something failed, in one line: what the system says, or the first line of the message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def writing_to(out: object) -> Iterator[None]:
    """Name an output in an error of the disk.

    Raises:
        ValueError: It cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and str(out) == "-":  # who reads standard output has seen enough
            raise
        raise ValueError(f"{out} cannot be written to ({reason(error)}); choose another --out") from error


def megabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, its tilde expanded.

    Raises:
        ValueError: It is empty, or there is no home folder for the tilde.
    """
    if isinstance(path, str) and not path.strip():  # it would be the current folder
        raise ValueError("a path is empty: write it out, . for the current folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no home folder for {Path(path).parts[0]}; write the path out") from error


def existing(path: str) -> Path | None:
    """The file or folder that is there by this name; None if there is none, or it is no path at all."""
    try:
        found = user_path(path)
        return found if found.exists() else None
    except (OSError, ValueError):  # too long for a path, or of nobody's home folder
        return None


def same_file(one: Path | int, other: Path | int) -> bool:
    """Whether two paths or descriptors are one regular file, whatever links lead to it."""
    try:
        first, second = (os.stat(what) for what in (one, other))  # noqa: PTH116 - a descriptor has no path
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, would outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(files: Iterable[Path]) -> str:
    """A hash of the content of files, in this order."""
    import hashlib  # half as long to load as all commands' help

    found = hashlib.blake2b(digest_size=16)
    for path in files:
        with path.open("rb") as file:
            found.update(path.stat().st_size.to_bytes(8, "little"))
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def entries_below(
    folder: Path, closed: Callable[[Path, OSError], Any] | None = None, *, depth: int | None = None
) -> Iterator[Path]:
    """All that is in a folder and in those below it; unlike `Path.glob` it leaves nothing out without a word.

    Args:
        closed: What to do about a folder below it that cannot be listed; raise if not given.
        depth: How deep to look, links to folders among them; to the end, but not behind links, if not given.

    Raises:
        OSError: The folder cannot be listed.
    """
    for entry in sorted(folder.iterdir()):
        yield entry
        deeper = not entry.is_symlink() if depth is None else depth > 1
        if deeper and entry.is_dir():
            try:
                yield from entries_below(entry, closed, depth=None if depth is None else depth - 1)
            except OSError as error:
                if closed is None:
                    raise
                closed(entry, error)


class Lock:
    """A lock on a file or folder; it ends with `release`, or with this process, however that ends.

    On a file system that has no locks it locks nothing.

    Args:
        path: Is there, unless `make`.
        shared: Any number of processes may hold it at once, if all of them share.
        wait: Wait for others to release it.

    Raises:
        BlockingIOError: Another holds it.
        OSError: It cannot be opened.
    """

    _held: ClassVar[set[int]] = set()

    def __init__(self, path: Path, *, shared: bool = False, wait: bool = False, make: bool = False) -> None:
        self.path, self._handle = path, -1
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT if make else os.O_RDONLY, 0o644)
        Lock._held.add(self._handle)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._handle, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise
        except OSError:
            pass

    def is_of_path(self) -> bool:
        """Whether the path still leads to what is locked."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._handle), self.path.stat())
        return False

    def release(self) -> None:
        """Let others have it."""
        if self._handle in Lock._held:
            Lock._held.remove(self._handle)
            os.close(self._handle)
            self._handle = -1  # the next file that is opened has the same number

    __del__ = release

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()

    @classmethod
    def leave_to_parent(cls) -> None:
        """In a child after a fork, such as a loader's worker, which may outlive its parent: hold none of its locks."""
        while cls._held:
            os.close(cls._held.pop())


os.register_at_fork(after_in_child=Lock.leave_to_parent)
