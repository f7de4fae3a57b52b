"""From tables to batches of tensors, with augmentation in training."""

from __future__ import annotations

import io
import itertools

import datasets
import numpy as np
import pytest
import torch
from diptych.pipeline.data.rows import Columns
from diptych.pipeline.data.tables import Table
from diptych.pipeline.loading.augmentation import Augmentation, speaks_of_sides
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import Collate, order
from diptych.pipeline.loading.plan import Plan
from diptych.pipeline.model.processor import DiptychProcessor
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from ...conftest import sized

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "shirt"]
COLUMNS = Columns("photo", "caption", "kind")
SWITCHES = list(itertools.product([False, True], repeat=3))


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Red on the left and blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def augmentation(image_processor=None, *, flip=False, crop=False, colour=False) -> Augmentation:
    image_processor = image_processor or sized(12, 16)
    return Augmentation(image_processor, flip=flip, crop=crop, colour=colour)


def redness(image: Image.Image) -> tuple[float, float]:
    """How much more red than blue the left and the right half are."""
    pixels = np.asarray(image, np.float64)
    excess = pixels[..., 0] - pixels[..., 2]
    middle = image.width // 2
    return excess[:, :middle].mean(), excess[:, middle:].mean()


@pytest.fixture
def processor() -> DiptychProcessor:
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    return DiptychProcessor(sized(12, 16), tokenizer, max_length=8)


@pytest.fixture
def table() -> Table:
    rows = [
        {"photo": png(picture()), "caption": "a red shirt", "kind": 1},
        {"photo": None, "caption": "blue", "kind": 0},
        {"photo": png(picture(9, 50)), "caption": " ", "kind": 1},
        {"photo": b"junk", "caption": None, "kind": 0},
    ]
    return Table(rows, None, "data")


LABELS = [1, 0, 1, 0]


# augmentation


@pytest.mark.parametrize(("flip", "crop", "colour"), SWITCHES)
@pytest.mark.parametrize("edge", [None, 20])
def test_every_augmentation_keeps_the_size_that_the_encoder_sees(flip, crop, colour, edge):
    image_processor = sized(12, 16, edge)
    change = augmentation(image_processor, flip=flip, crop=crop, colour=colour)
    for size in ((40, 30), (300, 5), (3, 90), (1, 1), (16, 12)):
        changed = change(picture(*size))
        assert (changed.size, changed.mode) == ((16, 12), "RGB")


@pytest.mark.parametrize("edge", [None, 20])
def test_with_every_switch_off_a_picture_is_prepared_as_in_classifying(edge):
    image_processor = sized(12, 16, edge)
    assert augmentation(image_processor)(picture()).tobytes() == image_processor.resize(picture()).tobytes()


def test_a_flip_mirrors_about_every_second_picture_and_changes_nothing_else():
    change = augmentation(flip=True)
    straight = change.processor.resize(picture())
    torch.manual_seed(0)
    found = [change(picture()).tobytes() for _ in range(100)]
    assert set(found) == {straight.tobytes(), ImageOps.mirror(straight).tobytes()}
    assert 30 <= found.count(straight.tobytes()) <= 70


@pytest.mark.parametrize(("crop", "colour"), [(True, False), (False, True), (True, True)])
def test_without_a_flip_left_stays_left(crop, colour):
    change = augmentation(crop=crop, colour=colour)
    torch.manual_seed(0)
    for _ in range(60):
        left, right = redness(change(picture()))
        assert left > 50
        assert right < -50


def test_a_crop_keeps_70_to_100_percent_and_about_the_proportions():
    places = np.zeros((256, 256, 3), np.uint8)
    places[..., 0] = np.arange(256)  # red says where a pixel was from left to right, green from top to bottom
    places[..., 1] = np.arange(256)[:, None]
    image = Image.fromarray(places)
    change = augmentation(sized(64, 64), crop=True)
    torch.manual_seed(0)
    shares = []
    for _ in range(60):
        found = np.asarray(change(image), np.float64)
        # between the middles of the outer pixels lie 63 of 64 parts
        shares.append([(found[..., c].max() - found[..., c].min()) / 256 * 64 / 63 for c in (0, 1)])
    width, height = np.array(shares).T
    assert 0.68 <= (width * height).min() < 0.8
    assert 0.9 < (width * height).max() <= 1.02
    assert 1 / 1.24 < (width / height).min() < 0.95
    assert 1.05 < (width / height).max() < 1.24


def test_colours_change_but_never_the_hue():
    change = augmentation(colour=True)
    torch.manual_seed(0)
    for colour in ((200, 60, 60), (90, 90, 90)):
        found = [change(Image.new("RGB", (16, 12), colour)).getpixel((3, 3)) for _ in range(40)]
        assert len(set(found)) > 10
        for red, green, blue in found:
            assert abs(green - blue) <= 1
            assert red >= green - 1
            assert abs(red - colour[0]) < 130


