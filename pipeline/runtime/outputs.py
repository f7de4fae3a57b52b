"""Outputs that are whole or not there, one writer at a time, and marked: what carries no mark of ours is never removed.

What `path` will be is written in the folder `.<name>.diptych` beside it, whose mark is locked as long as its owner
lives, then synced and renamed. So what a killed process has left is known as such, and the next to write there, or to
read what was there, finishes or undoes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import Lock, digest, entries_below, to_disk, user_path, writing_to
from .version import __version__

MARK = ".diptych.json"
"""In every folder that is ours: in one that is done with the size and hash of each file that we wrote there."""

SIGNATURE = b"Diptych"
"""At the start of each page and picture of ours; a line of JSON begins with its row."""


@contextlib.contextmanager
def beside(path: Path, *, wait: bool = False, replace: bool = True, ours: bool = False) -> Iterator[Path]:
    """A place to write what `path` will be, file or folder; put there when the block ends, removed if it raises.

    If nothing was written, nothing is put there. Of a folder that is replaced, files that are not ours stay in it.

    Args:
        path: A link leads to what is replaced; a pipe or a device is written to as it is.
        wait: For another that is writing `path`.
        replace: What is there may be replaced.
        ours: A folder that is there is known to be ours though it carries no mark, as one of an earlier version.

    Raises:
        ValueError: Another process is writing `path`, or something is there that must not be replaced.
        OSError: It cannot be written; what was there before stays.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device: there is nothing to rename
        yield path
        return
    space = _space(path)
    with _named(path):
        lock = _enter(space, path, wait=wait)
        new = space / f"new{path.suffix}"
        try:
            if not replace:
                see_that_it_is_new(path)
            yield new
            if new.exists():
                if not replace:
                    see_that_it_is_new(path)
                _put(new, path, space / "old", ours=ours)
        finally:
            _leave(space, path, lock)


def see_that_it_is_new(path: Path) -> None:
    """See that nothing is lost by writing a file or folder: it is not there, or empty.

    Raises:
        ValueError: Something is there.
    """
    if any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size:
        raise ValueError(f"{path} is there already: give --overwrite to replace it, or choose another --out")


def see_that_it_is_ours(path: Path) -> None:
    """See that nothing of others is lost by replacing a file whose name is ours: those of ours say so at their start.

    Raises:
        ValueError: Something of others has that name.
    """
    if os.path.lexists(path) and not (path.is_file() and _begins_as_ours(path)):
        raise ValueError(f"{path} is there and not of diptych: choose another --out")


def own_folder(out: str | Path) -> Path:
    """Make the folder `out` for files of ours alone: it is new or empty, or was made by this before.

    Raises:
        ValueError: It holds something else, or cannot be written to.
    """
    folder = writable_folder(out)
    if files_of(folder) != {}:
        if any(folder.iterdir()):
            raise ValueError(
                f"{out} holds files already, and they are not of this version: choose another --out, such as a new "
                "folder"
            )
        _mark(folder, {})
    return folder


