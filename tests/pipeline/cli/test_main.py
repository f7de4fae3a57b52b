"""The command line: what is printed, what is written, how it ends."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
from diptych.pipeline.cli.main import app
from diptych.pipeline.feature_cache.store import FeatureStore, item_id
from diptych.pipeline.model.folder import save_model
from typer.testing import CliRunner

from ...conftest import picture


@pytest.fixture
def model(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def table(tmp_path):
    """A CSV of four rows with pictures beside it, the third broken, the fourth without anything."""
    for i, colour in enumerate(("red", "blue")):
        picture(colour).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"junk")
    rows = [
        "image,text,label,sku",
        "0.png,a red shirt,yes,007",
        "1.png,a blue shoe,no,8",
        "2.png,a shoe,no,9",
        "3.png,,yes,10",
    ]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.csv"


def diptych(*arguments, code=0, **options):
    result = CliRunner().invoke(app, [str(a) for a in arguments], **options)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_help_is_quick():
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "diptych", "--help"], check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    assert best < 2.0  # with torch it takes 5 s and more; the promise of 0.5 s is for a machine at rest


@pytest.mark.slow
def test_classifying_a_pair_loads_nothing_that_reads_tables(model, table):
    """Each costs a command its share of a second; accelerate and scipy are transformers' own, and come with it."""
    code = (
        "import sys; from diptych.pipeline.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('datasets', 'pandas', 'pyarrow', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    arguments = ["classify", str(table.parent / "0.png"), "a red shirt", "--model", model]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    assert ran.stdout.startswith(("yes", "no"))
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["classify", "train", "evaluate", "info"])
def test_every_command_has_help_json_quiet_and_debug(command):
    text = diptych(command, "--help").output
    assert all(option in text for option in ("--json", "--quiet", "--debug"))


def test_one_pair_for_people(model, table):
    lines = diptych("classify", table.parent / "0.png", "a red shirt", "--model", model).stdout.splitlines()
    assert lines[0].split()[0] in ("no", "yes")
    assert re.fullmatch(r"contributions to its log-odds: image [+-]\d\.\d\d, text [+-]\d\.\d\d", lines[-1])
    without = diptych("classify", table.parent / "0.png", "a red shirt", "--model", model, "--no-contributions")
    assert without.stdout.splitlines() == lines[:-1]


def test_one_pair_as_json_is_what_python_says(model, table):
    from diptych import ImageTextClassifier

    path = table.parent / "0.png"
    found = json.loads(diptych("classify", path, "a red shirt", "--model", model, "--json").stdout)
    assert found == ImageTextClassifier.from_pretrained(model)({"image": path, "text": "a red shirt"})


@pytest.mark.parametrize(
    ("image", "text", "status", "half"),
    [
        ("0.png", None, "text_missing: there is no text", "image"),
        ("", "a red shirt", "image_missing: there is no image", "text"),
        ("2.png", "a red shirt", "image_unreadable: .*2.png is no image that can be decoded", "text"),
    ],
)
def test_one_half_of_a_pair_is_enough_and_said(model, table, image, text, status, half):
    given = (table.parent / image if image else "", *([text] if text else []))
    lines = diptych("classify", *given, "--model", model).stdout.splitlines()
    assert lines[0].split()[0] in ("no", "yes")
    assert f"{'text' if half == 'image' else 'image'} +0.00" in lines[-2]
    assert re.fullmatch(f"{status}; classified by the {half} alone", lines[-1])
    assert json.loads(diptych("classify", *given, "--model", model, "--json").stdout)["label"] == lines[0].split()[0]


def test_a_cut_text_of_a_pair_is_said(model, table):
    lines = diptych("classify", table.parent / "0.png", "red " * 50, "--model", model).stdout.splitlines()
    assert lines[-1] == "text_truncated: the text has 52 word pieces, of which the first 40 are read"


