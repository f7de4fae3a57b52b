"""Twelve public layouts, small: most train as they are, each other ends in one line with the command that does."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import pytest
from diptych.pipeline.cli.main import app
from diptych.pipeline.data.read import read_data, require_some

from ...conftest import picture

COLOURS = ("red", "blue")


def images(folder: Path, names: list[str]) -> None:
    """Small pictures of these names, alternately red and blue."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(COLOURS[number % 2], seed=number, size=8).save(folder / name)


def lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(path: Path, rows: list[dict], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def text(number: int) -> str:
    return f"a {COLOURS[number // 2 % 2]} shirt"


def hateful_memes(folder: Path) -> Path:
    for split, start in (("train", 0), ("dev_seen", 8), ("dev_unseen", 12), ("test_seen", 16)):
        rows = [{"id": i, "img": f"img/{i:05}.png", "label": i % 2, "text": text(i)} for i in range(start, start + 8)]
        images(folder, [row["img"] for row in rows])
        lines(folder / f"{split}.jsonl", rows)
    return folder


def hateful_memes_parquet(folder: Path) -> Path:
    images(folder, [f"img/{i}.png" for i in range(8)])
    for split, name in (("train", "train-00000-of-00001"), ("validation", "validation-00000-of-00001")):
        rows = [{"id": i, "img": f"{i}.png", "label": i % 2, "text": text(i), "split": split} for i in range(8)]
        (folder / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{name}.parquet")
    return folder


def crisis_mmd(folder: Path) -> Path:
    for split in ("train", "dev", "test"):
        rows = [
            {
                "event_name": "flood", "tweet_id": str(910 + i), "image_id": f"{910 + i}_0", "tweet_text": text(i),
                "image": f"data_image/flood/{910 + i}_0.jpg", "label": ("affected", "other")[i % 2],
                "label_text": "other", "label_image": "other", "label_text_image": "Negative",
            }
            for i in range(8)
        ]  # fmt: skip
        images(folder, [row["image"] for row in rows])
        table(folder / "splits" / f"task_humanitarian_text_img_{split}.tsv", rows, "\t")
    return folder


def snli_ve(folder: Path) -> Path:
    for split in ("train", "dev"):
        rows = [
            {"filename": f"{i}.jpg", "premise": "Two people.", "hypothesis": text(i), "label": ("yes", "no")[i % 2]}
            for i in range(8)
        ]
        lines(folder / f"snli_ve_{split}.jsonl", rows)
    images(folder / "flickr30k-images", [f"{i}.jpg" for i in range(8)])
    return folder


def mm_imdb(folder: Path) -> Path:
    rows = [
        {"id": i, "image": f"posters/{i}.jpeg", "plot": text(i), "genres": (["Drama"], ["Drama", "War"], [])[i % 3]}
        for i in range(9)
    ]
    images(folder, [row["image"] for row in rows])
    lines(folder / "mmimdb.jsonl", rows)
    return folder / "mmimdb.jsonl"


def food_101(folder: Path) -> Path:
    for split in ("train", "dev", "test"):
        kinds = ("apple_pie", "sushi")
        rows = [
            {"text": text(i), "label": kinds[i % 2], "img": f"images/{split}/{kinds[i % 2]}/{i}.jpg"} for i in range(8)
        ]
        images(folder, [row["img"] for row in rows])
        lines(folder / f"{split}.jsonl", rows)
    return folder


def n24_news(folder: Path) -> Path:
    rows = [
        {
            "section": ("Travel", "Science")[i % 2], "headline": text(i), "image_id": f"10000{i}",
            "article_url": f"https://x.org/{i}.html", "body": "Some words of an article.",
        }
        for i in range(8)
    ]  # fmt: skip
    images(folder / "imgs", [f"{row['image_id']}.jpg" for row in rows])
    (folder / "news").mkdir()
    (folder / "nytimes.json").write_text(json.dumps(rows, indent=1))
    return folder / "nytimes.json"


def shop(folder: Path) -> Path:
    rows = [{"sku": f"S-{i}", "title": text(i), "image": f"s{i}.png", "category": "ab"[i % 2]} for i in range(8)]
    images(folder / "photos", [row["image"] for row in rows])
    table(folder / "products.csv", rows, ";")
    return folder / "products.csv"


def fakeddit(folder: Path) -> Path:
    for split in ("train", "validate", "test_public"):
        rows = [
            {
                "author": f"user{i}", "clean_title": text(i), "created_utc": 1.5e9 + i, "domain": "i.redd.it",
                "hasImage": True, "id": f"awxh{i}", "image_url": f"https://i.redd.it/{i}.jpg", "num_comments": i,
                "score": 3, "title": text(i), "2_way_label": i % 2, "3_way_label": i % 3, "6_way_label": i % 4,
            }
            for i in range(8)
        ]  # fmt: skip
        table(folder / f"multimodal_{split}.tsv", rows, "\t")
    images(folder / "public_image_set", [f"awxh{i}.jpg" for i in range(8)])
    return folder


def fashion(folder: Path) -> Path:
    rows = [
        {
            "id": 15970 + i, "gender": ("Men", "Women")[i % 2], "masterCategory": ("Apparel", "Footwear")[i // 2 % 2],
            "season": ("Fall", "Summer")[i % 2], "year": 2011 + i % 2, "productDisplayName": text(i),
        }
        for i in range(8)
    ]  # fmt: skip
    table(folder / "styles.csv", rows)
    images(folder / "images", [f"{15970 + i}.jpg" for i in range(8)])
    return folder / "styles.csv"


def label_studio(folder: Path) -> Path:
    tasks = [
        {
            "id": i,
            "annotations": [{"result": [{"value": {"choices": [("Dog", "Cat")[i % 2]]}, "type": "choices"}]}],
            "data": {"image": f"/data/upload/3/f{i}.jpg", "text": text(i)},
        }
        for i in range(8)
    ]
    images(folder / "upload", [f"f{i}.jpg" for i in range(8)])
    (folder / "project-3.json").write_text(json.dumps(tasks))
    return folder / "project-3.json"


def web_dataset(folder: Path) -> Path:
    inner = folder / "inner"
    images(inner, [f"{i:06}.jpg" for i in range(8)])
    for i in range(8):
        (inner / f"{i:06}.txt").write_text(text(i))
        (inner / f"{i:06}.cls").write_text(str(i % 2))
    with tarfile.open(folder / "shard-000000.tar", "w") as tar:
        for file in sorted(inner.iterdir()):
            tar.add(file, file.name)
            file.unlink()
    return folder / "shard-000000.tar"


AS_THEY_ARE = {
    hateful_memes: ("img", "text", "label", {"train": 8, "validation": 16, "test": 8}),
    hateful_memes_parquet: ("img", "text", "label", {"train": 8, "validation": 8}),
    crisis_mmd: ("image", "tweet_text", "label", {"train": 8, "validation": 8, "test": 8}),
    snli_ve: ("filename", "premise+hypothesis", "label", {"train": 8, "validation": 8}),
    mm_imdb: ("image", "plot", "genres", {"train": 9}),
    food_101: ("img", "text", "label", {"train": 8, "validation": 8, "test": 8}),
    n24_news: ("image_id", "headline", "section", {"train": 8}),
    shop: ("image", "title", "category", {"train": 8}),
}
BY_A_COMMAND = {
    fakeddit: "--label-column 2_way_label",
    fashion: "--label-column masterCategory",
    label_studio: "--label-column annotations.0.result.0.value.choices",
    web_dataset: "tar xf",
}


@pytest.mark.parametrize("make", AS_THEY_ARE, ids=lambda make: make.__name__)
def test_a_layout_is_read_as_it_is(make, tmp_path):
    image, words, label, sizes = AS_THEY_ARE[make]
    said: list[str] = []
    read = read_data(make(tmp_path), say=said.append)
    assert (read.columns.image, read.columns.text, read.columns.label) == (image, words, label)
    assert {split: len(some.rows) for split, some in read.tables.items()} == sizes
    assert said[-1].startswith(f"columns: {read.columns}")
    for some in read.tables.values():
        require_some(some, read.columns)
        assert {read.columns.label_of(row) is None for row in some.rows} == {False}


def train(arguments: list[str], text_folder: str, folder: Path, monkeypatch, capsys) -> tuple[int, str]:
    """`diptych train` in this process, small: its exit code and what it printed."""
    small = f"--text-encoder {text_folder} --image-encoder resnet-tiny --image-weights random --image-size 8"
    small += " --epochs 1 --batch-size 8 --hidden-size 16 --fusion mlp --no-cache --processes 1 --quiet"
    monkeypatch.setattr(sys, "argv", ["diptych", "train", *arguments, *small.split()])
    code = app(sys.argv[1:], prog_name="diptych", standalone_mode=False)
    return code or 0, capsys.readouterr().err


@pytest.mark.parametrize("make", [shop, mm_imdb], ids=lambda make: make.__name__)
def test_a_layout_trains_as_it_is(make, tmp_path, text_folder, monkeypatch, capsys):
    code, shown = train(
        [str(make(tmp_path)), "--out", str(tmp_path / "run")], text_folder, tmp_path, monkeypatch, capsys
    )
    assert (code, shown) == (0, "")
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize("make", BY_A_COMMAND, ids=lambda make: make.__name__)
def test_each_other_layout_ends_in_one_line_with_the_command_that_trains(
    make, tmp_path, text_folder, monkeypatch, capsys
):
    arguments = [str(make(tmp_path)), "--out", str(tmp_path / "run")]
    code, shown = train(arguments, text_folder, tmp_path, monkeypatch, capsys)
    assert code == 1
    (line,) = shown.splitlines()
    command = re.search("; run: (.*)$", line)[1]
    assert BY_A_COMMAND[make] in command
    *before, last = command.split(" && ")
    for step in before:
        subprocess.run(step, shell=True, check=True)
    words = shlex.split(last)
    assert words[:2] == ["diptych", "train"]
    monkeypatch.setattr(sys, "argv", words)
    assert not app(words[1:], prog_name="diptych", standalone_mode=False)
    assert (tmp_path / "run" / "model" / "config.json").is_file()
