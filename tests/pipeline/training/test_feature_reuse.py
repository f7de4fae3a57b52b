"""Runs over frozen trunks: with features from the cache they are what they are without it, and cost less."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from diptych import ImageTextClassifier, load_model, train
from diptych.pipeline.data.columns import Columns
from diptych.pipeline.data.rows import UnreadableRow
from diptych.pipeline.data.tables import Table
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images, encode_texts
from diptych.pipeline.feature_cache.folder import cached_encoders
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import Collate
from diptych.pipeline.loading.plan import Plan
from diptych.pipeline.model.folder import save_model
from PIL import Image

from ...conftest import build_tiny, picture
from .test_processes import launch


@pytest.fixture
def start(text_folder, tmp_path):
    """A saved model whose trunks count as learned."""
    torch.manual_seed(0)
    save_model(*build_tiny(text_folder, region_grid=2), tmp_path / "start")
    return tmp_path / "start"


def run(pairs, out, start, **options):
    said: list[str] = []
    record = train(
        pairs,
        out,
        model=start,
        cache_dir=out.parent / "cache",
        **({"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "unfreeze_image": 0} | options),
        say=said.append,
        quiet=True,
    )
    return record, said


def test_a_run_from_the_cache_is_the_run_without_it(pairs, start, tmp_path):
    kept, said = run(pairs, tmp_path / "kept", start)
    plain, unsaid = run(pairs, tmp_path / "plain", start, cache=False)
    assert sum(line.startswith("features of 96 ") for line in said) == 2
    assert "features of 96 images: 96 different ones, 96 of them new" in "\n".join(said)
    assert "features of 96 texts: 2 different ones, 2 of them new" in "\n".join(said)
    assert not any(line.startswith("features") for line in unsaid)
    assert "augmentation: none (the image encoder is frozen)" in said
    assert said[-1].replace("kept", "") == unsaid[-1].replace("plain", "").replace("kept", "")
    for one, other in zip(kept["epochs"], plain["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-3)
        assert one["accuracy"] == other["accuracy"]
    rows = [{"image": row["image"], "text": row["text"]} for row in pairs]
    found, expected = (ImageTextClassifier.from_pretrained(tmp_path / name)(rows) for name in ("kept", "plain"))
    for one, other in zip(found, expected, strict=True):
        assert one["label"] == other["label"]
        assert one["scores"]["red"] == pytest.approx(other["scores"]["red"], abs=1e-2)
    again, said = run(pairs, tmp_path / "again", start)
    assert "0 of them new" in "\n".join(said)
    assert [epoch["train_loss"] for epoch in again["epochs"]] == [epoch["train_loss"] for epoch in kept["epochs"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_read_or_encoded_in_an_epoch_of_features(pairs, start, tmp_path, monkeypatch, workers):
    model, _ = load_model(start)
    seen = []
    encoder = type(model.image_encoder)
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda self, pixels: seen.append(len(pixels)) or encode(self, pixels))
    run(pairs, tmp_path / "run", start, workers=workers, epochs=3)
    assert sorted(seen) == [1, 32, 64]


def test_other_rows_are_other_features(pairs, start, tmp_path):
    run(pairs.select(range(48)), tmp_path / "half", start)
    _, said = run(pairs, tmp_path / "whole", start)
    assert "96 different ones, 48 of them new" in "\n".join(said)


@pytest.mark.slow
def test_parts_that_join_end_the_reading(pairs, start, tmp_path):
    _, said = run(pairs, tmp_path / "run", start, unfreeze_image=1, unfreeze_at=2, epochs=3, workers=1)
    text = "\n".join(said)
    assert "augmentation: flip, crop, colour (from epoch 2)" in text
    assert "features: from epoch 2 on images are encoded in every epoch" in text
    before, _ = load_model(start)
    after, _ = load_model(tmp_path / "run")
    weights = (model.image_encoder.trunk.layer3[0].conv1.weight for model in (before, after))
    assert not torch.equal(*weights)
    same, _ = run(pairs, tmp_path / "same", start, unfreeze_image=1, unfreeze_at=2, epochs=3, cache=False)
    different, _ = run(pairs, tmp_path / "run2", start, unfreeze_image=1, unfreeze_at=2, epochs=3)
    for one, other in zip(same["epochs"], different["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=5e-3)


@pytest.mark.slow
def test_features_are_those_of_evaluation_whatever_is_to_train_later(pairs, start, tmp_path):
    """Else dropout and batch statistics would be in the cache, and in every later run."""
    late = {"unfreeze_image": 1, "unfreeze_text": 1, "unfreeze_at": 2}
    first, _ = run(pairs, tmp_path / "late", start, **late)
    plain, _ = run(pairs, tmp_path / "plain", start, cache=False, **late)
    assert first["epochs"][0]["train_loss"] == pytest.approx(plain["epochs"][0]["train_loss"], abs=1e-3)
    frozen, said = run(pairs, tmp_path / "frozen", start)  # reads what the first has kept
    assert "0 of them new" in "\n".join(said)
    plain, _ = run(pairs, tmp_path / "frozen and plain", start, cache=False)
    for ours, theirs in zip(frozen["epochs"], plain["epochs"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-3)


def test_the_statistics_of_a_pretrained_encoder_never_move(pairs, start, tmp_path):
    run(pairs, tmp_path / "run", start, unfreeze_image=2, unfreeze_at=2)
    before, after = (load_model(folder)[0].image_encoder.trunk.state_dict() for folder in (start, tmp_path / "run"))
    for name, value in before.items():
        if "running" in name:
            assert torch.equal(value, after[name]), name


@pytest.mark.slow
def test_a_run_that_goes_on_after_parts_have_joined_reads_none_of_theirs(pairs, start, tmp_path):
    options = {"unfreeze_image": 1, "unfreeze_at": 2, "epochs": 3}

    def stop(epoch):
        raise KeyError(epoch["epoch"])

    whole, _ = run(pairs, tmp_path / "whole", start, **options)
    with pytest.raises(KeyError, match="2"):
        run(
            pairs,
            tmp_path / "run",
            start,
            checkpoint_steps=1,
            after_epoch=lambda e: e["epoch"] == 2 and stop(e),
            **options,
        )
    resumed, said = run(pairs, tmp_path / "run", start, resume=True, checkpoint_steps=1, **options)
    assert not any("images" in line and line.startswith("features") for line in said)
    assert [e["train_loss"] for e in resumed["epochs"]] == [e["train_loss"] for e in whole["epochs"]]


@pytest.mark.parametrize(
    ("options", "said", "cached"),
    [
        ({}, "none (the image encoder is frozen)", ["images", "texts"]),
        ({"crop": True}, "crop", ["images", "texts"]),
        ({"unfreeze_image": 1}, "flip, crop, colour", ["texts"]),
        ({"unfreeze_image": 1, "colour": False}, "flip, crop", ["texts"]),
        ({"unfreeze_image": 1, "crop": False, "colour": False, "flip": False}, "none", ["texts"]),
        ({"unfreeze_text": 1}, "none (the image encoder is frozen)", ["images"]),
        ({"unfreeze_image": 1, "unfreeze_at": 2, "crop": True}, "flip, crop, colour", ["images", "texts"]),
        ({"unfreeze_image": None, "unfreeze_text": None}, "flip, crop, colour", []),
    ],
    ids=str,
)
def test_pictures_are_changed_where_their_trunk_trains_or_it_is_asked_for(
    options, said, cached, pairs, start, tmp_path
):
    _, lines = run(pairs, tmp_path / "run", start, **options)
    assert f"augmentation: {said}" in lines
    kept = [line.split()[3].rstrip(":") for line in lines if line.startswith("features of")]
    assert kept == cached
    rows = {line.split()[3]: line.split()[2] for line in lines if line.startswith("features of")}
    changed = "features: training images are changed at random, so they are encoded in every epoch"
    if options.get("crop"):
        assert changed in lines
        assert rows["images:"] == "10"  # those to validate with stay as they are
    else:
        assert changed not in lines


def test_texts_that_speak_of_sides_are_not_mirrored(pairs, start, tmp_path):
    sides = pairs.map(lambda row: {**row, "text": row["text"] + " left"})
    _, said = run(sides, tmp_path / "run", start, unfreeze_image=1)
    assert "augmentation: crop, colour (texts speak of sides: no flip)" in said


def test_too_small_a_disk_ends_the_run_before_it_begins(pairs, start, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(ValueError, match="--no-cache"):
        run(pairs, tmp_path / "run", start)
    run(pairs, tmp_path / "run", start, cache=False)


def test_features_that_half_precision_cannot_hold_are_encoded_in_every_epoch(pairs, text_folder, tmp_path):
    torch.manual_seed(0)
    model, processor = build_tiny(text_folder)
    with torch.no_grad():
        model.text_encoder.trunk.encoder.layer[-1].output.LayerNorm.weight.mul_(1e6)
    save_model(model, processor, tmp_path / "start")
    record, said = run(pairs, tmp_path / "run", tmp_path / "start")
    assert any(line.startswith("the text features are not cached") for line in said)
    assert len(record["epochs"]) == 2


def test_aligning_reads_features_too(pairs, text_folder, tmp_path):
    torch.manual_seed(0)
    model, processor = build_tiny(text_folder, labels=[], alignment_weight=1.0)
    save_model(model, processor, tmp_path / "start")
    kept, said = run(pairs, tmp_path / "kept", tmp_path / "start", objective="align")
    plain, _ = run(pairs, tmp_path / "plain", tmp_path / "start", objective="align", cache=False)
    assert sum(line.startswith("features of 96 ") for line in said) == 2
    for one, other in zip(kept["epochs"], plain["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-3)
        assert one["images"] == other["images"]
        assert one["texts"] == other["texts"]


def stored(image, kind="PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png(colour: str) -> bytes:
    return stored(picture(colour))


@pytest.mark.parametrize("halves", ["image", "text", "both"])
@pytest.mark.parametrize("ids", [False, True])
def test_bad_rows_are_what_they_are_without_features(halves, ids, tiny, tmp_path):
    model, processor = tiny
    good = png("red")
    rows = [
        {"image": good, "text": "a red shirt"},
        {"image": b"junk", "text": "a shoe"},
        {"image": good, "text": " "},
        {"image": None, "text": None},
        UnreadableRow("line 5 is broken"),
        {"image": good[:60], "text": [1]},
        {"image": png("blue"), "text": "a red shirt"},
    ]
    table = Table(rows, None, "table")
    plain = PairDataset(table, Columns("image", "text"), None, processor, ids=ids)
    wanted = [RowsToEncode(table, plain.columns, plain.rows)]
    images = encode_images(model, processor, wanted, tmp_path, ids=ids) if halves != "text" else None
    texts = encode_texts(model, processor, wanted, tmp_path) if halves != "image" else None
    known = plain.with_features(images and images[0], texts and texts[0])
    for one, other in zip(plain, known, strict=True):
        assert (one.row, one.status, one.reason) == (other.row, other.status, other.reason)
    expected, found = (
        Collate(processor, data.image_features, data.text_features)([data[row] for row in range(7)])
        for data in (plain, known)
    )
    assert found["problems"] == expected["problems"]
    assert found["rows"] == expected["rows"]
    for name in ("image_present", "text_present"):
        assert torch.equal(found[name], expected[name])
    if ids:
        for name in ("image_ids", "text_ids"):
            same = [batch[name].unsqueeze(0) == batch[name].unsqueeze(1) for batch in (found, expected)]
            assert torch.equal(*same)
    inputs = [
        {k: v for k, v in batch.items() if (isinstance(v, torch.Tensor) and "ids" not in k[-4:]) or k == "input_ids"}
        for batch in (found, expected)
    ]
    with torch.no_grad():
        logits = [model(**batch).logits for batch in inputs]
    torch.testing.assert_close(*logits, atol=1e-2, rtol=0)


def test_ids_are_of_pixels_with_their_size_and_of_word_pieces_with_and_without_the_cache(tiny, tmp_path):
    model, processor = tiny
    rows = [
        {"image": stored(Image.new("RGB", (8, 2), "red")), "text": "a red shirt"},
        {"image": stored(Image.new("RGB", (2, 8), "red")), "text": "A  red\tshirt"},  # as many equal pixels
        {"image": stored(Image.new("RGB", (8, 2), "red"), "BMP"), "text": "a red shoe"},
        {"image": Image.new("RGB", (8, 2), "red"), "text": None},
        {"image": None, "text": "a red shirt"},
    ]
    table = Table(rows, None, "table")
    plain = PairDataset(table, Columns("image", "text"), None, processor, ids=True)
    wanted = [RowsToEncode(table, plain.columns, plain.rows)]
    [images], [texts] = (
        encode_images(model, processor, wanted, tmp_path, ids=True),
        encode_texts(model, processor, wanted, tmp_path),
    )
    for data in (plain, plain.with_features(images, None), plain.with_features(images, texts)):
        examples = [data[row] for row in range(5)]
        image_ids, text_ids = ([getattr(e, name) for e in examples] for name in ("image_id", "text_id"))
        assert image_ids[0] == image_ids[2] == image_ids[3] != image_ids[1]
        assert text_ids[0] == text_ids[1] == text_ids[4] != text_ids[2]
        assert (image_ids, text_ids) == (
            [plain[row].image_id for row in range(5)],
            [plain[row].text_id for row in range(5)],
        )


def test_of_several_processes_one_may_have_no_row(tiny, pairs, tmp_path):
    model, processor = tiny
    table = Table(pairs, None, "table")
    data = PairDataset(table, Columns("image", "text"), None, processor, rows=[0])
    wanted = [RowsToEncode(table, data.columns, data.rows)]
    [images], [texts] = (encode(model, processor, wanted, tmp_path) for encode in (encode_images, encode_texts))
    data = data.with_features(images, texts)
    shares = [data.batches(Plan(1, 2, process=process, processes=2)) for process in range(2)]
    found = [next(iter(share))["image_features"].shape for share in shares]
    assert sorted(found) == [(0, 128, 2, 2), (1, 128, 2, 2)]


SCRIPT = """
import sys
from datasets import load_from_disk
from diptych import train

data, out, start, cache = sys.argv[1:]
train(
    load_from_disk(data), out, model=start, cache_dir=cache, epochs=2, batch_size=16, learning_rate=3e-3,
    quiet=True, say=lambda line: print(line, flush=True), unfreeze_image=0, modality_dropout=0.0,
)
"""


@pytest.mark.slow
def test_two_processes_encode_each_row_once_between_them(pairs, start, tmp_path):
    pairs.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT.replace(", modality_dropout=0.0", ""))
    arguments = (tmp_path / "script.py", tmp_path / "data", tmp_path / "run", start, tmp_path / "two")
    said = launch(*arguments)
    assert said.count("features of 96 images: 96 different ones, 96 of them new") == 1
    assert sorted(entry["items"] for entry in cached_encoders(tmp_path / "two")) == [2, 96]
    (tmp_path / "run").rename(tmp_path / "first")
    assert "0 of them new" in launch(*arguments)