@pytest.mark.parametrize("switch", ["flip", "crop", "colour"])
def test_augmentation_follows_the_seed(switch):
    change = augmentation(**{switch: True})

    def drawn(seed: int) -> list[bytes]:
        torch.manual_seed(seed)
        return [change(picture()).tobytes() for _ in range(8)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_augmentation_never_changes_its_source():
    image = picture(16, 12)
    before = image.tobytes()
    change = augmentation(flip=True, crop=True, colour=True)
    for _ in range(5):
        change(image)
    assert image.tobytes() == before


# examples


def test_examples_are_rows_made_ready(processor, table):
    dataset = PairDataset(table, COLUMNS, LABELS, processor)
    assert len(dataset) == 4
    examples = [dataset[i] for i in range(4)]
    assert [e.row for e in examples] == [0, 1, 2, 3]
    assert [e.label for e in examples] == LABELS
    assert [e.text for e in examples] == ["a red shirt", "blue", None, None]
    assert [e.status for e in examples] == ["ok", "image_missing", "text_missing", "both_missing"]
    assert [e.pixel_values is not None for e in examples] == [True, False, True, False]
    expected = processor.image_processor([picture()])["pixel_values"][0]
    assert torch.equal(examples[0].pixel_values, expected)


def test_chosen_rows_come_in_the_order_given_with_their_own_labels(processor, table):
    dataset = PairDataset(table, COLUMNS, [5, 6, 7, 8], processor, rows=[2, 0])
    assert len(dataset) == 2
    assert [(dataset[i].row, dataset[i].label) for i in range(2)] == [(2, 7), (0, 5)]
    with pytest.raises(IndexError):
        dataset[2]


def test_relative_images_start_at_the_folder_of_the_table(processor, tmp_path):
    picture().save(tmp_path / "a.png")
    table = Table([{"photo": "a.png", "caption": "a", "kind": 0}], tmp_path, "data")
    assert PairDataset(table, COLUMNS, [0], processor)[0].status == "ok"


def test_pictures_are_augmented_where_it_is_asked_for(processor, table):
    change = Augmentation(processor.image_processor, flip=True, crop=False, colour=False)
    dataset = PairDataset(table, COLUMNS, LABELS, processor, augmentation=change)
    seen = {dataset[epoch, 0].pixel_values.numpy().tobytes() for epoch in range(20)}
    assert len(seen) == 2
    assert dataset[1].pixel_values is None


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_a_picture_becomes_follows_from_seed_epoch_and_row(processor, table, workers):
    def seen(seed: int, epoch: int, asked: list[int], workers: int = 0) -> dict[int, bytes]:
        change = Augmentation(processor.image_processor, flip=True, crop=True, colour=True)
        dataset = PairDataset(table, COLUMNS, LABELS, processor, rows=[0, 2, 0], augmentation=change, seed=seed)
        loader = DataLoader(dataset, sampler=[(epoch, index) for index in asked], batch_size=None, num_workers=workers)
        return {index: e.pixel_values.numpy().tobytes() for index, e in zip(asked, loader, strict=True)}

    expected = seen(0, 1, [0, 1, 2])
    assert seen(0, 1, [2, 1, 0], workers) == expected
    assert expected[0] == expected[2] != expected[1]  # index 0 and 2 are the same row
    for other in (seen(1, 1, [0, 1]), seen(0, 2, [0, 1])):
        assert other[0] != expected[0]
        assert other[1] != expected[1]


def test_augmentation_takes_nothing_from_the_generator_that_all_share(processor, table):
    change = Augmentation(processor.image_processor, flip=True, crop=True, colour=True)
    before = torch.get_rng_state()
    assert PairDataset(table, COLUMNS, LABELS, processor, augmentation=change)[1, 0].status == "ok"
    assert torch.equal(torch.get_rng_state(), before)


def test_the_order_follows_from_seed_and_epoch():
    orders = {}
    for seed, epoch in [(0, 1), (0, 2), (1, 1), (1, 2)]:
        orders[seed, epoch] = order(50, seed=seed, epoch=epoch)
        torch.manual_seed(seed)
        assert order(50, seed=seed, epoch=epoch) == orders[seed, epoch]
        assert sorted(orders[seed, epoch]) == list(range(50))
    assert len(set(map(tuple, orders.values()))) == 4


# batches


def test_a_batch_has_the_tensors_of_the_model_its_labels_and_what_was_wrong(processor, table):
    dataset = PairDataset(table, COLUMNS, LABELS, processor)
    batch = Collate(processor)([dataset[i] for i in range(4)])
    problems = batch.pop("problems")
    assert batch.pop("rows") == [0, 1, 2, 3]
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "pixel_values": (4, 3, 12, 16),
        "image_present": (4,),
        "input_ids": (4, 5),
        "attention_mask": (4, 5),
        "text_present": (4,),
        "labels": (4,),
    }
    assert batch["image_present"].tolist() == [True, False, True, False]
    assert batch["text_present"].tolist() == [True, True, False, False]
    assert (batch["labels"].tolist(), batch["labels"].dtype) == (LABELS, torch.int64)
    assert [(row, status) for row, status, _ in problems] == [
        (1, "image_missing"),
        (2, "text_missing"),
        (3, "both_missing"),
    ]
    assert all(reason for *_, reason in problems)


