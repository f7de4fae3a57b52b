"""Alignment from data to a model that ranks: no labels needed, both directions, zero-shot, errors."""

from __future__ import annotations

import json

import pytest
import torch
from diptych import ImageTextClassifier, load_model, train
from diptych.pipeline.cli.main import app
from diptych.pipeline.cli.rank import images_of, texts_of
from diptych.pipeline.evaluation.retrieval import rank_table
from typer.testing import CliRunner

from ...conftest import build_tiny, picture

OPTIONS = {
    "image_encoder": "resnet-tiny",
    "image_weights": "random",
    "image_size": (16, 16),
    "architecture": {"hidden_size": 16, "fusion_heads": 2, "fusion_layers": 1, "fusion_hidden_size": 32},
    "batch_size": 16,
    "learning_rate": 3e-3,
    "quiet": True,
}


def matching(pairs):
    """The pairs whose sentence names the picture's colour, without labels."""
    rows = pairs.filter(lambda row: ("red" in row["text"]) == (row["label"] == 0))
    return rows.remove_columns("label")


@pytest.fixture(scope="module")
def aligned(pairs, text_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    said: list[str] = []
    data = matching(pairs)
    record = train(
        data,
        folder,
        objective="align",
        text_encoder=text_folder,
        epochs=10,
        unfreeze_text=None,
        say=said.append,
        **OPTIONS,
    )
    return folder, record, said, data


def test_it_learns_without_labels_and_keeps_the_best_epoch(aligned):
    folder, record, said, _ = aligned
    assert "no labels needed" in "\n".join(said)
    best = record["best"]["image_to_text_recall_at_10"]
    assert best == max(epoch["image_to_text_recall_at_10"] for epoch in record["epochs"])
    assert record["epochs"][-1]["train_loss"] < record["epochs"][0]["train_loss"]
    assert load_model(folder)[0].config.labels == []


def test_texts_are_ranked_for_an_image_and_images_for_a_text(aligned):
    classifier = ImageTextClassifier.from_pretrained(aligned[0])
    texts = ["a blue shirt", None, "a red shirt"]
    found = classifier.rank(image=picture("red", seed=900), texts=texts)
    assert [one["candidate"] for one in found] == ["a red shirt", "a blue shirt", None]
    assert [one["index"] for one in found] == [2, 0, 1]
    assert sum(one["probability"] for one in found[:2]) == pytest.approx(1)
    assert found[0]["score"] > found[1]["score"]
    assert (found[2]["status"], found[2]["score"]) == ("text_missing", None)
    found = classifier.rank(text="a blue shirt", images=[picture("red", 901), b"broken", picture("blue", 902)], top=2)
    assert [one["index"] for one in found] == [2, 0]


def test_of_equal_candidates_the_first_comes_first(aligned):
    classifier = ImageTextClassifier.from_pretrained(aligned[0])
    texts = ["a blue shirt", "a red shirt", "a blue shirt", "a red shirt"]
    found = classifier.rank(image=picture("red", seed=900), texts=texts)
    assert [one["index"] for one in found] == [1, 3, 0, 2]
    assert [one["index"] for one in classifier.rank(image=picture("red", seed=900), texts=texts, top=3)] == [1, 3, 0]


def test_the_score_is_the_cosine_of_the_embeddings(aligned):
    classifier = ImageTextClassifier.from_pretrained(aligned[0])
    image, text = picture("red", 5), "a blue shirt"
    batch = classifier.processor([image], [text])
    with torch.inference_mode():
        model = classifier.model
        of_image = model.get_image_features(batch["pixel_values"])[0]
        of_text = model.get_text_features(batch["input_ids"], batch["attention_mask"])[0]
    assert of_image.norm().item() == pytest.approx(1)
    (found,) = classifier.rank(image=image, texts=[text])
    assert found["score"] == pytest.approx(float(of_image @ of_text), abs=1e-5)


def test_a_table_is_measured_beside_chance(aligned, pairs):
    folder, _, _, data = aligned
    found = rank_table(folder, data, quiet=True)
    assert (found["texts"], found["images"]) == (2, 48)
    assert found["image_to_text_recall_at_1"] >= 0.9 > found["image_to_text_recall_at_1_chance"] == 0.5
    assert found["text_to_image_recall_at_1"] == 1
    zero_shot = rank_table(folder, pairs, label_column="label", quiet=True)
    assert (zero_shot["zero_shot_accuracy"], zero_shot["zero_shot_chance"]) == (1, 0.5)  # the labels are red and blue


def test_a_model_without_classes_says_what_it_is_for(aligned, pairs):
    classifier = ImageTextClassifier.from_pretrained(aligned[0])
    with pytest.raises(ValueError, match=r"no classes.*diptych rank"):
        classifier({"text": "a red shirt"})


def test_labels_are_learned_from_an_aligned_model(aligned, pairs, tmp_path):
    said: list[str] = []
    options = {key: OPTIONS[key] for key in ("batch_size", "learning_rate", "quiet")}
    record = train(pairs, tmp_path / "on", model=aligned[0], epochs=1, say=said.append, **options)
    assert any("the head is new" in line for line in said)
    model, _ = load_model(tmp_path / "on")
    assert model.config.labels == ["red", "blue"]
    assert model.config.alignment_weight == 1.0  # it goes on, unless told otherwise
    assert record["best"]["accuracy"] >= 0
    train(pairs, tmp_path / "off", model=aligned[0], alignment_weight=0.0, epochs=1, say=said.append, **options)
    assert load_model(tmp_path / "off")[0].alignment is None


def test_what_cannot_be_ranked_is_refused(aligned, text_folder):
    model, processor = build_tiny(text_folder)
    with pytest.raises(ValueError, match=r"trained without alignment.*--objective align"):
        ImageTextClassifier(model, processor).rank(text="a red shirt", images=[picture("red")])
    classifier = ImageTextClassifier.from_pretrained(aligned[0])
    with pytest.raises(ValueError, match="an image and texts"):
        classifier.rank(image=picture("red"), images=[picture("red")])
    with pytest.raises(ValueError, match="top is 0"):
        classifier.rank(text="red", images=[], top=0)
    with pytest.raises(ValueError, match="the text to rank for cannot be used: the text is empty"):
        classifier.rank(text=" ", images=[picture("red")])
    assert classifier.rank(text="red", images=[]) == []


def test_the_command_line_ranks(aligned, tmp_path, pairs):
    folder = str(aligned[0])
    picture("red", 7).save(tmp_path / "red.png")
    picture("blue", 7).save(tmp_path / "blue.png")
    (tmp_path / "texts.txt").write_text("a blue shirt\n\na red shirt\n")

    def run(*arguments):
        return CliRunner().invoke(app, ["rank", folder, *arguments])

    found = run("--image", str(tmp_path / "red.png"), "--texts", str(tmp_path / "texts.txt"))
    assert found.exit_code == 0, found.output
    assert [line.split("  ")[-1] for line in found.stdout.splitlines()] == ["a red shirt", "a blue shirt"]
    found = run("--text", "a blue shirt", "--images", str(tmp_path), "--json")
    assert json.loads(found.stdout.splitlines()[0])["candidate"] == str(tmp_path / "blue.png")
    pairs.save_to_disk(tmp_path / "saved")
    found = run("--data", str(tmp_path / "saved"), "--label-column", "label", "--quiet")
    assert "zero shot accuracy of 2" in found.stdout
    assert "image to text recall@10" in found.stdout
    for wrong in (["--text", "a", "--images", "nosuch"], ["--image", str(tmp_path / "red.png"), "--texts", " "]):
        found = run(*wrong)
        assert found.exit_code == 1
        assert "no candidate could be used" in found.output
    found = run("--text", "a", "--texts", "b", "--images", str(tmp_path))
    assert found.exit_code == 1
    assert "--texts goes with --image, and does nothing without it" in found.output
    found = run()
    assert found.exit_code == 1
    assert "give one of --image" in found.output


def test_texts_and_images_are_named_by_files_and_folders(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert texts_of([str(tmp_path / "a.txt"), "three"]) == ["one", "two", "three"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.PNG").write_bytes(b"")
    assert images_of([str(tmp_path), "y.jpg"]) == [str(tmp_path / "deep" / "x.PNG"), "y.jpg"]
    with pytest.raises(ValueError, match="no texts"):
        texts_of([])
    with pytest.raises(ValueError, match="no images"):
        images_of([])
