"""Classifying destroys nothing: the data, earlier predictions, files of others; and no other run is joined in."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from diptych.pipeline.batch_inference import part_files
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.batch_inference.parts import RECORD, Parts
from diptych.pipeline.data.writer import RowWriter
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.runtime.files import Lock
from diptych.pipeline.runtime.outputs import beside
from diptych.pipeline.runtime.signals import Interrupted

from ...conftest import picture


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def place(tiny, tmp_path, decoys):
    """A folder with a table of ten rows, a model, and files with names like ours, which must stay as they are."""
    save_model(*tiny, tmp_path / "m")
    picture("red").save(tmp_path / "red.png")
    rows = [f"red.png,a {('red', 'blue')[n % 2]} shirt,{n}" for n in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["image,text,id", *rows]) + "\n")
    before = snapshot(tmp_path)
    yield tmp_path
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in before if name != "t.csv"} == {
        name: content for name, content in before.items() if name != "t.csv"
    }


def run(place, data, out, **options):
    options = {"part_rows": 4, "quiet": True, "say": lambda line: None} | options
    return classify_table(data, str(out), model=place / "m", **options)


@pytest.mark.parametrize(
    "way", ["path", "link", "tilde", "folder", "folder by link", "dots", "hard link", "stdin", "fd"]
)
def test_the_output_is_never_the_input(place, monkeypatch, way):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    folder = place / "folder"
    folder.mkdir()
    (folder / "test.csv").write_text((place / "t.csv").read_text())
    (place / "link.csv").symlink_to("t.csv")
    (place / "folder2").symlink_to("folder")
    os.link(place / "t.csv", place / "hard.csv")
    (place / "s.jsonl").write_text('{"image": "red.png", "text": "a"}\n')
    with (place / "s.jsonl").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        data, out = {
            "path": ("t.csv", place / "t.csv"),
            "link": ("t.csv", "link.csv"),
            "tilde": ("~/t.csv", "~/t.csv"),
            "folder": ("folder", "folder/test.csv"),
            "folder by link": ("folder2", place / "folder" / "test.csv"),
            "dots": ("t.csv", "folder/../t.csv"),
            "hard link": ("hard.csv", "t.csv"),
            "stdin": ("-", "s.jsonl"),
            "fd": (f"/dev/fd/{file.fileno()}", "s.jsonl"),
        }[way]
        before = snapshot(place)
        with pytest.raises(ValueError, match="is the data itself, which would be lost"):
            run(place, data, out, overwrite=True)
    assert snapshot(place) == before


@pytest.mark.parametrize("out", ["out.csv", "out.parquet", "out"])
def test_an_earlier_output_is_replaced_only_on_request_and_only_by_a_whole_one(place, out, monkeypatch):
    run(place, place / "t.csv", place / out)
    before = snapshot(place)
    with pytest.raises(ValueError, match=r"is there already: give --overwrite to replace it, or choose another --out"):
        run(place, place / "t.csv", place / out)
    assert snapshot(place) == before

    def broken(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if out != "out":  # of parts those that are whole are replaced one by one
        with monkeypatch.context() as patch:
            patch.setattr(RowWriter, "_write", broken)
            with pytest.raises(ValueError, match=rf"{out} cannot be written to \(No space left on device\)"):
                run(place, place / "t.csv", place / out, overwrite=True)
        assert snapshot(place) == before
    (place / "t.csv").write_text("image,text,id\nred.png,a shoe,77\n")
    assert run(place, place / "t.csv", place / out, overwrite=True) == {"ok": 1}


@pytest.fixture
def heard():
    """Nothing is ignored, even if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_signal_keeps_what_is_whole_under_a_name_that_says_so(place, monkeypatch, heard, number, suffix):
    original = RowWriter.write

    def write(self, row):
        if row["row"] == 5:
            os.kill(os.getpid(), number)
        original(self, row)

    monkeypatch.setattr(RowWriter, "write", write)
    kept = "partial-2" if suffix == ".csv" else "partial"
    said = rf"stopped by {signal.Signals(number).name}; the rows before it are in .*out\.{kept}{suffix}$"
    with pytest.raises(Interrupted, match=said) as caught:
        run(place, place / "t.csv", place / f"out{suffix}")
    assert caught.value.code == 128 + number
    assert not (place / f"out{suffix}").exists()
    monkeypatch.undo()
    assert run(place, place / f"out.{kept}{suffix}", place / "again.jsonl") == {"ok": 6}


