"""`ImageTextClassifier`: order, form, and what becomes of bad rows."""

from __future__ import annotations

import threading

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from diptych import ImageTextClassifier
from diptych.pipeline.data.rows import BadRow
from diptych.pipeline.model.scores import scores
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ...conftest import build_tiny, picture

BAD = {"image": b"junk", "text": "a red shirt"}


@pytest.fixture
def classify(tiny) -> ImageTextClassifier:
    return ImageTextClassifier(*tiny, device="cpu")


@pytest.fixture
def rows():
    texts = ("a red shirt", "a blue shoe left right", "green", "a")
    return [{"image": picture(("red", "blue")[i % 2], seed=i), "text": texts[i % 4]} for i in range(7)]


def close(first, second):
    """The same predictions, but for the last digits and the row's number."""
    for a, b in zip(first, second, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)
        assert (a["label"], a["status"], a["reason"]) == (b["label"], b["status"], b["reason"])


def test_one_pair_in_one_prediction_out(classify, rows):
    found = classify(rows[0])
    columns = ["row", "status", "reason", "label", "score", "scores"]
    assert list(found) == [*columns, "image_contribution", "text_contribution"]
    assert (found["row"], found["status"], found["reason"]) == (0, "ok", "")
    assert sum(found["scores"].values()) == pytest.approx(1.0)
    assert found["score"] == max(found["scores"].values()) == found["scores"][found["label"]]


def test_a_large_photo_is_decoded_at_reduced_scale_and_classified_the_same(classify, tmp_path):
    for i, colour in enumerate(("red", "blue")):
        picture(colour, seed=i).resize((333, 257)).save(tmp_path / f"{i}.jpg")
    rows = [{"image": tmp_path / f"{i}.jpg", "text": "a red shirt"} for i in range(2)]
    found = classify(rows)
    whole = classify([{**row, "image": np.asarray(Image.open(row["image"]))} for row in rows])
    assert [one["scores"] for one in found] != [one["scores"] for one in whole]
    for one, other in zip(found, whole, strict=True):
        assert one["label"] == other["label"]
        assert one["scores"] == pytest.approx(other["scores"], abs=0.01)


def test_every_form_gives_the_same_in_the_same_order(classify, rows):
    singly = [classify(row) for row in rows]
    many = classify(rows, batch_size=3)
    assert isinstance(many, list)
    assert [found["row"] for found in many] == list(range(7))
    close(many, singly)
    close(classify([(row["image"], row["text"]) for row in rows]), singly)
    stream = classify((row for row in rows), batch_size=2)
    assert not isinstance(stream, list)
    close(list(stream), singly)


def test_a_generator_is_read_a_batch_at_a_time(classify, rows):
    taken = []

    def source():
        for number, row in enumerate(rows):
            taken.append(number)
            yield row

    stream = classify(source(), batch_size=2)
    next(stream)
    assert taken == [0, 1]


def test_a_data_frame_comes_back_with_its_index_and_columns(classify, rows):
    frame = pd.DataFrame([{**row, "label": "mine", "sku": i} for i, row in enumerate(rows)], index=list("abcdefg"))
    found = classify(frame)
    assert list(found.index) == list("abcdefg")
    assert found["sku"].tolist() == list(range(7))
    assert set(found["input_label"]) == {"mine"}
    assert found["label"].tolist() == [p["label"] for p in classify(rows)]
    assert "image" not in found
    assert "label" in frame
    assert "input_label" not in frame  # the caller's own is left alone


def test_a_dataset_comes_back_as_one(classify, pairs):
    found = classify(pairs.select(range(5)))
    assert isinstance(found, datasets.Dataset)
    assert found["row"][:] == list(range(5))
    assert found["input_label"][:] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("empty", [[], pd.DataFrame({"image": [], "text": []}), iter(())])
def test_nothing_in_nothing_out(classify, empty):
    assert len(list(classify(empty))) == 0 if not isinstance(empty, pd.DataFrame) else len(classify(empty)) == 0


