"""From rows to features: each content encoded once, found again, and never met by another encoder."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from diptych.encoders import BertEncoder
from diptych.pipeline.data.columns import Columns
from diptych.pipeline.data.images import image_content
from diptych.pipeline.data.rows import UnreadableRow
from diptych.pipeline.data.tables import Table, load_tables
from diptych.pipeline.feature_cache import store as store_module
from diptych.pipeline.feature_cache.encode import HalfFeatures, RowsToEncode, encode_images, encode_texts
from diptych.pipeline.feature_cache.folder import cached_encoders
from diptych.pipeline.runtime.console import SILENT, Console
from PIL import Image

from ...conftest import build_tiny, picture

COLUMNS = Columns("image", "text")
TEXTS = ["a red shirt", "a blue shoe left", "a", "a red shirt", None, "A RED SHIRT", "  ", "green"]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def model(text_folder):
    torch.manual_seed(0)
    model, processor = build_tiny(text_folder)
    model.image_encoder.pretrained = True
    model.image_encoder.unfreeze(0)
    return model.eval(), processor


@pytest.fixture
def table(tmp_path) -> Table:
    """Eight rows whose images are, in turn: bytes, a file of the same, pixels, the same pixels, and four bad ones."""
    red, blue = png(picture("red")), picture("blue")
    (tmp_path / "red.png").write_bytes(red)
    images = [red, "red.png", blue, blue.copy(), b"junk", None, "nowhere.png", red[: len(red) // 2]]
    rows = [{"image": image, "text": text} for image, text in zip(images, TEXTS, strict=True)]
    return Table(rows, tmp_path, "table")


def wanted(table: Table, rows: list[int] | None = None) -> list[RowsToEncode]:
    return [RowsToEncode(table, COLUMNS, list(range(len(table))) if rows is None else rows)]


def images(model, table: Table, folder: Path, said: list[str] | None = None, **options) -> HalfFeatures:
    console = SILENT if said is None else Console(said.append, bars=False)
    [found] = encode_images(*model, wanted(table, **options), folder, console=console)
    return found


def texts(model, table: Table, folder: Path, said: list[str] | None = None) -> HalfFeatures:
    console = SILENT if said is None else Console(said.append, bars=False)
    [found] = encode_texts(*model, wanted(table), folder, console=console)
    return found


def test_images_are_what_the_trunk_gives_and_bad_rows_say_why(model, table, tmp_path):
    network, processor = model
    said: list[str] = []
    [found] = encode_images(
        *model, wanted(table), tmp_path / "cache", ids=True, console=Console(said.append, bars=False)
    )
    batch = found.batch([2, 4, 0, 1])
    pixels = processor.image_processor([table.rows[2]["image"], None, table.rows[0]["image"], None])["pixel_values"]
    expected = network.image_encoder.encode(pixels)
    assert batch["image_features"].shape == expected.shape
    assert batch["image_present"].tolist() == [True, False, True, True]
    for row, like in ((0, 0), (2, 2), (3, 2)):
        torch.testing.assert_close(batch["image_features"][row].float(), expected[like], atol=2e-3, rtol=2e-3)
    assert not batch["image_features"][1].any()
    statuses = {row: status for row, (status, _) in found.problems.items()}
    bad = "image_unreadable"
    assert statuses == {4: bad, 5: "image_missing", 6: "image_missing", 7: bad}
    assert len({*found.ids[[0, 1]]}) == len({*found.ids[[2, 3]]}) == 1
    assert found.ids[0] != found.ids[2]
    assert not found.ids[4:].any()
    assert "8 images: 4 different ones, 4 of them new; 0.0 MB in" in said[0]


def test_texts_are_what_the_trunk_gives(model, table, tmp_path):
    network, processor = model
    found = texts(model, table, tmp_path)
    batch = found.batch(list(range(8)))
    words = processor.tokenize(TEXTS)
    expected = network.text_encoder.encode(words["input_ids"], words["attention_mask"])
    assert batch["text_present"].tolist() == [text is not None and bool(text.strip()) for text in TEXTS]
    for row in batch["text_present"].nonzero()[:, 0].tolist():
        real = words["attention_mask"][row].bool()
        assert torch.equal(batch["attention_mask"][row].bool(), real)
        torch.testing.assert_close(batch["text_features"][row][real].float(), expected[row][real], atol=2e-3, rtol=2e-3)
    assert {row: status for row, (status, _) in found.problems.items()} == {4: "text_missing", 6: "text_missing"}
    assert found.ids[0] == found.ids[3] == found.ids[5] != found.ids[1]  # equal word pieces


def test_pooled_texts_are_one_vector_each_and_no_others_are_met(model, text_folder, table, tmp_path):
    network, processor = model
    texts(model, table, tmp_path)
    pooled, _ = build_tiny(text_folder, fusion="mlp")
    pooled.text_encoder.copy_trunk(network.text_encoder)
    found = texts((pooled.eval(), processor), table, tmp_path)
    assert items(tmp_path) == 2
    assert set(found.places.length.tolist()) == {0, 1}
    words = processor.tokenize(TEXTS)
    states = network.text_encoder.encode(words["input_ids"], words["attention_mask"])
    batch = found.batch(list(range(8)))
    assert batch["text_features"].shape[1:] == (*batch["attention_mask"].shape[1:], pooled.text_encoder.width)
    assert batch["attention_mask"][:, 0].tolist() == batch["text_present"].tolist()
    for row in batch["text_present"].nonzero()[:, 0].tolist():
        real = words["attention_mask"][row].bool()
        expected = states[row, real, : pooled.text_encoder.width].mean(dim=0)
        torch.testing.assert_close(batch["text_features"][row, 0].float(), expected, atol=2e-3, rtol=2e-3)
    images_ = processor.image_processor([picture("red")] * 8)
    cached = pooled(**images_, **batch).logits
    words["text_present"] = batch["text_present"]  # blanks are no text, to whoever reads a table
    torch.testing.assert_close(cached, pooled(**images_, **words).logits, atol=1e-2, rtol=0)


def test_equal_contents_are_encoded_once_and_known_ones_not_again(model, table, tmp_path, monkeypatch):
    network, _ = model
    seen: dict[str, list[int]] = {"image": [], "text": []}
    for name, encoder in (("image", network.image_encoder), ("text", network.text_encoder)):
        encode = encoder.encode

        def counted(first, *rest, name=name, encode=encode):
            seen[name].append(len(first))
            return encode(first, *rest)

        monkeypatch.setattr(encoder, "encode", counted)
    first = images(model, table, tmp_path), texts(model, table, tmp_path)
    assert seen == {"image": [1, 2], "text": [4]}  # the first image is blank, for the size
    said: list[str] = []
    again = images(model, table, tmp_path, said), texts(model, table, tmp_path, said)
    assert seen == {"image": [1, 2, 1], "text": [4]}
    assert "2 of them new" in said[0]  # the broken ones, which are looked at again
    assert "0 of them new" in said[1]
    for before, after in zip(first, again, strict=True):
        for name, tensor in before.batch(list(range(8))).items():
            assert torch.equal(after.batch(list(range(8)))[name], tensor)
    assert again[0].problems == first[0].problems
    assert "0 of them new" not in said[0]


def test_features_are_those_of_evaluation_whatever_mode_the_model_is_in(model, table, tmp_path):
    network, _ = model
    for encoder in (network.image_encoder, network.text_encoder):
        encoder.pretrained = False  # whose dropout and batch statistics are on in training
        encoder.unfreeze(None)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    modes = [module.training for module in network.train().modules()]
    found = [encode(model, table, tmp_path / "train").batch([0]) for encode in (images, texts)]
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())
    network.eval()
    expected = [encode(model, table, tmp_path / "eval").batch([0]) for encode in (images, texts)]
    for half, name in ((0, "image_features"), (1, "text_features")):
        assert torch.equal(found[half][name], expected[half][name])


def test_rows_that_were_not_asked_for_have_no_features(model, table, tmp_path):
    found = images(model, table, tmp_path, rows=[2])
    assert found.batch([0, 2, 3])["image_present"].tolist() == [False, True, False]
    assert found.problems == {}


def items(folder: Path) -> int:
    """How many encoders the cache knows."""
    return len(cached_encoders(folder))


def change_image_weight(network, processor):
    with torch.no_grad():
        next(network.image_encoder.trunk.parameters()).view(-1)[3] += 1e-3


def change_statistics(network, processor):
    next(network.image_encoder.trunk.buffers()).add_(1e-3)


def change_mean(network, processor):
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]


def change_size(network, processor):
    processor.image_processor.size = {"height": 24, "width": 16}


def change_interpolation(network, processor):
    processor.image_processor.interpolation = "bicubic"


def change_grid(network, processor):
    network.image_encoder.region_grid = 1


@pytest.mark.parametrize(
    "change",
    [change_image_weight, change_statistics, change_mean, change_size, change_interpolation, change_grid],
)
def test_another_encoder_or_other_transforms_never_meet_an_old_image(change, model, table, tmp_path):
    images(model, table, tmp_path)
    change(*model)
    changed = images(model, table, tmp_path)
    assert items(tmp_path) == 2
    network, processor = model
    expected = network.image_encoder.encode(processor.image_processor([table.rows[2]["image"]])["pixel_values"])
    torch.testing.assert_close(changed.batch([2])["image_features"].float(), expected, atol=2e-3, rtol=2e-3)


def test_another_text_trunk_never_meets_an_old_text(model, table, tmp_path):
    texts(model, table, tmp_path)
    network, _ = model
    with torch.no_grad():
        network.text_encoder.trunk.embeddings.word_embeddings.weight[5, 0] += 1e-3
    texts(model, table, tmp_path)
    assert items(tmp_path) == 2
    network.text_encoder.trunk.config.layer_norm_eps = 1e-3  # no weight, and it counts
    texts(model, table, tmp_path)
    assert items(tmp_path) == 3


@pytest.mark.parametrize("what", ["vocabulary", "max_length"])
def test_a_text_that_is_cut_into_other_pieces_is_another_text(what, model, table, tmp_path):
    network, processor = model
    texts(model, table, tmp_path)
    if what == "max_length":
        processor.max_length = 3
    else:
        processor.tokenizer.add_tokens(["redshirt"])
        table.rows[0]["text"] = "a redshirt"
        network.text_encoder.trunk.resize_token_embeddings(len(processor.tokenizer))
    found = texts(model, table, tmp_path).batch([0, 1])
    words = processor.tokenize([table.rows[0]["text"], table.rows[1]["text"]])
    expected = network.text_encoder.encode(words["input_ids"], words["attention_mask"])
    for row in range(2):
        real = words["attention_mask"][row].bool()
        torch.testing.assert_close(found["text_features"][row][real].float(), expected[row][real], atol=2e-3, rtol=2e-3)


def test_what_half_precision_cannot_hold_is_not_cached_and_said(model, table, tmp_path):
    network, _ = model
    with torch.no_grad():
        network.text_encoder.trunk.encoder.layer[-1].output.LayerNorm.weight.mul_(1e6)
    said: list[str] = []
    assert encode_texts(*model, wanted(table), tmp_path, console=Console(said.append, bars=False)) is None
    assert "the text features are not cached: there are values beyond 65,504" in said[-1]


def test_a_full_disk_is_told_with_what_to_do(model, table, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(ValueError, match="--no-cache"):
        texts(model, table, tmp_path)


def test_a_damaged_chunk_is_encoded_again(model, table, tmp_path):
    before = texts(model, table, tmp_path).batch([0, 1])
    [chunk] = (tmp_path / "features").glob("*/*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    said: list[str] = []
    after = texts(model, table, tmp_path, said).batch([0, 1])
    assert torch.equal(before["text_features"], after["text_features"])
    assert "damaged" in said[0]
    assert "4 of them new" in said[1]


def test_rows_that_cannot_be_read_have_neither_half(model, tmp_path):
    table = Table([UnreadableRow("line 3 is broken"), {"image": picture("red"), "text": "a"}], None, "table")
    problem = {0: ("row_unreadable", "line 3 is broken")}
    assert images(model, table, tmp_path).problems == problem
    assert texts(model, table, tmp_path).problems == problem


def test_a_table_of_datasets_and_workers(model, pairs, tmp_path):
    [table] = load_tables(pairs).values()
    network, processor = model
    [found] = encode_images(network, processor, wanted(table), tmp_path, workers=2)
    batch = found.batch([95, 3])
    pixels = processor.image_processor([pairs[95]["image"], pairs[3]["image"]])["pixel_values"]
    torch.testing.assert_close(
        batch["image_features"].float(), network.image_encoder.encode(pixels), atol=2e-3, rtol=2e-3
    )


def test_a_text_trunk_of_random_weights_is_not_the_one_it_was(text_folder):
    keys = {
        store_module.trunk_key(BertEncoder.from_pretrained(text_folder).trunk),
        store_module.trunk_key(BertEncoder(BertEncoder.from_pretrained(text_folder).trunk.config).trunk),
    }
    assert len(keys) == 2


def test_the_content_of_an_image_is_its_file_or_its_pixels(tmp_path):
    content = png(picture("red"))
    (tmp_path / "red.png").write_bytes(content)
    same = [
        content,
        bytearray(content),
        {"bytes": content, "path": None},
        {"bytes": None, "path": "red.png"},
        "red.png",
    ]
    assert {image_content(source, folder=tmp_path) for source in same} == {(b"file", content)}
    assert image_content(picture("red")) != image_content(picture("red").resize((8, 32)))
    flat, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert image_content(flat) != image_content(tall)
    palette = picture("red").convert("P")
    other = palette.copy()
    other.putpalette(bytes(reversed(palette.getpalette())))
    assert image_content(palette) != image_content(other)
