"""A run that is resumed compares the images that its table names by their paths, whatever their size and date say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.model.folder import save_model

from ...conftest import picture

pytestmark = pytest.mark.usefixtures("decoys")


def bmp(colour: str) -> bytes:
    """All of one size, whatever is in them."""
    import io

    file = io.BytesIO()
    picture(colour).save(file, "BMP")
    return file.getvalue()


def in_place(file: Path) -> None:
    before = file.stat()
    file.write_bytes(bmp("blue"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bmp("blue"))
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)


def through_a_link(file: Path) -> None:
    real = file.with_name("real")
    file.replace(real)
    real.write_bytes(bmp("blue"))
    file.symlink_to(real)


CHANGES = {
    "in place": in_place,
    "replaced": replaced,
    "a link": through_a_link,
    "larger": lambda file: file.write_bytes(bmp("blue") + b"more"),
    "gone": Path.unlink,
}


@pytest.fixture(params=["csv", "jsonl", "dicts"])
def table(request, tmp_path) -> Path:
    """A table of six rows, each with a picture of its own, the last of which is not there."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.bmp").write_bytes(bmp("red"))
    rows = [{"image": f"photos/{number}.bmp", "text": "a red shirt"} for number in range(6)]
    path = tmp_path / {"csv": "t.csv", "jsonl": "t.jsonl", "dicts": "t.parquet"}[request.param]
    if request.param == "csv":
        path.write_text("image,text\n" + "".join(f"{row['image']},{row['text']}\n" for row in rows))
    elif request.param == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [{"bytes": None, "path": row["image"]} for row in rows]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        pq.write_table(pa.table({"image": pa.array(cells, kind), "text": [row["text"] for row in rows]}), path)
    return path


@pytest.fixture
def run(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")

    def classify(table, out="out", **options):
        lines: list[str] = []
        options = {"part_rows": 2, "quiet": True, "say": lines.append} | options
        classify_table(table, str(tmp_path / out), model=tmp_path / "model", **options)
        return lines

    return classify


def parts(folder: Path) -> list[tuple[int, list[dict]]]:
    paths = sorted((folder / "out").glob("part-*"))
    return [(path.stat().st_mtime_ns, pq.read_table(path).to_pylist()) for path in paths]


@pytest.mark.parametrize("change", CHANGES)
def test_a_part_whose_images_were_changed_is_computed_again_and_no_other(run, table, tmp_path, change):
    run(table)
    before = parts(tmp_path)
    forget_the_end(tmp_path / "out", last=2)
    CHANGES[change](tmp_path / "photos" / "1.bmp")
    said = run(table, resume=True)
    assert [line for line in said if "were changed" in line] == [
        f"removing {tmp_path / 'out' / 'part-000000.parquet'}, to compute it again: images of its rows were changed"
    ]
    after = parts(tmp_path)
    assert after[1] == before[1], "it was not computed again"
    assert after[0][1] != before[0][1]
    assert after[2][1] == before[2][1]


def test_an_image_that_has_come_since_is_a_change(run, table, tmp_path):
    run(table)
    forget_the_end(tmp_path / "out", last=0)
    (tmp_path / "photos" / "5.bmp").write_bytes(bmp("red"))
    said = run(table, resume=True)
    assert "part-000002.parquet, to compute it again: images" in "".join(said)
    assert [row["status"] for _, rows in parts(tmp_path) for row in rows] == ["ok"] * 6


def test_what_is_as_it_was_is_not_computed_again(run, table, tmp_path):
    run(table)
    before = parts(tmp_path)
    forget_the_end(tmp_path / "out", last=2)
    assert not any("changed" in line for line in run(table, resume=True))
    assert parts(tmp_path)[:2] == before[:2]
    assert not any("changed" in line for line in run(table, text_only=True, out="texts"))
    (tmp_path / "photos" / "1.bmp").unlink()
    assert any("nothing to resume" in line for line in run(table, text_only=True, out="texts", resume=True))


@pytest.mark.parametrize("change", ["in place", "gone"])
def test_a_run_that_is_done_says_that_its_images_were_changed(run, table, tmp_path, change):
    run(table)
    before = parts(tmp_path)
    CHANGES[change](tmp_path / "photos" / "4.bmp")
    message = r"is done, and images of .*part-000002\.parquet were changed since.*--overwrite"
    with pytest.raises(ValueError, match=message):
        run(table, resume=True)
    assert parts(tmp_path) == before
    run(table, overwrite=True)
    assert parts(tmp_path)[2][1] != before[2][1]


def forget_the_end(folder: Path, last: int) -> None:
    """Make of a run that is done one that was killed before it had written its part `last`."""
    record = json.loads((folder / ".classify.json").read_text())
    for name, facts in record["files"].items():
        if name == f"part-{last:06d}.parquet":
            (folder / name).unlink()
        else:
            (folder / f".{Path(name).stem}.json").write_text(json.dumps(facts))
    record = {key: value for key, value in record.items() if key not in ("rows", "counts", "parts")}
    (folder / ".classify.json").write_text(json.dumps(record | {"state": "running", "files": {}}))