def read(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_keeps_every_row_and_column(model, table, tmp_path, suffix):
    result = diptych("classify", "--data", table, "--out", tmp_path / f"out{suffix}", "--model", model)
    rows = read(tmp_path / f"out{suffix}")
    assert [row["sku"] for row in rows] == ["007", "8", "9", "10"]
    assert [row["input_label"] for row in rows] == ["yes", "no", "no", "yes"]
    assert [row["status"] for row in rows] == ["ok", "ok", "image_unreadable", "both_missing"]
    assert "2.png is no image" in rows[2]["reason"]
    assert "4 rows: 2 ok, 1 image_unreadable, 1 both_missing" in result.stderr
    assert "columns: image from 'image', text from 'text'" in result.stderr
    scores = rows[0]["scores"]
    assert set(json.loads(scores) if isinstance(scores, str) else scores) == {"no", "yes"}


def test_all_ways_agree(model, table, tmp_path):
    diptych("classify", "--data", table, "--out", tmp_path / "out.jsonl", "--model", model)
    lines = "".join(
        json.dumps({"image": str(tmp_path / f"{i}.png"), "text": t}) + "\n"
        for i, t in enumerate(["a red shirt", "a blue shoe"])
    )
    streamed = diptych("classify", "--data", "-", "--model", model, "--quiet", input=lines).stdout
    single = diptych("classify", tmp_path / "0.png", "a red shirt", "--model", model, "--json").stdout
    first = read(tmp_path / "out.jsonl")[0]
    for other in (json.loads(streamed.splitlines()[0]), json.loads(single)):
        assert other["scores"] == pytest.approx(first["scores"], abs=1e-5)


def test_the_data_is_never_written_over(model, table):
    before = table.read_text()
    result = diptych("classify", "--data", table, "--out", table, "--model", model, code=1)
    assert "is the data itself, which would be lost" in result.stderr
    assert table.read_text() == before


def test_a_stream_whose_first_row_lacks_a_half(model, table):
    lines = '{"text": "a red shirt"}\n\n{"image": "nope.png", "text": "a", "id": 7}\n'
    stopped = diptych("classify", "--data", "-", "--model", model, "--quiet", input=lines, code=1)
    assert "standard input: no row has an image that can be used in 'image' (row 0: there is no im" in stopped.stderr
    assert len(stopped.stdout.splitlines()) == 2, "each was answered as it came"
    lines += json.dumps({"image": str(table.parent / "0.png"), "text": "a"})
    found = diptych("classify", "--data", "-", "--model", model, "--quiet", input=lines).stdout.splitlines()
    rows = [json.loads(line) for line in found]
    assert [(row["status"], row.get("id")) for row in rows] == [
        *(("image_missing", None), ("image_missing", 7), ("ok", None)),
    ]


def test_stopping_at_a_bad_row_keeps_the_results_so_far(model, table, tmp_path):
    arguments = ("classify", "--data", table, "--out", tmp_path / "out.csv", "--model", model, "--on-bad-row", "error")
    result = diptych(*arguments, code=1)
    assert [row["row"] for row in read(tmp_path / "out.partial.csv")] == ["0", "1"]
    assert re.search(
        r"diptych: .*table.csv, row 2: .*2.png is no image .* rows before it are in .*out.partial.csv", result.stderr
    )


def test_train_evaluate_classify(text_folder, pairs, tmp_path):
    pairs.select(range(64)).to_parquet(tmp_path / "train.parquet")
    pairs.select(range(64, 80)).to_parquet(tmp_path / "validation.parquet")
    pairs.select(range(80, 96)).to_parquet(tmp_path / "test.parquet")
    trained = diptych(
        "train", tmp_path, "--out", tmp_path / "run", "--image-encoder", "resnet-tiny", "--image-weights", "random",
        "--image-size", "16", "--text-encoder", text_folder, "--fusion", "concat", "--epochs", 3, "--batch-size", 8,
        "--learning-rate", 0.003, "--json",
    )  # fmt: skip
    record = json.loads(trained.stdout)
    assert record["rows"] == {"train": 64, "validation": 16}
    assert record["best"]["accuracy"] >= 0.9
    measured = json.loads(diptych("evaluate", tmp_path / "run", tmp_path, "--json").stdout)
    assert measured["rows"] == 16
    assert measured["accuracy"] >= 0.8
    shown = diptych("evaluate", tmp_path / "run", tmp_path, "--split", "validation", "--quiet").stdout
    lines = {line[:12].strip(): line[12:].split() for line in shown.splitlines()}
    assert lines["both"][:2] == ["16", f"{record['best']['accuracy']:.4f}"]
    assert len(lines["text only"]) == len(lines["image only"]) == 5  # rows and four figures
    picture("red").save(tmp_path / "red.png")
    assert diptych("classify", tmp_path / "red.png", "a red shirt", "--model", tmp_path / "run").stdout.startswith(
        "red"
    )


def test_info_lists_the_cache_and_clears_it(tmp_path):
    with FeatureStore(
        tmp_path, "0123456789", width=2, about={"encoder": "resnet18", "grid": "7 x 7"}
    ).writer() as writer:
        writer.add(item_id(b"a"), torch.zeros(49, 2))
    cache = ("info", "--cache", "--cache-dir", str(tmp_path))
    [entry] = json.loads(diptych(*cache, "--json").stdout)
    assert (entry["encoder"], entry["items"]) == ("resnet18", 1)
    shown = diptych(*cache).stdout
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d +0\.0 MB +1  01234567  resnet18, grid 7 x 7$", shown, re.MULTILINE)
    assert shown.endswith(f"0.0 MB in {tmp_path}\n")
    assert diptych(*cache, "--clear").stdout.endswith(f"0.0 MB in {tmp_path}, cleared\n")
    assert diptych(*cache).stdout == f"0.0 MB in {tmp_path}\n"
    assert "go with --cache" in diptych("info", "--clear", code=1).stderr


def test_info_names_versions():
    assert "torch" in json.loads(diptych("info", "--json").stdout)


BAD = [
    (("classify", "nope.png", "text", "--model", "{model}"),
     "the image nope.png does not exist; for the text alone give '' in its place"),
    (("classify", "{dir}/0.png", "", "--model", "{model}", "--on-bad-row", "error"), "the text is empty"),
    (("classify", "a red shirt", "{dir}/0.png"), "IMAGE and TEXT are swapped: {dir}/0.png is a file. Give the image"),
    (("classify", "", "{dir}/0.png"), "IMAGE and TEXT are swapped"),
    (("classify", "{dir}/0.png", "{table}"), "TEXT is {table}, which is a file; give the sentence itself, or --data"),
    (("classify", "{dir}/0.png", "{dir}/0.png"), "TEXT is {dir}/0.png, which is a file"),
    (("classify", "{dir}/0.png", "--text", "a"), "--text is a sentence without an image; give IMAGE TEXT for both"),
    (("classify", "{dir}/2.png", "text", "--on-bad-row", "skip"), "2.png is no image that can be decoded"),
    (("classify", "", " ", "--model", "{model}"), "there is no image; the text is empty (both_missing)"),
    (("classify", "a red shirt"), "the image a red shirt does not exist"),
    (("classify", "x" * 5000, "a"), "does not exist"),
    (("classify",), "give IMAGE and TEXT ('' for no image), --text for a sentence without an image, or --data and"),
    (("classify", "{dir}/0.png", "text", "--model", "{dir}/nomodel"), "there is no model at"),
    (("classify", "{dir}/0.png", "text", "--model", "{dir}/hollow"), "holds no model"),
    (("classify", "--data", "{table}"), "--data needs --out"),
    (("classify", "--data", "{table}", "--out", "{dir}/o.txt", "--model", "{model}"), "no format that can be written"),
    (("classify", "--data", "{dir}/no.csv", "--out", "{dir}/o.csv", "--model", "{model}"), "no.csv does not exist"),
    (("classify", "--data", "{dir}/empty.csv", "--out", "{dir}/o.csv", "--model", "{model}"), "empty.csv is empty"),
    (("classify", "--data", "{dir}/header.csv", "--out", "{dir}/o.csv", "--model", "{model}"), "header.csv is empty"),
    (("classify", "--data", "{table}", "--out", "{table}/o.csv", "--model", "{model}"), "cannot be written to"),
    (("classify", "--data", "{table}", "--out", "{dir}/o.csv", "--text-column", "foo", "--model", "{model}"),
     "has no text column 'foo'; it has 'image', 'text', 'label', 'sku'"),
    (("classify", "{dir}/0.png", "a", "--int8"), "--int8 goes with --data, and does nothing"),
    (("classify", "{dir}/0.png", "a", "--split", "test"), "--split goes with --data, and does nothing without it"),
    (("classify", "{dir}/0.png", "a", "--overwrite"), "--overwrite goes with --data"),
    (("classify", "{dir}/0.png", "a", "--set-score", "adaptive"), "set_score is 'adaptive', which does nothing"),
    (("classify", "--data", "-", "--split", "test", "--model", "{model}"), "- is standard input, which has no 'test'"),
    (("rank", "{model}", "--data", "{table}", "--top", "3"), "--top goes with --image or --text"),
    (("rank", "{model}", "--image", "{dir}/0.png", "--texts", "a", "--split", "test"), "--split goes with --data"),
    (("rank", "{model}", "--image", "{dir}/0.png", "--texts", "captoins.txt"), "--texts is captoins.txt, and there"),
    (("rank", "{model}", "--text", "{dir}/0.png", "--images", "{dir}"), "--text is {dir}/0.png, which is a file"),
    (("explain", "{model}", "", "{dir}/0.png", "--out", "{dir}/o"), "IMAGE and TEXT are swapped"),
    (("explain", "{model}", "{dir}/0.png", "a", "--out", "{dir}/o", "--split", "test"), "--split goes with --data"),
    (("explain", "{model}", "--faithfulness", "{table}", "--out", "{dir}/o"), "--faithfulness compares all methods"),
    (("check", "{table}", "--max-length", "9"), "--max-length goes with --text-encoder"),
    (("check", "{table}", "--overwrite"), "--overwrite goes with --out"),
    (("evaluate", "{model}", "{table}", "--missing-seed", "3"), "missing_seed is 3, which does nothing without"),
    (("tune", "{table}", "--out", "{dir}/t", "--unfreeze-image", "0", "--unfreeze-text", "0", "--layer-decay", "0.9"),
     "layer_decay is 0.9, but no part of an encoder trains"),
    (("classify", "--data", "{table}", "--out", "{dir}/o.csv", "--model", "{model}", "--int8", "--compile"),
     "--int8 is a path of its own: leave out --compile and --dtype"),
    (("classify", "--data", "{table}", "--out", "{dir}/o.csv", "--model", "{model}", "--dtype", "bf16"),
     "of which 0 can be used and 32 are needed: leave it out"),
    (("evaluate", "{model}", "{dir}/odd.csv"),
     "label 'maybe' in 'label' (row 0) is unknown to the model, which knows 2: no, yes"),
    (("evaluate", "{model}", "{table}", "--split", "test"), "there is no split 'test'; choose one of train"),
    (("train", "{table}", "--out", "{dir}/run", "--text-encoder", "{model}/nothing"), "there is no text encoder at"),
    (("train", "{table}", "--out", "{dir}/run", "--image-size", "big"), "--image-size is 'big'"),
    (("train", "{table}", "--out", "{table}", "--image-encoder", "resnet18"), "cannot be written to"),
    (("train", "{dir}/header.csv", "--out", "{dir}/run"), "header.csv is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_one_line_and_a_non_zero_exit(model, table, arguments, message):
    (table.parent / "hollow").mkdir()
    (table.parent / "empty.csv").write_text("")
    (table.parent / "header.csv").write_text("image,text,label\n")
    (table.parent / "odd.csv").write_text("image,text,label\n0.png,a red shirt,maybe\n")
    filled = [a.format(model=model, table=table, dir=table.parent) for a in arguments]
    result = diptych(*filled, code=1)
    error = [line for line in result.stderr.splitlines() if line.startswith("diptych: ")]
    assert len(error) == 1
    assert message.format(model=model, table=table, dir=table.parent) in error[0]
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_sentence_without_an_image_has_its_option(model, table):
    by_option = diptych("classify", "--text", "a red shirt", "--model", model, "--json").stdout
    assert by_option == diptych("classify", "", "a red shirt", "--model", model, "--json").stdout


def test_debug_shows_where_it_came_from(model):
    result = CliRunner().invoke(app, ["classify", "nope.png", " ", "--model", model, "--debug"])
    assert isinstance(result.exception, ValueError)