def test_a_bad_row_keeps_its_place_and_leaves_the_others_alone(classify, rows):
    good = classify(rows)
    mixed = [*rows[:2], BAD, *rows[2:], {"image": None, "text": " "}]
    found = classify(mixed, batch_size=4)
    assert [p["status"] for p in found] == ["ok", "ok", "image_unreadable", *["ok"] * 5, "both_missing"]
    close([*found[:2], *found[3:-1]], good)
    masked = found[2]
    assert masked["image_contribution"] == 0.0 != masked["text_contribution"]
    assert masked["scores"] == pytest.approx(classify({"text": BAD["text"]})["scores"], abs=1e-5)
    assert masked["label"] is not None
    assert found[-1]["label"] is found[-1]["scores"] is found[-1]["image_contribution"] is None


def test_skip_gives_bad_rows_no_prediction(classify, rows):
    found = classify([rows[0], BAD], on_bad_row="skip")
    assert found[0]["label"] is not None
    assert (found[1]["status"], found[1]["label"]) == ("image_unreadable", None)


def test_error_stops_at_the_first_bad_row_after_those_before_it(classify, rows):
    stream = classify(iter([*rows[:3], BAD, *rows[3:]]), on_bad_row="error", batch_size=8)
    seen = []
    with pytest.raises(BadRow, match=r"row 3: .* \(image_unreadable\)"):
        seen.extend(prediction["row"] for prediction in stream)
    assert seen == [0, 1, 2]


def test_one_half_is_enough(classify):
    assert classify({"text": "a red shirt"})["status"] == "image_missing"
    by_image = classify({"image": picture("red")})
    assert (by_image["status"], by_image["text_contribution"]) == ("text_missing", 0.0)


@pytest.mark.parametrize("wrap", [list, tuple])
def test_images_and_texts_are_given_one_by_one_or_as_lists(classify, rows, wrap):
    images, texts = (wrap(row[name] for row in rows) for name in ("image", "text"))
    singly = classify(rows)
    assert classify(images[0], texts[0]) == classify(image=images[0], text=texts[0]) == classify(rows[0])
    close(classify(images, texts), singly)
    close(classify(image=images, text=texts), singly)
    close(classify(image=images), classify([{"image": image} for image in images]))
    assert classify(image=wrap([])) == []
    with pytest.raises(ValueError, match="there is a list of 7 images and a list of 2 texts; give one of each, or as"):
        classify(image=images, text=texts[:2])
    with pytest.raises(ValueError, match="there is one image and a list of 7 texts"):
        classify(images[0], texts)
    with pytest.raises(ValueError, match=r"give pairs, or an image, a text or both: classify\(IMAGE, TEXT\)"):
        classify()


def test_what_cannot_be_classified_is_said(classify, rows):
    with pytest.raises(ValueError, match="a int cannot be classified: give a dict"):
        classify(3)
    with pytest.raises(ValueError, match="a int is no pair"):
        classify([3])
    with pytest.raises(ValueError, match="on_bad_row is 'drop'; choose one of mask, skip, error"):
        classify(rows, on_bad_row="drop")
    with pytest.raises(ValueError, match="batch_size is 0"):
        classify(rows, batch_size=0)


def test_save_and_load(classify, rows, tmp_path):
    classify.save_pretrained(tmp_path / "model")
    close(ImageTextClassifier.from_pretrained(tmp_path / "model", device="cpu")(rows), classify(rows))