@pytest.mark.parametrize("rows", [[1, 3], [2, 3]], ids=["no images", "no texts"])
def test_a_batch_may_lack_one_half_entirely(processor, table, rows):
    dataset = PairDataset(table, COLUMNS, LABELS, processor, rows=rows)
    batch = Collate(processor)([dataset[i] for i in range(2)])
    assert batch["pixel_values"].shape == (2, 3, 12, 16)
    assert batch["input_ids"].shape[0] == 2
    assert not (batch["image_present"] & batch["text_present"]).any()


def test_batches_come_as_planned(processor, table):
    dataset = PairDataset(table, COLUMNS, LABELS, processor)
    batches = list(dataset.batches(Plan(4, 3)))
    assert [batch["labels"].tolist() for batch in batches] == [[1, 0, 1], [0]]
    assert [[row for row, *_ in batch["problems"]] for batch in batches] == [[1, 2], [3]]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_shared_out_in_an_order_of_its_own_and_may_begin_later(processor, table, workers):
    dataset = PairDataset(table, COLUMNS, LABELS, processor, seed=3)
    both = [dataset.batches(Plan(4, 2, process=p, processes=2), shuffle=True, workers=workers) for p in (0, 1)]
    for epoch in (1, 2):
        shares = [[batch["rows"] for batch in batches.epoch(epoch)] for batches in both]
        assert [a + b for a, b in zip(*shares, strict=True)] == list(
            Plan(4, 2).micro_batches(order(4, seed=3, epoch=epoch))
        )
        assert [batch["rows"] for batch in both[0].epoch(epoch, skip=1)] == shares[0][1:]


def test_a_process_without_rows_has_a_batch_of_none_that_goes_through_a_model(tiny, pairs):
    model, processor = tiny
    table = Table(pairs.select(range(5)).cast_column("image", datasets.Image(decode=False)), None, "pairs")
    data = PairDataset(table, Columns("image", "text", "label"), [0, 1, 0, 1, 0], processor)
    for process, rows in ((0, []), (1, [4])):
        *_, last = data.batches(Plan(5, 2, process=process, processes=2))
        assert (last.pop("rows"), last.pop("problems")) == (rows, [])
        assert last["pixel_values"].shape == (len(rows), 3, 16, 16)
        assert len(last["labels"]) == len(last["input_ids"]) == len(last["image_present"]) == len(rows)
        for training in (False, True):
            assert model.train(training)(**last).logits.shape == (len(rows), 2)


# left and right


@pytest.mark.parametrize(
    "text", ["left", "to the RIGHT of it", "the leftmost box", "a right-hand glove", "Leftward.", "left/right"]
)
def test_left_and_right_are_found(text):
    assert speaks_of_sides([text])


@pytest.mark.parametrize("text", ["bright", "leftover", "copyright", "upright", "a red shirt", "righteous", ""])
def test_words_that_only_look_like_sides_are_not(text):
    assert not speaks_of_sides([text])


def test_one_text_in_a_hundred_is_enough():
    assert speaks_of_sides(["left"] + ["a red shirt"] * 99)
    assert not speaks_of_sides(["left"] + ["a red shirt"] * 100)
    assert speaks_of_sides(["left"] * 3 + ["a red shirt"] * 297)


@pytest.mark.parametrize("texts", [[], [None], [None, 3, ["left"]]], ids=str)
def test_what_is_no_text_says_nothing_of_sides(texts):
    assert not speaks_of_sides(texts)


# large photos


def test_a_large_jpeg_is_drafted_but_for_its_id(processor):
    file = io.BytesIO()
    picture(163, 121).save(file, "JPEG", quality=95)
    jpeg = Table([{"photo": file.getvalue(), "caption": "a shirt"}], None, "data")
    whole = Table([{"photo": png(Image.open(file)), "caption": "a shirt"}], None, "data")
    (drafted, expected), (hashed, same) = (
        [PairDataset(table, COLUMNS, None, processor, ids=ids)[0] for table in (jpeg, whole)] for ids in (False, True)
    )
    assert not torch.equal(drafted.pixel_values, expected.pixel_values)
    assert (drafted.pixel_values - expected.pixel_values).abs().mean() < 0.02
    assert torch.equal(hashed.pixel_values, same.pixel_values)
    assert hashed.image_id == same.image_id