def test_a_signal_that_is_ignored_stays_ignored(place, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        original = RowWriter.write
        monkeypatch.setattr(
            RowWriter, "write", lambda self, row: (os.kill(os.getpid(), signal.SIGHUP), original(self, row))
        )
        assert run(place, place / "t.csv", place / "out.csv") == {"ok": 10}
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("out", ["out.csv", "out", "resumed.csv"])
def test_two_runs_into_one_place_are_told(place, out):
    resume = out == "resumed.csv"
    if out == "out.csv":
        held = beside(place / out)
        held.__enter__()
    else:
        folder = place / ".resumed.csv.parts" if resume else place / out
        folder.mkdir()
        held = Lock(folder)
    with pytest.raises(ValueError, match=rf"another run is writing .*{out}: wait for it, or choose another --out"):
        run(place, place / "t.csv", place / out, resume=resume)
    held.__exit__(None, None, None)
    assert run(place, place / "t.csv", place / out, resume=resume) == {"ok": 10}


EDITS = {
    "same size": lambda lines: [line.replace(",a red shirt,4", ",a fed shirt,4") for line in lines],
    "reversed": lambda lines: [lines[0], *lines[:0:-1]],
    "swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "another column": lambda lines: [line.replace(",9", ",8") for line in lines],
}


@pytest.mark.parametrize("out", ["out", "out.csv"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_data_is_not_mixed_with_what_was_computed_before(place, monkeypatch, edit, out):
    original = Parts.write

    def write(self, part, rows, **options):
        if part == 2:
            raise KeyboardInterrupt
        return original(self, part, rows, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run(place, place / "t.csv", place / out, resume=True)
    content = (place / "t.csv").read_text()
    (place / "t.csv").write_text("\n".join(EDITS[edit](content.splitlines())) + "\n")
    with pytest.raises(ValueError, match=r"cannot go on: content of the data is \w+, and was \w+"):
        run(place, place / "t.csv", place / out, resume=True)
    (place / "t.csv").write_text(content)
    os.utime(place / "t.csv")  # another time, the same content
    assert run(place, place / "t.csv", place / out, resume=True) == {"ok": 10}


def test_data_that_changes_while_it_is_read_is_said(place, monkeypatch):
    original = Parts.write

    def write(self, part, rows, **options):
        found = original(self, part, rows, **options)
        (place / "t.csv").write_text((place / "t.csv").read_text().replace("blue", "pink"))
        return found

    monkeypatch.setattr(Parts, "write", write)
    with pytest.raises(ValueError, match=r"t\.csv was changed while it was read: begin anew, with --overwrite"):
        run(place, place / "t.csv", place / "out")


def whole_run(place, out):
    run(place, place / "t.csv", place / out)
    return sorted((place / out).glob("part-*"))


@pytest.mark.parametrize("foreign", ["another run", "no facts", "other facts"])
def test_a_part_of_another_run_is_never_joined_in(place, foreign):
    part = whole_run(place, "one")[1]
    record = json.loads((place / "one" / RECORD).read_text())
    record["state"] = "running"
    if foreign == "another run":
        other = whole_run(place, "two")[1]
        part.write_bytes(other.read_bytes()[:-1] + b"x")
        said = "removing .*part-000001.parquet, to compute it again: it is not what was written"
    else:
        del record["files"][part.name]
        if foreign == "other facts":
            facts = {**part_files.facts_of(part), "table_run": "other", "rows": 4, "counts": {"ok": 4}}
            part_files.facts_file(part).write_text(json.dumps(facts))
        said = None
    (place / "one" / RECORD).write_text(json.dumps(record))
    if said is None:
        with pytest.raises(ValueError, match=r"part-000001.parquet is not of this run: move it, or choose"):
            run(place, place / "t.csv", place / "one", resume=True)
        assert part.exists()
    else:
        lines = []
        assert run(place, place / "t.csv", place / "one", resume=True, say=lines.append) == {"ok": 10}
        assert any(line.startswith("removing") and "not what was written" in line for line in lines)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_an_error_that_passes_removes_no_part(place, monkeypatch, number):
    whole_run(place, "one")
    record = json.loads((place / "one" / RECORD).read_text())
    (place / "one" / RECORD).write_text(json.dumps(record | {"state": "running"}))
    before = snapshot(place / "one")

    def fails(file):
        raise OSError(number, os.strerror(number), str(file))

    with monkeypatch.context() as patch:
        patch.setattr(part_files, "facts_of", fails)
        said = rf"part-000000.parquet cannot be read \({os.strerror(number)}\); nothing was changed"
        with pytest.raises(ValueError, match=said):
            run(place, place / "t.csv", place / "one", resume=True)
    after = snapshot(place / "one")
    assert {name: after[name] for name in before if name != RECORD} == {
        name: content for name, content in before.items() if name != RECORD
    }
    assert run(place, place / "t.csv", place / "one", resume=True) == {"ok": 10}


@pytest.mark.parametrize("name", [RECORD, "part-000001.parquet", ".part-000001.json"])
def test_files_of_others_among_the_parts_are_not_replaced(place, name):
    out = place / "mine"
    out.mkdir()
    (out / name).write_text("of the user")
    with pytest.raises(ValueError, match=r"mine is there already|is of no run of this version"):
        run(place, place / "t.csv", out)
    with pytest.raises(ValueError, match=r"is not of this run|is of no run of this version|is in the way and not of"):
        run(place, place / "t.csv", out, overwrite=True)
    assert (out / name).read_text() == "of the user"


def test_resume_and_overwrite_are_not_both(place):
    with pytest.raises(ValueError, match="--resume goes on with a run and --overwrite begins anew: give one of them"):
        run(place, place / "t.csv", Path(place / "out"), resume=True, overwrite=True)
