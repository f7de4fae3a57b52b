"""Outputs: whole or not there, one writer at a time; what carries no mark stays, whatever it is called."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest
from diptych.pipeline.runtime.files import Lock, megabytes, reason, same_file, user_path
from diptych.pipeline.runtime.outputs import (
    MARK,
    beside,
    damage_of,
    files_of,
    keep_part,
    own_folder,
    remove,
    remove_leftovers,
    restore,
    see_that_it_is_new,
    write_whole,
)

from ...conftest import kept


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def write(path, **files):
    with beside(path) as new:
        new.mkdir()
        for name, content in files.items():
            (new / name).write_text(content)


DECOYS = (".out.csv.old", ".out.csv.tmp", ".out.csv.1234/new", ".model.old/a", ".model.abc/a", "model.diptych/a")


@pytest.fixture
def place(tmp_path):
    """A folder of files and folders with names like ours, which must be there unchanged in the end."""
    with kept(tmp_path, DECOYS) as folder:
        yield folder


def test_a_file_is_the_old_one_until_the_new_one_is_whole(place):
    out = place / "out.csv"
    out.write_text("old")
    with contextlib.suppress(RuntimeError), beside(out) as new:
        new.write_text("half")
        assert out.read_text() == "old"
        raise RuntimeError
    assert out.read_text() == "old"
    with beside(out) as new:
        new.write_text("new")
    assert out.read_text() == "new"
    with beside(out):
        pass  # nothing was written
    assert out.read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling", "empty file", "empty folder"])
def test_what_is_there_is_replaced_only_if_it_may_be(place, kind):
    out = place / "out"
    if kind == "file":
        out.write_text("old")
    elif kind == "folder":
        write(out, a="old")
    elif kind == "link":
        (place / "real").write_text("old")
        out.symlink_to("real")
    elif kind == "dangling":
        out.symlink_to("real")
    elif kind == "empty file":
        out.touch()
    else:
        out.mkdir()
    if kind in ("file", "folder", "link"):
        with pytest.raises(ValueError, match=r"out is there already|real is there already"):
            beside(out, replace=False).__enter__()
    else:
        see_that_it_is_new(out)
    if kind == "empty folder":
        write(out, a="new")
    elif kind != "folder":
        write_whole(out, b"new")
        assert out.read_bytes() == b"new"
        assert out.is_symlink() is (kind in ("link", "dangling"))


def test_a_device_or_a_pipe_is_written_to_as_it_is(place):
    pipe, found = place / "pipe.csv", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    with beside(pipe, replace=False) as new:
        new.write_bytes(b"rows")
    reader.join(10)
    assert found == [b"rows"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with beside(Path("/dev/null"), replace=False) as new:
        new.write_bytes(b"rows")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe.unlink()


def test_two_writers_are_told(place):
    out = place / "out.csv"
    with beside(out) as new:
        new.write_text("first")
        with pytest.raises(ValueError, match=r"another run is writing .*out\.csv: wait for it, or choose"):
            beside(out).__enter__()
        assert remove_leftovers(place) == []
    assert out.read_text() == "first"


def _die(out):
    with beside(Path(out)) as new:
        new.write_text("half")
        os.kill(os.getpid(), 9)


@pytest.mark.parametrize("cleaned_by", ["the next writer", "remove_leftovers"])
def test_what_a_killed_writer_left_is_known_by_its_mark(place, cleaned_by):
    out = place / "out.csv"
    out.write_text("old")
    child = multiprocessing.get_context("fork").Process(target=_die, args=(str(out),))
    child.start()
    child.join(60)
    assert child.exitcode == -9
    assert (place / ".out.csv.diptych" / MARK).exists()
    if cleaned_by == "remove_leftovers":
        assert remove_leftovers(place) == [place / ".out.csv.diptych"]
        assert out.read_text() == "old"
    else:
        write_whole(out, b"new")
        assert out.read_text() == "new"
    assert not (place / ".out.csv.diptych").exists()


@pytest.mark.parametrize("content", ["new.csv", MARK])
def test_a_folder_of_the_user_in_the_place_of_ours_is_named(place, content):
    space = place / ".out.csv.diptych"
    space.mkdir()
    (space / content).write_text("of the user")
    with pytest.raises(ValueError, match="is in the way and not of diptych"):
        write_whole(place / "out.csv", b"new")
    assert remove_leftovers(place) == []
    assert (space / content).read_text() == "of the user"


def test_files_of_others_stay_in_a_folder_that_is_replaced_or_removed(place):
    out = place / "model"
    write(out, a="old", b="old")
    (out / "notes.txt").write_text("of the user")
    (out / "more").mkdir()
    (out / "more" / "b").write_text("of the user")
    write(out, a="new")
    assert {name for name in snapshot(out) if name != MARK} == {"a", "notes.txt", "more", "more/b"}
    assert damage_of(out) is None
    assert remove(out)
    assert {*snapshot(out)} == {"notes.txt", "more", "more/b"}
    assert not remove(out)
    write(out, a="again")
    assert (out / "notes.txt").read_text() == "of the user"


def test_a_file_of_others_by_the_same_name_is_not_replaced(place):
    out = place / "model"
    out.mkdir()
    (out / "a").write_text("of the user")
    with pytest.raises(ValueError, match="model holds a, which diptych did not write"):
        write(out, a="new")
    assert snapshot(out) == {"a": b"of the user"}
    with beside(out, ours=True) as new:  # known to be ours in another way
        new.mkdir()
        (new / "a").write_text("new")
    assert (out / "a").read_text() == "new"


@pytest.mark.parametrize("name", ["../out.csv", "/etc/passwd", "x/../../out.csv"])
def test_a_mark_that_names_files_elsewhere_is_none(place, name):
    write(place / "model", a="new")
    (place / "model" / MARK).write_text(f'{{"diptych": "", "files": {{"{name}": {{}}}}}}')
    assert files_of(place / "model") is None
    assert not remove(place / "model")


@pytest.mark.parametrize("taken", ["old", "neither"])
def test_a_folder_that_was_cut_off_between_two_renames_is_there_when_it_is_read(place, taken):
    out, space = place / "model", place / ".model.diptych"
    write(out, a="old")
    space.mkdir()
    (space / MARK).write_text('{"diptych": ""}')
    write(space / "new", a="new")
    if taken == "old":
        out.rename(space / "old")
    assert restore(out) == out
    assert (out / "a").read_text() == "old"
    remove_leftovers(place)
    assert not space.exists()


def test_a_part_is_kept_under_a_name_that_is_free(place):
    (place / "out.partial.csv").write_text("of the user")
    with beside(place / "out.csv") as new:
        new.write_text("rows")
        assert keep_part(new, place / "out.csv") == place / "out.partial-2.csv"
        assert keep_part(new, place / "out.csv") is None
    assert (place / "out.partial.csv").read_text() == "of the user"
    assert not (place / "out.csv").exists()


def test_a_lock_ends_with_its_owner_and_is_not_its_childs(tmp_path):
    lock = Lock(tmp_path)
    with pytest.raises(BlockingIOError):
        Lock(tmp_path, shared=True)
    child = os.fork()
    if child == 0:
        threading.Event().wait(0 if Lock._held else 60)
        os._exit(0)
    lock.release()
    # the child closes what it inherited right after the fork
    with Lock(tmp_path, shared=True, wait=True), Lock(tmp_path, shared=True), pytest.raises(BlockingIOError):
        Lock(tmp_path)
    Lock(tmp_path).release()
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_a_lock_that_is_released_twice_leaves_the_next_file_open(tmp_path):
    lock = Lock(tmp_path)
    lock.release()
    with Lock(tmp_path):
        lock.release()
        with pytest.raises(BlockingIOError):
            Lock(tmp_path)


def test_one_file_is_known_by_whatever_leads_to_it(tmp_path, monkeypatch):
    data = tmp_path / "d.csv"
    data.write_text("x")
    (tmp_path / "link.csv").symlink_to("d.csv")
    os.link(data, tmp_path / "hard.csv")
    (tmp_path / "copy.csv").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    with data.open() as file:
        ways = [tmp_path / "link.csv", tmp_path / "hard.csv", tmp_path / "x" / ".." / "d.csv", user_path("~/d.csv")]
        (tmp_path / "x").mkdir()
        ways += [file.fileno(), Path(f"/dev/fd/{file.fileno()}")]
        assert all(same_file(way, data) for way in ways)
    for other in (tmp_path / "copy.csv", tmp_path / "gone.csv", -1, Path("/dev/null")):
        assert not same_file(other, data)
    assert not same_file(Path("/dev/null"), Path("/dev/null"))


@pytest.mark.parametrize("path", ["~nosuch/x.csv", "~no.such.user"])
def test_a_home_that_is_not_there_is_named(path, monkeypatch):
    with pytest.raises(ValueError, match=rf"{path}: there is no home folder for ~no.*; write the path out"):
        user_path(path)

    def none(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", none)
    with pytest.raises(ValueError, match="there is no home folder for ~; write"):
        user_path("~/x.csv")


def test_reasons_and_sizes_are_for_people():
    assert reason(OSError(errno.EACCES, "Permission denied")) == "Permission denied"
    assert reason(ValueError("\n one line\nand more")) == "one line"
    assert reason(KeyError()) == "KeyError"
    assert [megabytes(size) for size in (0, 1_500_000, 2_500_000_000)] == ["0.0 MB", "1.5 MB", "2.5 GB"]


def test_many_processes_that_write_one_file_take_turns(tmp_path):
    """The folder to write in comes and goes between any two looks of another process."""
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(100):
                    write_whole(tmp_path / "out.json", str(number).encode())
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert (tmp_path / "out.json").read_text() in "0123"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize("failing", ["unlink", "rmdir"])
def test_an_error_that_passes_at_the_end_of_a_write_leaves_nothing(failing, place, monkeypatch):
    write(place / "model", a="old")
    original, left = getattr(Path, failing), [1]

    def once(path, *arguments, **options):
        if left and (path.name == "old" or path.parent.name == ".model.diptych"):
            left.pop()
            raise OSError(errno.EIO, "Input/output error")
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, failing, once)
    write(place / "model", a="new")
    assert not left
    assert (place / "model" / "a").read_text() == "new"
    assert not (place / ".model.diptych").exists()


def test_a_folder_of_our_own_is_new_or_was_made_for_that(tmp_path):
    for _ in range(2):
        assert own_folder(tmp_path / "demo") == tmp_path / "demo"
        (tmp_path / "demo" / "picture.png").write_bytes(b"ours")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("mine")
    with beside(tmp_path / "model") as new:
        new.mkdir()
        (new / "weights").write_bytes(b"0")
    for folder in ("theirs", "model"):
        with pytest.raises(ValueError, match="holds files already, and they are not of this version: choose another"):
            own_folder(tmp_path / folder)


def test_an_error_of_a_full_disk_names_what_was_written(tmp_path):
    with pytest.raises(OSError, match="No space left on device") as caught, beside(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "a.json")
    with pytest.raises(ConnectionRefusedError) as other, beside(tmp_path / "a.json"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert other.value.filename is None
    assert not list(tmp_path.iterdir())
