"""Several pairs at once, however they are held; and options that do not exist, wherever they are given."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pytest
from diptych import ImageTextClassifier, check, evaluate, train
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.evaluation.retrieval import rank_table
from diptych.pipeline.training.config import TrainConfig

from ...conftest import picture

TEXTS = ["a red shirt", "a blue shoe", "green"]


@pytest.fixture
def classify(tiny):
    return ImageTextClassifier(*tiny, device="cpu")


@pytest.fixture
def images(tmp_path):
    for i in range(3):
        picture("red", seed=i).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(3)]


def column(values):
    return datasets.Dataset.from_dict({"a": values})["a"]


@pytest.mark.parametrize("make", [tuple, np.array, pd.Series, column])
def test_any_column_of_images_and_of_texts_is_as_many_pairs(classify, images, make):
    expected = classify(image=images, text=TEXTS)
    assert [found["status"] for found in expected] == ["ok"] * 3
    assert classify(image=make(images), text=make(TEXTS)) == expected
    assert classify({"image": make(images), "text": make(TEXTS)}) == expected
    assert len(classify(text=make(TEXTS))) == 3


def test_a_batch_of_a_dataset_is_as_many_pairs(classify, images):
    batch = datasets.Dataset.from_dict({"image": images, "text": TEXTS, "sku": [1, 2, 3]})[:2]
    assert classify(batch) == classify(image=images[:2], text=TEXTS[:2])


def test_pixels_in_lists_are_one_image(classify):
    pixels = np.asarray(picture("red")).tolist()
    assert classify({"image": pixels, "text": "a red shirt"})["status"] == "ok"


def test_an_image_and_several_texts_are_no_pairs(classify, images):
    assert classify({"image": images[0], "text": TEXTS})["status"] == "text_unreadable"
    with pytest.raises(ValueError, match="there is one image and a list of 3 texts"):
        classify(image=images[0], text=np.array(TEXTS))


@pytest.mark.parametrize(
    "call",
    [
        lambda name: ImageTextClassifier.__call__(None, {"text": "a"}, **{name: 2}),
        lambda name: check([{"text": "a"}], **{name: 2}),
        lambda name: evaluate("nosuch", [], **{name: 2}),
        lambda name: train([], "nosuch", **{name: 2}),
        lambda name: classify_table("nosuch.csv", "out.csv", model="nosuch", **{name: 2}),
    ],
)
def test_an_option_that_does_not_exist_is_named_everywhere(call):
    with pytest.raises(ValueError, match="there is no option 'tpo_k'"):
        call("tpo_k")


@pytest.mark.parametrize(("option", "value", "reason"), [
    ("batch_size", 2.5, "must be a whole number"), ("epochs", 1.0, "must be a whole number"),
    ("cache", "no", "must be True or False"), ("flip", 3, "must be True or False"),
    ("seed", -1, "must be at least 0"), ("seed", 2**32, "at most 4294967295"),
    ("learning_rate", float("inf"), "must be above 0 and below inf"),
])  # fmt: skip
def test_a_value_of_another_kind_is_named(option, value, reason):
    with pytest.raises(ValueError, match=f"{option} is {value!r}.* {reason}"):
        TrainConfig(**{option: value})


def test_numbers_of_numpy_are_numbers():
    config = TrainConfig(seed=np.int64(3), epochs=np.uint8(2))
    assert [type(config.seed), type(config.epochs)] == [int, int]


@pytest.fixture
def aligned(tiny, tmp_path):
    tiny[0].set_alignment(0.1)
    ImageTextClassifier(*tiny).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("measure", [evaluate, rank_table])
def test_batches_have_a_row_at_least(measure, size, aligned, images):
    rows = [{"image": image, "text": text, "label": "no"} for image, text in zip(images, TEXTS, strict=True)]
    with pytest.raises(ValueError, match=f"batch_size is {size}; it must be at least 1"):
        measure(aligned, rows, batch_size=size)


def test_a_stream_is_measured_no_row_of(aligned, images):
    rows = [{"image": image, "text": text, "label": "no"} for image, text in zip(images, TEXTS, strict=True)]
    with pytest.raises(ValueError, match="data is a stream, of which no row can be asked for by its number: save it"):
        evaluate(aligned, datasets.Dataset.from_list(rows).to_iterable_dataset())


@pytest.mark.parametrize("text", [5, 1.5, np.int64(3)])
def test_a_number_is_explained_as_its_digits(classify, text):
    assert classify.explain(text=text).label in classify.labels


@pytest.mark.parametrize(("text", "reason"), [(b"a", "a bytes is no text"), (float("nan"), "neither an image nor")])
def test_what_is_no_text_is_not_explained(classify, text, reason):
    with pytest.raises(ValueError, match=reason):
        classify.explain(text=text)


@pytest.mark.parametrize(
    "column",
    [
        pd.array([2**53 + 1, None, 7], "Int64"),
        pd.Categorical(["b", "a", None]),
        pd.to_datetime(["2024-01-01"] * 3, utc=True),
    ],
)
def test_the_columns_of_a_data_frame_come_back_as_they_are(classify, images, column):
    frame = pd.DataFrame({"image": images, "text": TEXTS, "label": column}, index=[5, 5, 6])
    found = classify(frame)
    pd.testing.assert_series_equal(found["input_label"], frame["label"], check_names=False)
    assert found["label"].tolist() == [one["label"] for one in classify(image=images, text=TEXTS)]


def test_the_columns_of_a_polars_frame_come_back_as_they_are(classify, images):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"image": images, "text": TEXTS, "n": [1, None, 3]}, schema_overrides={"n": polars.UInt8})
    found = classify(frame.with_columns(polars.col("text").cast(polars.Categorical)))
    assert found["n"].equals(frame["n"])
    assert found["text"].dtype == polars.Categorical