def test_a_frame_that_lacks_a_half_is_classified_by_the_other_if_that_is_asked_for(classify):
    frame = pd.DataFrame({"id": ["a", "b"], "text": ["a red shirt", "green"]})
    with pytest.raises(ValueError, match=r"no column looks like the image: 'id', 'text'.* or give --text-only"):
        classify(frame)
    by_text = classify(frame, text_only=True)
    assert by_text["status"].tolist() == ["ok"] * 2
    assert by_text["image_contribution"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("wrap", [dict, lambda pair: [pair]])
def test_a_pair_of_other_names_is_refused_and_they_are_named(classify, wrap):
    with pytest.raises(ValueError, match="a pair has 'image', 'text' or both; this one has 'img', 'caption'"):
        classify(wrap({"img": "x.png", "caption": "a red shirt"}))


def test_rows_before_an_error_of_their_source_are_not_lost(classify, rows):
    def source():
        yield from rows[:3]
        raise ValueError("line 4 is no JSON")

    seen = []
    with pytest.raises(ValueError, match="line 4"):
        seen.extend(p["row"] for p in classify(source(), batch_size=8))
    assert seen == [0, 1, 2]


def plain(classify, rows):
    """Scores of rows in the plain way: all at once through the processor and the model's own forward."""
    with torch.inference_mode():
        output = classify.model(**classify.processor([row["image"] for row in rows], [row["text"] for row in rows]))
    return scores(output.logits, classify.model.config).tolist()


KINDS = ("ok", "ok", "no image", "no text", "bad image", "nothing", "long")


@pytest.fixture(scope="module")
def shared(text_folder) -> ImageTextClassifier:
    return ImageTextClassifier(*build_tiny(text_folder), device="cpu")


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=16),
    batch_size=st.integers(1, 5),
    workers=st.sampled_from([0, 2]),
    on_bad_row=st.sampled_from(["mask", "skip", "error"]),
    form=st.sampled_from([list, iter]),
)
def test_fast_is_what_plain_is(shared, kinds, batch_size, workers, on_bad_row, form):
    texts = ("a red shirt", "a blue shoe left right a", "green", "a")
    rows: list[dict] = []
    for kind, colour, text in kinds:
        row = {"image": picture(("red", "blue", "green", "white")[colour], colour), "text": texts[text]}
        changes = {"no image": {"image": None}, "no text": {"text": " "}, "bad image": {"image": b"junk"}}
        changes |= {"nothing": {"image": None, "text": None}, "long": {"text": f"{texts[text]} " * 40}}
        rows.append(row | changes.get(kind, {}))
    bad = [number for number, (kind, _, _) in enumerate(kinds) if kind not in ("ok", "long")]
    found, error = [], None
    try:
        for one in shared.stream(form(rows), batch_size=batch_size, workers=workers, on_bad_row=on_bad_row):
            found.append(one)
    except BadRow as caught:
        error = caught
    expected = len(rows) if on_bad_row != "error" or not bad else bad[0]
    assert [one["row"] for one in found] == list(range(expected))
    assert (error is None) == (expected == len(rows))
    assert error is None or f"row {bad[0]}: " in str(error)
    halves = []
    for row, (kind, _, _) in zip(rows, kinds, strict=True):
        image = None if kind in ("no image", "bad image") else row["image"]
        halves.append({"image": image, "text": None if kind == "no text" else row["text"]})
    for one, scored, (kind, _, _) in zip(found, plain(shared, halves), kinds, strict=False):
        assert (kind == "ok") == (one["status"] == "ok")
        if kind == "nothing" or (on_bad_row == "skip" and kind not in ("ok", "long")):
            assert one["label"] is None
        else:
            assert list(one["scores"].values()) == pytest.approx(scored, abs=1e-5)
            assert one["label"] == max(one["scores"], key=one["scores"].get)


class Counted:
    """Counts the rows that each trunk encodes."""

    def __init__(self, encoding) -> None:
        self.images = self.texts = 0
        self.plain = encoding.encode_images, encoding.encode_texts
        encoding.encode_images, encoding.encode_texts = self.encode_images, self.encode_texts

    def encode_images(self, pixels):
        self.images += len(pixels)
        return self.plain[0](pixels)

    def encode_texts(self, ids, mask):
        self.texts += len(ids)
        return self.plain[1](ids, mask)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [2, 50])
def test_what_is_repeated_is_encoded_once(classify, rows, tmp_path, workers, batch_size):
    for number, row in enumerate(rows):
        row["image"].save(tmp_path / f"{number}.png")
    table = [
        {"image": [tmp_path / f"{i}.png", rows[i]["image"]][i % 2], "text": rows[j]["text"]}
        for i in range(7)
        for j in range(7)
    ]
    counted = Counted(classify.encoders)
    found = classify(table, batch_size=batch_size, workers=workers)
    assert (counted.images, counted.texts) == (7, 4)
    for row, one in zip(table, plain(classify, table), strict=True):
        assert list(found[table.index(row)]["scores"].values()) == pytest.approx(one, abs=1e-5)