def writable_folder(out: str | Path) -> Path:
    """Make the folder `out` if need be, and see that it can be written to.

    Raises:
        ValueError: It cannot.
    """
    folder = user_path(out)
    with writing_to(out):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")  # a full disk takes empty files
            file.flush()
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, on the disk when this returns.

    Raises:
        OSError: It cannot be written; what was there before stays.
    """
    with beside(path, wait=True) as new:
        new.write_bytes(content)


def keep_part(new: Path, path: Path) -> Path | None:
    """Keep what was written of `path` before an error, under a name that says so; None if nothing was."""
    if new == path or not new.exists() or not new.stat().st_size:
        return None
    number, kept = 1, path.with_name(f"{path.stem}.partial{path.suffix}")
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.stem}.partial-{number}{path.suffix}")
    to_disk(new)
    return new.replace(kept)


def restore(path: Path) -> Path:
    """Where a folder is: at `path`, put back there, or made complete, if a process was killed while it replaced it."""
    space = _space(path)
    old = space / "old"
    if not old.exists():
        return path
    try:
        _leave(space, path, _enter(space, path, wait=True))
    except OSError:  # on a disk that is read only
        return path if path.exists() else old
    return path


def remove_leftovers(folder: Path) -> list[Path]:
    """Finish or undo what killed processes were writing in `folder`; what was removed for it."""
    removed = []
    for space in sorted(folder.glob(".*.diptych")):
        with contextlib.suppress(OSError):
            space.rmdir()  # empty, its owner having been killed in its last step
        if not (space / MARK).is_file() or not _is_marked(space / MARK):
            continue
        path = folder / space.name.removeprefix(".").removesuffix(".diptych")
        with contextlib.suppress(OSError, ValueError):  # of one that is writing now, or has just ended
            _leave(space, path, _enter(space, path, wait=False))
            removed.append(space)
    return removed


def files_of(folder: Path) -> dict[str, Any] | None:
    """The files that we wrote in a folder, by name, each with its size and hash; None if it is not marked.

    Raises:
        OSError: The mark is there and cannot be read.
    """
    try:
        files = dict(json.loads((folder / MARK).read_text(encoding="utf-8"))["files"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return None if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files) else files


def damage_of(folder: Path) -> str | None:
    """What is wrong with a folder that we wrote; None if all of its files are what was written.

    Raises:
        OSError: A file is there and cannot be read.
    """
    files = files_of(folder)
    if files is None:
        return f"it lacks {MARK}, or that cannot be read"
    for name, facts in files.items():
        try:
            if facts_of(folder / name) != facts:
                return f"{name} is not what was written"
        except FileNotFoundError:
            return f"it lacks {name}"
    return None


def facts_of(file: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    return {"bytes": file.stat().st_size, "blake2b": digest([file])}


def adopt(folder: Path, manifest: str) -> bool:
    """Mark a folder of 0.3 as ours if all that its file `manifest` names is as that says; whether it is."""
    try:
        files = dict(json.loads((folder / manifest).read_text(encoding="utf-8")))
        for name, facts in files.items():
            content = (folder / name).read_bytes()
            if (len(content), hashlib.blake2b(content, digest_size=16).hexdigest()) != (
                facts["bytes"],
                facts["blake2b"],
            ):
                return False
    except (OSError, ValueError, TypeError, KeyError):
        return False
    _mark(folder, files | {manifest: facts_of(folder / manifest)})
    return True


def remove(folder: Path) -> bool:
    """Remove a folder that we wrote, but for what others have put into it; whether anything was removed."""
    files = files_of(folder)
    if files is None:
        return False
    for name in files:
        (folder / name).unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)  # last: until then it is known as ours
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name what was written in an error of the disk that names nothing: a full disk says so of no file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS) and error.filename is None:
            error.filename = str(path)
        raise


def _space(path: Path) -> Path:
    return path.with_name(f".{path.name}.diptych")


def _is_marked(mark: Path) -> bool:
    try:
        content = mark.read_bytes()
        return not content or "diptych" in json.loads(content)  # empty if its owner was killed at once
    except (OSError, ValueError, TypeError):
        return False


def _is_ours(space: Path) -> bool:
    """Whether a folder is one to write in: marked, or empty. It is looked at again: its owner may be about to leave."""
    for _ in range(10):
        with contextlib.suppress(OSError):
            if _is_marked(space / MARK) or not any(space.iterdir()):
                return True
        if not os.path.lexists(space):
            return True
        time.sleep(0.01)
    return False


def _enter(space: Path, path: Path, *, wait: bool) -> Lock:
    """Make the folder to write in, or take over the one of a process that was killed."""
    while True:
        try:
            space.mkdir()
        except FileExistsError:
            if not _is_ours(space):
                raise ValueError(
                    f"{space} is in the way and not of diptych: move it, or choose another --out"
                ) from None
        try:
            lock = Lock(space / MARK, wait=wait, make=True)
        except FileNotFoundError:  # its owner has just left
            continue
        except BlockingIOError as error:
            raise ValueError(f"another run is writing {path}: wait for it, or choose another --out") from error
        if lock.is_of_path():
            break
        lock.release()
    try:
        (space / MARK).write_text(json.dumps({"diptych": __version__}), encoding="utf-8")
        _undo(space, path)
    except BaseException:
        _leave(space, path, lock)
        raise
    return lock


def _leave(space: Path, path: Path, lock: Lock) -> None:
    """Take the folder away, whose mark goes last: without it, what is left there would be of nobody."""
    try:
        for _ in range(2):  # an error that passes leaves nothing
            with contextlib.suppress(OSError):
                if lock.is_of_path():  # else the mark is gone, and the next one may have the folder already
                    _undo(space, path)
                    if {entry.name for entry in space.iterdir()} <= {MARK}:
                        (space / MARK).unlink()
                space.rmdir()
                break
    finally:
        lock.release()


def _undo(space: Path, path: Path) -> None:
    """Bring `path` back if it was taken away and nothing has taken its place; remove what was not put there."""
    old = space / "old"
    if old.exists():
        _retire(old, path) if path.exists() else old.rename(path)
    for left in space.glob("new*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _put(new: Path, path: Path, old: Path, *, ours: bool) -> None:
    if not new.is_dir():
        to_disk(new)
        new.replace(path)
    else:
        _seal(new, path, ours=ours)
        for entry in (*entries_below(new), new):
            to_disk(entry)
        if path.exists():
            path.rename(old)
        new.rename(path)
        if old.exists():
            _retire(old, path)
    to_disk(path.parent)


def _seal(new: Path, path: Path, *, ours: bool) -> None:
    """Mark a folder with what is in it; see that in its place there is nothing of others by the same names."""
    names = [str(file.relative_to(new)) for file in entries_below(new) if file.is_file() and file != new / MARK]
    clash = [name for name in names if files_of(path) is None and os.path.lexists(path / name)]
    if clash and not ours:
        raise ValueError(f"{path} holds {clash[0]}, which diptych did not write: move it, or choose another folder")
    if clash:
        _mark(path, dict.fromkeys(clash))
    _mark(new, {name: facts_of(new / name) for name in names})


def _begins_as_ours(path: Path) -> bool:
    """Whether a file of one of our names is empty, bears our signature, or is of lines that begin with their row."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return not start or SIGNATURE in start or start.startswith(b'{"row": ')


def _mark(folder: Path, files: Mapping[str, Any]) -> None:
    mark = {"diptych": __version__, "files": files}
    (folder / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")


def _retire(old: Path, path: Path) -> None:
    """Remove what was replaced; what others have put there goes on to be there."""
    remove(old)
    for entry in old.iterdir() if old.exists() else ():
        if not os.path.lexists(path / entry.name):
            entry.rename(path / entry.name)
    with contextlib.suppress(OSError):
        old.rmdir()
