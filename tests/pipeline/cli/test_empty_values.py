"""What is empty, of another encoding or hidden: named, or passed over, and never taken for the current folder."""

from __future__ import annotations

import datasets
import pytest
from diptych import evaluate, train
from diptych.pipeline.cli.main import app
from diptych.pipeline.cli.rank import images_of, texts_of
from diptych.pipeline.runtime.files import user_path
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "t.csv", "--out", ""], "out"),
        (["train", "", "--out", "run"], "data"),
        (["train", "t.csv", "--out", "run", "--text-encoder", ""], "text-encoder"),
        (["evaluate", "", "t.csv"], "model"),
        (["evaluate", "run", "t.csv", "--split", ""], "split"),
        (["classify", "--data", "t.csv", "--out", "", "--overwrite"], "out"),
        (["classify", "", "a red shirt", "--model", ""], "model"),
        (["explain", "run", "", "a", "--out", ""], "out"),
        (["check", ""], "data"),
        (["tune", "t.csv", "--out", ""], "out"),
        (["info", "--cache", "--clear", "--cache-dir", ""], "cache-dir"),
    ],
)
def test_an_empty_value_is_named_and_nothing_is_written(arguments, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("image,text,label\n,a,x\n,b,y\n")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"{name} is empty: give a value, or leave the option out" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused_in_python_too(path):
    for call in (lambda: user_path(path), lambda: train([], path), lambda: evaluate(path, [])):
        with pytest.raises(ValueError, match="a path is empty: write it out"):
            call()


def test_a_split_without_rows_says_so(text_folder, tmp_path):
    rows = [{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(4)]
    data = datasets.Dataset.from_list(rows)
    with pytest.raises(ValueError, match="validation is empty: there are no rows in it"):
        train(datasets.DatasetDict(train=data, val=data.select([])), tmp_path / "run", text_only=True)


def test_an_iterator_is_not_trained_on_as_a_stream(tmp_path):
    rows = ({"text": f"a {i}", "label": "xy"[i % 2]} for i in range(4))
    with pytest.raises(ValueError, match="data is an iterator, which can be read once: give a list, a file or a data"):
        train(rows, tmp_path / "run", text_only=True, stream=True)


def test_a_cache_that_cannot_be_is_named(tmp_path, text_folder):
    (tmp_path / "cache").write_text("of the user")
    rows = [{"text": f"a {i}", "label": "xy"[i % 2]} for i in range(4)]
    small = {
        "image_encoder": "resnet-tiny",
        "image_weights": "random",
        "text_encoder": text_folder,
        "image_size": (8, 8),
    }
    with pytest.raises(
        ValueError, match=r"the feature cache .*cache cannot be written to .* choose another --cache-dir"
    ):
        train(rows, tmp_path / "run", text_only=True, cache_dir=tmp_path / "cache", **small)


@pytest.mark.parametrize(
    "content", ["a é\nb\n", "\ufeffa é\r\nb", "a é\nb".encode("cp1252"), "a é\nb".encode("utf-16")]
)
def test_texts_to_rank_are_read_in_the_encodings_of_tables(content, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in (str(tmp_path / "t.txt"), "~/t.txt"):
        assert texts_of([name, "~50 shirts"]) == ["a é", "b", "~50 shirts"]


def test_images_to_rank_are_those_that_tables_know_and_none_that_is_hidden(tmp_path):
    for name in ("a.jfif", "b.AVIF", "in/c.JPG", "._c.JPG", ".x/c.png", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert images_of([str(tmp_path)]) == [str(tmp_path / name) for name in ("a.jfif", "b.AVIF", "in/c.JPG")]
