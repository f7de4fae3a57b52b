"""Whatever the configuration, every path says the same: plain, from features, folded, streamed, in parts, saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diptych import DiptychModel, ImageTextClassifier
from diptych.encoders.tokens import encode_present
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.model.scores import scores
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ...conftest import build_tiny, picture

TEXTS = ("a red shirt", "green", None, "a blue shoe left right a", "a red shirt", "a " * 60, "right")
IMAGES = ("red", "blue", "green", None, "red", "white", "blue")


@st.composite
def configurations(draw):
    """Fields of a configuration, none of them out of its range."""
    fusion = draw(st.sampled_from(["cross-modal", "self-attention", "bilinear", "concat", "mlp"]))
    heads = draw(st.sampled_from([1, 2, 4]))
    fields = {
        "fusion": fusion,
        "fusion_heads": heads,
        "hidden_size": 4 * heads * draw(st.integers(1, 3)),
        "fusion_layers": draw(st.integers(1, 3)),
        "fusion_hidden_size": draw(st.integers(1, 24)),
        "glimpses": draw(st.integers(1, 3)),
        "region_grid": draw(st.integers(0, 3)),
        "pool_words": draw(st.booleans()),
        "modality_gate": draw(st.booleans()),
        "alignment_weight": draw(st.sampled_from([0.0, 0.5])),
        "labels": [f"label {index}" for index in range(draw(st.integers(1, 4)))],
        "max_length": draw(st.integers(4, 40)),
    }
    if fusion == "self-attention":
        fields["pattern"] = draw(st.sampled_from(["dense", "sliding-window", "global", "sliding-window+global"]))
        fields["window"] = draw(st.integers(1, 9))
        fields["global_tokens"] = draw(st.lists(st.integers(0, 12), min_size=1, max_size=3, unique=True))
    if draw(st.booleans()):
        fields["problem_type"] = "multi_label_classification"
        fields["thresholds"] = draw(st.none() | st.just([0.3] * len(fields["labels"])))
    return fields


def built(text_folder, fields, seed):
    torch.manual_seed(seed)
    model, processor = build_tiny(text_folder, **fields)
    with torch.no_grad():
        for module in model.modules():  # batch norms that do something, weights that are not at their start
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
        for parameter in (*model.fusion.parameters(), *model.head.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), processor


def batch_of(processor):
    """All rows at once, their pixels as classifying makes them."""
    pictures = [None if colour is None else picture(colour, seed) for seed, colour in enumerate(IMAGES)]
    there = [torch.from_numpy(np.array(processor.image_processor.resize(image))) for image in pictures if image]
    batch = processor([None] * len(TEXTS), list(TEXTS))
    batch["image_present"] = torch.tensor([image is not None for image in pictures])
    batch["pixel_values"][batch["image_present"]] = processor.image_processor.pixel_values(there, torch.device("cpu"))
    return pictures, batch


def agree(found, expected, relative):
    # logits are differences of terms of size 1: what is left of them near 0 is their rounding
    scale = max(expected.abs().max().item(), 1e-2)
    torch.testing.assert_close(found, expected, rtol=0, atol=relative * scale)


@torch.no_grad()
def check_every_path(text_folder, folder: Path, fields, seed, batch_size, dtype, relative):
    model, processor = built(text_folder, fields, seed)
    save_model(model, processor, folder / "model")
    model = model.to(dtype)
    pictures, batch = batch_of(processor)
    there, words = batch["image_present"], (batch["input_ids"], batch["attention_mask"])
    expected = model(**batch).logits

    # one by one, from features as a cache keeps them, from folded encoders, with padding on the left
    for row in range(len(TEXTS)):
        agree(
            model(**{name: tensor[row : row + 1] for name, tensor in batch.items()}).logits[0], expected[row], relative
        )
    halves = {name: batch[name] for name in ("attention_mask", "image_present", "text_present")}
    texts = model.text_encoder.encode(*words)
    for encoder in (model.image_encoder, model.image_encoder.folded()):
        width = (encoder.width, 1, 1)
        images = encode_present(encoder.encode, there, width, batch["pixel_values"])
        agree(model(**halves, image_features=images, text_features=texts).logits, expected, relative)
    left = {"input_ids": words[0].flip(1), "attention_mask": words[1].flip(1)}
    order = left["attention_mask"].argsort(dim=1, stable=True)  # padding, then the words in their order
    left["input_ids"] = left["input_ids"].gather(1, order)
    for row, length in enumerate(words[1].sum(1).tolist()):
        left["input_ids"][row, words[0].shape[1] - length :] = words[0][row, :length]
    left["attention_mask"] = left["attention_mask"].gather(1, order)
    agree(model(**batch | left).logits, expected, relative)

    # after save and load
    again = DiptychModel.from_pretrained(folder / "model", dtype=dtype).eval()
    agree(again(**batch).logits, expected, relative)

    # streamed, in batches of like length, sorted or not, and with threads
    expected = scores(expected, model.config)
    pairs = [{"image": image, "text": text} for image, text in zip(pictures, TEXTS, strict=True)]
    for rows, workers in ((pairs, 0), (iter(pairs), 2), (pairs * 3, 2)):
        classify = ImageTextClassifier(again, processor, device="cpu")
        found = list(classify.stream(rows, batch_size=batch_size, workers=workers))
        assert [one["row"] for one in found] == list(range(len(found)))
        by_row = torch.tensor([list(one["scores"].values()) for one in found], dtype=dtype)
        agree(by_row, expected.repeat(len(found) // len(TEXTS), 1), relative)
    return expected


EVERY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.explicit, Phase.generate])
CONFIGURED = given(fields=configurations(), seed=st.integers(0, 99), batch_size=st.integers(1, 8))
TYPES = pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)


@TYPES
@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_every_path_says_the_same(text_folder, tmp_path_factory, dtype, relative, count):
    @settings(EVERY, max_examples=count)
    @CONFIGURED
    def check(fields, seed, batch_size):
        check_every_path(text_folder, tmp_path_factory.mktemp("run"), fields, seed, batch_size, dtype, relative)

    check()


@pytest.mark.slow
@settings(EVERY, max_examples=2)
@CONFIGURED
def test_tables_in_one_file_in_parts_and_by_two_processes_say_the_same(
    text_folder, tmp_path_factory, fields, seed, batch_size
):
    folder = tmp_path_factory.mktemp("run")
    expected = check_every_path(text_folder, folder, fields, seed, batch_size, torch.float32, 1e-4)
    lines = []
    for row, (colour, text) in enumerate(zip(IMAGES, TEXTS, strict=True)):
        if colour is not None:
            picture(colour, row).save(folder / f"{row}.png")
        lines.append(json.dumps({"image": f"{row}.png" if colour is not None else None, "text": text}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "out").mkdir()
    for out, part_rows, processes in (("one.jsonl", 10_000, 1), ("parts/", 3, 1), ("two/", 2, 2)):
        data, place = str(folder / "rows.jsonl"), folder / "out" / out
        if processes == 1:
            options = {"batch_size": batch_size, "part_rows": part_rows, "quiet": True, "say": lambda line: None}
            classify_table(data, f"{folder / 'out'}/{out}", model=folder / "model", **options)
        else:
            words = ["classify", "--data", data, "--out", f"{place}/", "--model", folder / "model", "--quiet"]
            words += ["--batch-size", batch_size, "--part-rows", part_rows, "--processes", processes]
            command = [sys.executable, "-m", "diptych", *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
        if out == "one.jsonl":
            rows = [json.loads(line) for line in place.read_text().splitlines()]
        else:
            parts = sorted(place.glob("*.parquet"))
            assert len(parts) == -(-len(TEXTS) // part_rows)
            rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
        assert [row["row"] for row in rows] == list(range(len(TEXTS)))
        agree(torch.tensor([list(row["scores"].values()) for row in rows]), expected, 1e-4)
