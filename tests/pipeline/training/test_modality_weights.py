"""The modality weights mean something: they go to the half that knows the answer."""

from __future__ import annotations

import random

import datasets
import pytest
import torch
from diptych import ImageTextClassifier, train
from diptych.pipeline.demo.drawing import COLOURS, SHAPES, Scene, Thing, draw_scene
from diptych.pipeline.demo.scenes import SHIPPED_MODEL


def half_blind(rows: int, seed: int) -> list[dict]:
    """Which colour? Each row has one half that tells, and a blank scene or a sentence of filler for the other."""
    rng = random.Random(seed)
    table = []
    for index in range(rows):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(list(SHAPES))
        place = {"x": rng.uniform(0.2, 0.8), "y": rng.uniform(0.2, 0.8), "radius": 0.13, "tilt": rng.uniform(-15, 15)}
        thing = Thing(colour, shape, rgb=COLOURS[colour], **place)
        light = rng.randint(232, 250)
        tells = index % 2  # 0: the image, 1: the text
        scene = Scene(() if tells else (thing,), (light, light, light))
        text = f"the picture shows a {colour} {shape}" if tells else f"the picture shows a {shape}"
        table.append({"image": draw_scene(scene, 48), "text": text, "label": colour, "tells": ("image", "text")[tells]})
    return table


@pytest.mark.slow
def test_the_larger_weight_is_on_the_half_that_tells(tmp_path):
    rows, held = (
        [{k: v for k, v in row.items() if k != "tells"} for row in half_blind(*some)] for some in ((1200, 0), (200, 2))
    )
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.Value("string")}
    )
    # held-out rows of their own: sentences of filler repeat, and rows that share a text stay on one side
    data = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows, features=features),
        validation=datasets.Dataset.from_list(held, features=features),
    )
    record = train(
        data,
        tmp_path,
        image_encoder=str(SHIPPED_MODEL),  # its trunks, under a new fusion
        text_encoder=str(SHIPPED_MODEL),
        architecture={"hidden_size": 128, "fusion_heads": 4, "fusion_hidden_size": 256},
        epochs=10,
        learning_rate=1e-3,
        batch_size=32,
        quiet=True,
        say=lambda line: None,
    )
    held_out = half_blind(600, seed=1)
    classify = ImageTextClassifier.from_pretrained(tmp_path, device="cpu")
    found = classify([{"image": row["image"], "text": row["text"]} for row in held_out])
    larger = []
    for start in range(0, len(held_out), 50):
        some = held_out[start : start + 50]
        batch = classify.processor([row["image"] for row in some], [row["text"] for row in some])
        with torch.no_grad():
            weights = classify.model(**batch).modality_weights
        larger += ["image" if image > text else "text" for image, text in weights.tolist()]
    share = sum(a == row["tells"] for a, row in zip(larger, held_out, strict=True)) / len(held_out)
    accuracy = sum(p["label"] == row["label"] for p, row in zip(found, held_out, strict=True)) / len(held_out)
    print(f"larger weight on the half that tells: {share:.1%}; accuracy {accuracy:.1%}")
    assert record["best"]["accuracy"] >= 0.9
    assert accuracy >= 0.9
    assert share >= 0.9