def test_of_a_table_a_window_is_batched_by_length(classify):
    lengths = []
    encode = classify.encoders.encode_texts

    def encode_texts(ids, mask):
        lengths.append(tuple(mask.shape))
        return encode(ids, mask)

    classify.encoders.encode_texts = encode_texts
    rows = [{"text": "a" + (" red" if i < 4 else " blue") * (8 if i % 2 else 1) + " left" * (i % 4)} for i in range(8)]
    classify(rows, batch_size=4)
    assert [words for _, words in lengths] == [6, 14]
    lengths.clear()
    list(classify(iter(rows), batch_size=4))  # of a generator each batch is as it comes
    assert [words for _, words in lengths] == [14, 14]


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_that_change_amid_a_stream_count_from_the_next_batch(classify, rows, workers):
    rows = [*rows[:2] * 4]
    stream = classify.stream(iter(rows), batch_size=2, workers=workers)
    first = [next(stream), next(stream)]
    with torch.no_grad():
        classify.model.image_encoder.trunk.conv1.weight.mul_(-1)
        classify.model.text_encoder.trunk.embeddings.word_embeddings.weight.add_(1)
    later = list(stream)
    assert list(first[0]["scores"].values()) != pytest.approx(list(later[0]["scores"].values()), abs=1e-5)
    for one, expected in zip(later, plain(classify, rows[2:]), strict=True):
        assert list(one["scores"].values()) == pytest.approx(expected, abs=1e-5)


def test_a_generator_is_read_a_batch_at_a_time_by_threads_as_well(classify, rows):
    taken = []

    def source():
        for number, row in enumerate(rows):
            taken.append(number)
            yield row

    stream = classify(source(), batch_size=2, workers=2)
    next(stream)
    assert taken == [0, 1]


def test_threads_end_with_the_stream(classify, rows):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("diptych")]

    stream = classify.stream(rows * 5, batch_size=2, workers=2)
    next(stream)
    assert threads()
    stream.close()
    assert not threads()
    classify(rows, workers=2)
    assert not threads()
    with pytest.raises(ValueError, match="workers is -1; it must be at least 0"):
        classify(rows, workers=-1)


def test_of_large_rows_few_are_held(classify, rows, monkeypatch):
    monkeypatch.setattr("diptych.pipeline.inference.prefetch.WINDOW_BYTES", 2 * 16 * 16 * 3)
    taken = []

    def source():
        for number, row in enumerate(rows):
            taken.append(number)
            yield row

    stream = classify.stream(source(), prompt=False)
    next(stream)
    assert taken == [0, 1]
    assert [one["row"] for one in stream] == list(range(1, 7))


def test_contributions_are_those_of_the_plain_forward_and_can_be_left_out(classify):
    from diptych.pipeline.model.contributions import contributions

    pairs = [{"image": picture("red"), "text": "a red shirt"}, {"image": picture("blue")}, {"text": "a blue shoe"}]
    found = classify(pairs)
    batch = classify.processor([pair.get("image") for pair in pairs], [pair.get("text") for pair in pairs])
    with torch.no_grad():
        _, shares = contributions(classify.model, *classify.model.encode(batch))
    given = torch.tensor([[one["image_contribution"], one["text_contribution"]] for one in found])
    torch.testing.assert_close(given, shares, atol=1e-5, rtol=1e-4)
    assert found[1]["text_contribution"] == found[2]["image_contribution"] == 0
    without = classify(pairs, contributions=False)
    assert [one["image_contribution"] for one in without] == [None] * 3
    kept = ("label", "score")
    assert [[one[key] for key in kept] for one in without] == [[one[key] for key in kept] for one in found]


def test_a_device_that_is_not_there_is_a_line(tiny):
    for device in ("nowhere", "cuda:77"):
        with pytest.raises(ValueError, match=f"device is '{device}', which cannot be used here"):
            ImageTextClassifier(*tiny, device=device)
