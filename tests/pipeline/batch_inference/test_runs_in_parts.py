"""A table classified into parts: resumed after a stop, by one process or several."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.batch_inference.parts import RECORD, Parts, hidden
from diptych.pipeline.batch_inference.team import Team
from diptych.pipeline.data.rows import BadRow
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.data.writer import FORMATS
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.runtime.record import write_record
from diptych.pipeline.runtime.signals import Interrupted

from ...conftest import picture
from .test_parts import cut


@pytest.fixture
def run(tiny, tmp_path):
    """Classify a table into `out`: what was said, and the counts."""
    save_model(*tiny, tmp_path / "model")
    picture("red").save(tmp_path / "red.png")

    def classify(data, out, **options):
        said = []
        options = {"part_rows": 4, "quiet": True} | options
        counts = classify_table(data, str(tmp_path / out), model=tmp_path / "model", say=said.append, **options)
        return said, counts

    return classify


def rows_of(folder):
    return [row for path in sorted(folder.glob("part-*")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def table(tmp_path):
    """A CSV of ten rows, the sixth without a picture."""
    lines = [f"{'gone' if n == 5 else 'red'}.png,a red shirt{' left' * (n % 3)},{n}" for n in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["image,text,id", *lines]) + "\n")
    return tmp_path / "t.csv"


def test_a_folder_of_parts_is_a_table_in_order(run, table, tmp_path):
    said, counts = run(table, "out")
    assert counts == {"ok": 9, "image_missing": 1}
    assert said[-1] == f"10 rows: 9 ok, 1 image_missing; {tmp_path / 'out'}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        RECORD,
        *(f"part-{n:06d}.parquet" for n in range(3)),
    ]
    ours = load_tables(tmp_path / "out")["train"].rows
    theirs = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    for found in (ours, theirs):
        assert [(row["row"], row["id"]) for row in found] == [(n, str(n)) for n in range(10)]
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert (record["state"], record["rows"], record["counts"], record["parts"]) == ("done", 10, counts, 3)
    run(table, "out.jsonl")
    once = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in once] == [row["label"] for row in ours]
    assert [row["score"] for row in once] == pytest.approx([row["score"] for row in ours], abs=1e-5)


def test_going_on_computes_what_is_not_there(run, table, tmp_path):
    run(table, "out")
    before = rows_of(tmp_path / "out")
    first, second, third = sorted((tmp_path / "out").glob("part-*"))
    stamp = first.stat().st_mtime_ns
    second.unlink()
    cut(third)
    said, counts = run(table, "out", resume=True)
    assert said[1] == "resuming: 2 parts are there"
    assert f"removing {third}, to compute it again" in said[2]
    assert counts == {"ok": 9, "image_missing": 1}
    assert first.stat().st_mtime_ns == stamp
    assert rows_of(tmp_path / "out") == before
    said, again = run(table, "out", resume=True)
    assert "is done: there is nothing to resume" in said[1]
    assert again == counts


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"part_rows": 5}, "--part-rows is 5, and was 4"),
        ({"on_bad_row": "skip"}, "--on-bad-row is skip, and was mask"),
        ({"text_column": "id"}, "text column is id, and was text"),
        ("rows", "content of the data is"),
        ("model", "model is"),
    ],
)
def test_other_settings_are_refused_by_name(run, table, tmp_path, tiny, change, name):
    run(table, "out")
    if change == "rows":
        table.write_text(table.read_text() + "red.png,a,10\n")
    if change == "model":
        with torch.no_grad():
            next(tiny[0].parameters()).add_(1)
        save_model(*tiny, tmp_path / "model")
    with pytest.raises(ValueError, match=f"out cannot go on: {name}"):
        run(table, "out", resume=True, **(change if isinstance(change, dict) else {}))


def rounded(row):
    """A row of output with its scores to five places and its contributions to three, as numbers whatever the format."""
    scores = row["scores"] if isinstance(row["scores"], dict) else json.loads(row["scores"] or "{}")
    places = {"score": 5, "image_contribution": 3, "text_contribution": 3}
    numbers = {name: None if row[name] in (None, "") else round(float(row[name]), n) for name, n in places.items()}
    return row | numbers | {"scores": {name: round(float(score), 5) for name, score in scores.items()} or None}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_can_be_gone_on_with_is_the_file_written_at_once(run, table, tmp_path, suffix):
    run(table, f"once{suffix}", batch_size=4)
    said, _ = run(table, f"parts{suffix}", batch_size=4, resume=True)
    assert "starting from row 0" in said[1]
    once, joined = (load_tables(tmp_path / f"{name}{suffix}")["train"].rows for name in ("once", "parts"))
    assert once.features == joined.features
    # batches are others, and so are sums of floats
    assert [rounded(row) for row in once] == [rounded(row) for row in joined]
    assert not hidden(tmp_path / f"parts{suffix}").exists()
    with pytest.raises(ValueError, match="nothing is left to resume: it is done"):
        run(table, f"parts{suffix}", resume=True)


def test_a_signal_keeps_whole_parts_and_says_how_to_go_on(run, table, tmp_path, monkeypatch):
    original = Parts.write

    def write(self, part, rows, **options):
        if part == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, part, rows, **options)

    monkeypatch.setattr(Parts, "write", write)
    with pytest.raises(
        Interrupted, match=r"stopped by SIGTERM; whole parts stay in .*out\. The same command"
    ) as caught:
        run(table, "out")
    assert caught.value.code == 143
    assert len(list((tmp_path / "out").glob("part*"))) == 2
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds a run that is not done, in 2 parts"):
        run(table, "out")
    assert run(table, "out", resume=True)[1] == {"ok": 9, "image_missing": 1}


def test_a_bad_row_ends_the_run_by_its_own_number(run, table, tmp_path):
    with pytest.raises(BadRow, match=r"t\.csv, row 5: .*gone\.png does not exist .*; whole parts .* in .*out"):
        run(table, "out", on_bad_row="error")
    assert [row["row"] for row in rows_of(tmp_path / "out")] == [0, 1, 2, 3]
    picture("red").save(tmp_path / "gone.png")
    assert run(table, "out", on_bad_row="error", resume=True)[1] == {"ok": 10}


def test_all_parts_have_one_schema(run, tmp_path):
    """JSON lines whose types show late, and change."""
    rows = [{"image": "red.png", "text": "a", "late": None, "number": n, "mixed": n, "label": None} for n in range(12)]
    rows[9] |= {"late": [1.5], "number": 2.5, "mixed": "x", "label": 3}
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "t.jsonl", "out")
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0]) for schema in schemas)
    found = load_tables(tmp_path / "out")["train"].rows
    assert found[9]["late"] == [1.5]
    assert found[9]["number"] == 2.5
    assert [found[n]["mixed"] for n in (8, 9)] == ["8", "x"]
    assert (found[8]["input_label"], found[9]["input_label"]) == (None, 3)


def test_a_dataset_keeps_its_types_where_a_part_has_nothing(run, pairs, tmp_path):
    empty = pairs.select(range(10)).add_column("day", [None] * 9 + [7]).remove_columns("label")
    empty.save_to_disk(tmp_path / "saved")
    run(tmp_path / "saved", "out")
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert schemas[0].field("day").type == pa.int64()
    assert [row["day"] for row in rows_of(tmp_path / "out")] == [None] * 9 + [7]


def test_what_cannot_be_done_in_parts_is_said(run, table, tmp_path):
    with pytest.raises(ValueError, match="- can be read once and by one process"):
        run("-", "out")
    with pytest.raises(ValueError, match="is in the folder of the data"):
        run(tmp_path, "out")
    with pytest.raises(ValueError, match=r"is the data itself"):
        run(tmp_path, "")
    (tmp_path / "none.csv").write_text("image,text\n")
    with pytest.raises(ValueError, match="is empty: there are no rows"):
        run(tmp_path / "none.csv", "out2")


# Several processes


def two(folder):
    """Two processes in the run r."""
    write_record(folder, {"run": "r"}, RECORD)
    both = [Team(SimpleNamespace(process_index=index, num_processes=2)) for index in range(2)]
    for process in both:
        process.begin(folder, "r")
    return both


def test_processes_that_read_other_data_are_told(tmp_path):
    one, other = two(tmp_path)
    one.end(10)
    assert not one.all_ended()
    other.end(10)
    assert one.all_ended()
    (tmp_path / ".ended-r-1-10").rename(tmp_path / ".ended-r-1-9")
    with pytest.raises(ValueError, match="they found 9 to 10 rows"):
        one.all_ended()


def test_one_of_several_says_why_they_stop(tmp_path):
    one, other = two(tmp_path)
    assert [other.is_first_to_fail(), one.is_first_to_fail()] == [True, False]
    with pytest.raises(Interrupted) as caught:
        one.check(SimpleNamespace(received=signal.SIGTERM))  # of the launcher, because the other failed
    assert (str(caught.value), caught.value.code) == ("", 1)


def test_a_run_leaves_the_folder_to_another_that_has_begun(tmp_path):
    one, other = two(tmp_path)
    one.check(SimpleNamespace(received=0), now=True)
    write_record(tmp_path, {"run": "s"}, RECORD)
    with pytest.raises(Interrupted, match="another run has begun in"):
        one.check(SimpleNamespace(received=0), now=True)
    with pytest.raises(ValueError, match="is not the same folder for all processes"):
        other.begin(tmp_path, "r")


def launch(*arguments, **options):
    """`diptych` in two processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "diptych"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen([*start, *map(str, arguments)], env=environment, text=True, **options)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_write_what_one_does(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    for n in range(4):
        picture(("red", "blue")[n % 2], seed=n).save(tmp_path / f"{n}.png")
    words = ("a", "red", "blue", "shirt", "shoe", "left")
    rng = random.Random(0)
    lines = [f"{n % 5}.png,{' '.join(rng.choices(words, k=4))},{n}" for n in range(600)]
    (tmp_path / "t.csv").write_text("\n".join(["image,text,id", *lines]) + "\n")
    given = ("classify", "--data", tmp_path / "t.csv", "--model", tmp_path / "model", "--batch-size", 8)
    in_parts = (*given, "--out", tmp_path / "out.csv", "--part-rows", 16, "--quiet")
    parts = Parts.of(str(tmp_path / "out.csv"), rows=16, always=True)
    for at_least in (2, 9):
        process = launch(*in_parts, *(["--resume"] if at_least > 2 else []))
        while len(parts.numbers()) < at_least:
            assert process.poll() is None
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # in other groups
        for pid in (process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert len(parts.numbers()) < 38  # of 38, so that something is left to do
    process = launch(*in_parts, "--resume", stderr=subprocess.PIPE)
    assert process.wait() == 0, process.stderr.read()
    classify_table(
        tmp_path / "t.csv", str(tmp_path / "once.csv"), model=tmp_path / "model", quiet=True, say=lambda _: None
    )
    with (tmp_path / "once.csv").open() as once, (tmp_path / "out.csv").open() as joined:
        expected, found = list(csv.DictReader(once)), list(csv.DictReader(joined))
    assert [int(row["row"]) for row in found] == list(range(600))
    same = ("id", "status", "reason", "label", "image", "text")
    assert [[row[name] for name in same] for row in found] == [[row[name] for name in same] for row in expected]
    scores = [[float(row["score"] or 0) for row in rows] for rows in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)

    process = launch(
        *in_parts[:-4], tmp_path / "bad", "--part-rows", 16, "--on-bad-row", "error", stderr=subprocess.PIPE
    )
    _, shown = process.communicate()
    assert process.returncode == 1
    assert shown.count("4.png does not exist") == 1
    assert "stopped by" not in shown
    process = launch(*given, "--out", "-", stderr=subprocess.PIPE)
    _, shown = process.communicate()
    assert shown.count("diptych: standard output takes the rows of one process") == 1
