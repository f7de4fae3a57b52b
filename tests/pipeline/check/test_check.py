"""`diptych check`: from whatever holds the data to a report for people, one for programs, and an exit code."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from diptych import check
from diptych.pipeline.check.check import quick_check
from diptych.pipeline.check.text import report
from diptych.pipeline.cli.main import app
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.data.values import to_json
from PIL import Image
from typer.testing import CliRunner

from ...conftest import picture


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def write(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "caption", "category"), *rows])


@pytest.fixture
def good(tmp_path):
    """A folder with pictures and a table of each split: twelve rows to train on, six to validate, six to test."""
    folder = tmp_path / "good"
    folder.mkdir()
    number = 0
    for split, count in (("train", 12), ("validation", 6), ("test", 6)):
        rows = []
        for _ in range(count):
            picture("red", seed=number, size=20).save(folder / f"{number}.png")
            rows.append((f"{number}.png", f"a shirt, number {number}", ("yes", "no")[number % 2]))
            number += 1
        write(folder / f"{split}.csv", rows)
    return folder


@pytest.fixture
def broken(good):
    """The same, with five bad rows in train, one in test, and a label in validation that train lacks."""
    (good / "0.png").write_bytes(b"<html>404</html>")
    (good / "1.png").write_bytes((good / "2.png").read_bytes()[:-300])
    (good / "3.png").unlink()
    rows = [list(row) for row in csv.reader((good / "train.csv").read_text().splitlines())][1:]
    rows[4][1], rows[5][0], rows[5][1] = " ", "", ""
    write(good / "train.csv", rows)
    (good / "20.png").write_bytes(b"")
    text = (good / "validation.csv").read_text()
    (good / "validation.csv").write_text(text.replace('number 14",yes', 'number 14",maybe'))
    return good


BAD = [
    ("train", 0, "image_unreadable"),
    ("train", 1, "image_unreadable"),
    ("train", 3, "image_missing"),
    ("train", 4, "text_missing"),
    ("train", 5, "both_missing"),
    ("test", 2, "image_unreadable"),
]


# what comes back


def test_good_data_is_ready(good):
    found = check(good, quiet=True)
    assert (found["ok"], found["errors"], found["warnings"], found["bad_rows"]) == (True, [], [], [])
    assert {split: part["rows"] for split, part in found["splits"].items()} == {
        "train": 12,
        "validation": 6,
        "test": 6,
    }
    assert found["all"]["statuses"] == {"ok": 24}
    assert found["columns"] == {"image": "photo", "text": "caption", "label": "category"}
    assert run(good, "--quiet").stdout.splitlines()[-1] == (
        "ready: nothing here would break training, evaluating or classifying"
    )


def test_bad_rows_are_listed_in_their_order(broken):
    found = check(broken, quiet=True)
    assert [(bad["split"], bad["row"], bad["status"]) for bad in found["bad_rows"]] == BAD
    assert all(
        str(broken / file) in bad["reason"] for file, bad in zip(("0.png", "1.png"), found["bad_rows"], strict=False)
    )
    assert found["splits"]["train"]["images"]["cut_short"] == 1
    assert [error["code"] for error in found["errors"]] == ["unknown_labels"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_all_bad_rows_go_into_a_file(broken, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("diptych.pipeline.check.check.KEPT_BAD_ROWS", 2)  # what memory keeps of a split is less
    out = tmp_path / f"bad{suffix}"
    found = check(broken, out=out, quiet=True)
    assert len(found["bad_rows"]) == 3
    read = {".csv": pd.read_csv, ".jsonl": lambda f: pd.read_json(f, lines=True), ".parquet": pd.read_parquet}[suffix]
    rows = read(out)
    assert list(rows.columns) == ["split", "row", "status", "reason"]
    assert list(zip(rows["split"], rows["row"], rows["status"], strict=True)) == BAD
    assert str(out) in report(found)


def test_the_command_line_says_what_python_says(broken):
    found = json.loads(run(broken, "--json", code=1).stdout)
    assert found == json.loads(to_json(check(str(broken), quiet=True)))


def test_nothing_is_loaded_that_a_check_does_not_need(good):
    code = f"import sys, diptych; diptych.check({str(good)!r}, quiet=True); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# kinds of data


@pytest.mark.parametrize("kind", ["file", "rows", "DataFrame", "Dataset", "IterableDataset"])
def test_any_kind_of_data_is_checked_alike(good, kind, monkeypatch):
    monkeypatch.chdir(good)
    frame = pd.read_csv("train.csv")
    data = {
        "file": good / "train.csv",
        "rows": frame.to_dict("records"),
        "DataFrame": frame,
        "Dataset": datasets.Dataset.from_pandas(frame),
        "IterableDataset": datasets.Dataset.from_pandas(frame).to_iterable_dataset(),
    }[kind]
    found = check(data, quiet=True)
    assert found["splits"] == {"train": check(good, split="train", quiet=True)["splits"]["train"]}
    assert (found["all"], found["leakage"], found["ok"]) == (found["splits"]["train"], [], True)


def test_data_without_labels_is_ready_for_classifying(good):
    frame = pd.read_csv(good / "train.csv").drop(columns="category")
    frame.to_csv(good / "train.csv", index=False)
    result = run(good / "train.csv", "--quiet")
    assert "training needs labels, classifying does not" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1] == "ready: nothing here would break classifying, 1 warning above"
    assert "classes" not in result.stdout


def test_data_without_a_split_to_train_on_is_not_ready_for_training(good):
    (good / "train.csv").rename(good / "pairs.csv")  # no name of a split: it is left out
    result = run(good, "--quiet")
    assert result.stdout.splitlines()[-1].startswith(
        "ready: nothing here would break evaluating or classifying (no split to train on was checked)"
    )
    assert "training, evaluating" in run(good / "pairs.csv", "--quiet").stdout.splitlines()[-1]


def test_one_split_is_checked_for_itself(broken):
    found = check(broken, split="validation", quiet=True)
    assert list(found["splits"]) == ["validation"]
    assert found["ok"], "what train knows was not read"


def test_columns_can_be_named(good):
    found = check(good, text_column="category", label_column="caption", quiet=True)
    assert found["columns"] == {"image": "photo", "text": "category", "label": "caption"}


def test_lines_that_end_training_are_named_and_the_others_checked(good):
    with (good / "train.csv").open("ab") as file:
        file.write("one,cell,too,many\n0.png,caf\xe9,no\n".encode("latin-1") + "0.png,café,no\n".encode())
    found = check(good, quiet=True)
    assert [error["code"] for error in found["errors"]] == ["labels_missing"]
    assert "row 12 first" in found["errors"][0]["message"]
    assert [(bad["row"], bad["status"]) for bad in found["bad_rows"]] == [
        (12, "row_unreadable"),
        (13, "text_unreadable"),
    ]


def test_texts_are_counted_in_the_tokens_of_an_encoder(good, text_folder):
    write(good / "train.csv", [(f"{i}.png", "a red shirt " * (1 + 4 * (i == 3)), "ny"[i % 2]) for i in range(12)])
    found = check(good, split="train", text_encoder=text_folder, max_length=10, quiet=True)
    assert found["splits"]["train"]["texts"] | {"distinct": 0, "repeated": 0, "rows_sharing": 0} == {
        "usable": 12, "distinct": 0, "repeated": 0, "rows_sharing": 0, "unit": "tokens",
        "shortest": 5, "median": 5, "longest": 17, "too_long": 1,
    }  # fmt: skip
    (cut,) = (f for f in found["warnings"] if f["code"] == "cut_texts")
    assert cut["message"].startswith("1 of 12 texts (8.3 %) are longer than 10 tokens (up to 17)")
    assert "over 10 tokens" in report(found)


def test_real_data_is_checked_in_seconds(real_data):
    found = check(real_data / "fashion-products", quiet=True)
    assert found["all"]["statuses"] == {"ok": 5804}
    assert found["all"]["labels"]["classes"] == 44
    assert all(leak[what]["rows"] == 0 for leak in found["leakage"] for what in ("images", "texts")), "as DESIGN says"


# the report


def test_the_report_fits_a_screen_and_is_aligned(broken):
    lines = run(broken, "--quiet", code=1).stdout.splitlines()
    assert len(lines) < 60
    assert lines[:3] == [
        str(broken),
        "splits: train from train.csv; validation from validation.csv; test from test.csv",
        "columns: image from 'photo', text from 'caption', label from 'category'",
    ]
    assert max(map(len, lines)) <= 110
    table = lines[4 : lines.index("", 4)]
    assert len({len(line) for line in table}) == 1, "the last column ends at one place"
    assert table[0].split() == ["train", "validation", "test", "all"]
    assert table[1].split() == ["rows", "12", "6", "6", "24"]
    assert lines[-1] == "not ready: fix the 1 error above, then check again"
    start = lines.index("bad rows, the first 5 of 6; --out FILE writes all:")
    assert lines[start + 1].split()[:3] == ["train", "0", "image_unreadable"]


def test_figures_that_are_all_zero_are_left_out(good, broken):
    assert "cut short" in report(check(broken, quiet=True))
    for file in broken.glob("*.png"):
        picture("red", seed=int(file.stem) + 100).save(file)
    assert "cut short" not in report(check(broken, quiet=True))


def test_no_name_breaks_the_report():
    rows = [{"image": f"no\nsuch file {i}" + "x" * 200, "text": "a", "label": f"{i % 2}\n" * 40} for i in range(9)]
    text = report(check(rows, quiet=True))
    assert len([line for line in text.splitlines() if line.startswith("  train  ")]) == 5
    assert max(map(len, text.splitlines())) <= 110


# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{good}/nothing.csv"], "nothing.csv does not exist"),
        (["{good}", "--split", "spring"], "there is no split 'spring'; choose one of train, validation, test"),
        (["{good}", "--label-column", "price"], "has no label column 'price'; it has 'photo', 'caption', 'category'"),
        (["{good}", "--out", "{good}/bad.csv"], "is the data itself, or would be read as a part of it"),
        (["{good}/train.csv", "--out", "{good}/train.csv"], "is the data itself"),
        (["{good}", "--out", "bad.txt"], "bad.txt has no format that can be written"),
        (["{good}", "--out", "-"], "--out is '-'; give a file"),
        (["{good}", "--text-encoder", "{good}"], "there is no tokenizer at"),
        (["{good}", "--text-encoder", "{good}", "--max-length", "2"], "max_length is 2; it must be at least 3"),
    ],
)
def test_what_cannot_be_checked_is_one_line(good, arguments, message):
    before = {file: file.read_bytes() for file in good.iterdir()}
    result = run(*(argument.format(good=good) for argument in arguments), code=1)
    (line,) = result.stderr.splitlines()
    assert line.startswith("diptych: ")
    assert message in line
    assert result.stdout == ""
    assert {file: file.read_bytes() for file in good.iterdir()} == before


@pytest.mark.parametrize(("arguments", "encoding"), [([], "ascii"), (["--json"], "latin-1")])
def test_a_terminal_that_lacks_letters_ends_nothing(good, arguments, encoding):
    write(good / "train.csv", [("東京.png", f"naïve {i}", "ny"[i % 2]) for i in range(4)])
    command = [sys.executable, "-m", "diptych", "check", str(good), *arguments]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (1, b"")
    if arguments:
        assert "東京.png" in json.loads(done.stdout)["bad_rows"][0]["reason"]
    else:
        assert "\\u6771\\u4eac.png does not exist" in done.stdout.decode("ascii")


def test_help_says_what_would_break():
    text = " ".join(run("--help").stdout.split())
    assert "exit code 1 if something would break" in text
    assert all(option in text for option in ("--json", "--quiet", "--debug", "--out", "--text-encoder"))


# the quick part


def quick(data) -> list[str]:
    tables = load_tables(data)
    return quick_check(tables, find_columns(tables["train"], need_label=True))


def test_the_quick_part_finds_nothing_in_good_data(good):
    assert quick(good) == []


def test_the_quick_part_opens_no_image(broken, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    lines = quick(broken)
    assert lines[0] == (f"train: 2 of 12 images looked for are missing, row 3 first: {broken / '3.png'} does not exist")
    assert "2 of 24 rows (8.3 %) have one usable half only, which decides alone: 2 text_missing" in lines


def test_the_quick_part_says_what_the_check_says(good):
    rows = [list(row) for row in csv.reader((good / "train.csv").read_text().splitlines())][1:]
    rows[0][2] = "maybe"
    write(good / "train.csv", rows)
    write(good / "test.csv", [(f"{18 + i}.png", rows[i][1].upper(), "yes") for i in range(3)])
    said = [finding["message"] for finding in check(good, quiet=True)["warnings"]]
    assert quick(good) == said
    assert [line.split(":")[0] for line in said] == ["test", "train"]


def test_the_quick_part_passes_over_what_training_does_not_read(good):
    write(good / "test.csv", [])
    (good / "test.csv").write_text("photo,title\n18.png,x\n")
    assert quick(good) == []


def test_the_quick_part_names_urls():
    rows = [{"image": f"https://x.org/{i}.png", "text": f"t {i}", "label": "ny"[i % 2]} for i in range(4)]
    assert quick(rows) == [
        "train: 4 of 4 images looked for are missing, row 0 first: https://x.org/0.png is a URL, which is not followed"
        ": download it first"
    ]


def test_the_quick_part_takes_images_that_are_no_paths(pairs):
    assert not [line for line in quick(pairs) if "missing" in line]
