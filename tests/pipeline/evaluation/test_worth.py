"""Was the image worth it: the additive projection by its definition, and on tasks that are and are not additive."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from diptych import evaluate, load_model
from diptych.encoders.tokens import Tokens
from diptych.pipeline.cli.evaluate import evaluation_text
from diptych.pipeline.demo.scenes import SHIPPED_MODEL, make_scenes
from diptych.pipeline.evaluation import worth as module
from diptych.pipeline.evaluation.worth import by_class, measure_worth, paired, wilson, worth_report
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.model.model import DiptychOutput
from torch import nn


class StandIn(nn.Module):
    """A model whose logit is what a function makes of a number of the image and one of the text."""

    def __init__(self, function):
        super().__init__()
        self.function, self.config = function, type("Config", (), {"num_labels": 2})()

    def encode(self, batch):
        there = torch.ones(len(batch["labels"]), dtype=torch.bool)
        return tuple(Tokens(batch[name][:, None, None], there[:, None], there) for name in ("image", "text"))

    def fuse(self, image, text):
        score = self.function(image.states[:, 0, 0], text.states[:, 0, 0])
        return DiptychOutput(logits=torch.stack([torch.zeros_like(score), score], dim=1))


def measured(function, rows=300, **options):
    rng = torch.Generator().manual_seed(0)
    image, text = torch.randn(rows, generator=rng), torch.randn(rows, generator=rng)
    labels = (function(image, text) > 0).long()
    batches = [
        {"image": image[part], "text": text[part], "labels": labels[part]} for part in torch.arange(rows).split(64)
    ]
    return measure_worth(StandIn(function), batches, Accelerator(cpu=True), **options), image, text


def right(found, name):
    return float((found[name].argmax(1) == found["labels"]).float().mean())


def test_all_pairs_are_the_projection_by_its_definition():
    found, image, text = measured(lambda i, t: i * t + i, rows=40, exact=True)
    table = image[None, :] * text[:, None] + image[None, :]  # (texts, images)
    expected = table.mean(1) + table.mean(0) - table.mean()
    torch.testing.assert_close(found["additive"][:, 1], expected, atol=1e-5, rtol=1e-5)


def test_an_additive_task_loses_next_to_nothing():
    found, *_ = measured(lambda i, t: 2 * i + t)
    assert right(found, "both") == 1
    assert right(found, "additive") >= 0.995
    assert right(found, "swapped") < 0.8


def test_what_only_both_say_is_lost():
    found, *_ = measured(lambda i, t: i * t)
    assert right(found, "both") == 1
    assert right(found, "additive") < 0.65


def test_nobody_keeps_its_own_image_and_a_seed_chooses():
    found, image, _ = measured(lambda i, t: i, rows=50)
    assert not torch.isclose(found["swapped"][:, 1], image).any()
    assert sorted(found["swapped"][:, 1].tolist()) == pytest.approx(sorted(image.tolist()))
    again, *_ = measured(lambda i, t: i, rows=50)
    other, *_ = measured(lambda i, t: i, rows=50, seed=1)
    assert torch.equal(found["swapped"], again["swapped"])
    assert not torch.equal(found["swapped"], other["swapped"])


def test_texts_of_any_length_meet_every_image(tiny, pairs, tmp_path):
    words = ["a", "a red", "a red shirt left", "blue shoe right a red shirt"]
    rows = [{"image": pairs[n]["image"], "text": words[n % 4], "label": ("no", "yes")[n % 2]} for n in range(12)]
    save_model(*tiny, tmp_path)
    found = evaluate(tmp_path, rows, quiet=True)["worth"]
    assert found["sampled_rows"] == 12


def test_of_many_rows_some_are_taken(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 30)
    found, *_ = measured(lambda i, t: i, rows=80)
    assert len(found["labels"]) == 30


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (5, 10), (678, 678), (540, 678)])
def test_intervals_are_those_of_statsmodels_by_hand(hits, rows):
    low, high = wilson(hits, rows)
    for bound in {low, high} - {0.0, 1.0}:  # the bounds solve |share - bound| = z * sd(bound)
        assert abs(hits / rows - bound) == pytest.approx(1.96 * math.sqrt(bound * (1 - bound) / rows), rel=1e-6)
    assert low <= hits / rows <= high


def test_a_paired_difference():
    one, other = torch.tensor([1, 1, 1, 0, 1.0]), torch.tensor([1, 0, 1, 0, 0.0])
    mean, low, high = paired(one, other)
    assert mean == pytest.approx(0.4)
    assert (high - mean) == pytest.approx(mean - low)
    assert paired(one, one) == (0, 0, 0)


@pytest.mark.parametrize(("better", "says"), [(80, "more than chance"), (2, "which may be chance"), (-80, "a loss")])
def test_the_sentence_says_what_the_interval_says(better, says):
    both = torch.tensor([True] * (100 + max(better, 0)) + [False] * (100 + max(-better, 0)))
    text = torch.tensor([True] * 100 + [False] * max(better, 0) + [True] * max(-better, 0) + [False] * 100)
    text = text[: len(both)]
    report = worth_report({"both": both, "text_only": text, "image_only": text, "majority": text}, {})
    assert report["sentence"].endswith(says)


def test_classes_one_by_one():
    found = by_class(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), ["a", "b", "c"])
    assert found["a"] == {"rows": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert found["b"]["recall"] == pytest.approx(2 / 3)
    assert found["c"] == {"rows": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    several = by_class(torch.tensor([[1, 0], [1, 1]]), torch.tensor([[1, 1], [0, 1]]), ["a", "b"])
    assert several["a"]["precision"] == 0.5
    assert several["b"]["recall"] == 0.5


@pytest.mark.slow
def test_evaluate_says_it_of_scenes():
    """Neither the sentence nor the picture says anything alone, and nothing of it is additive."""
    report = evaluate(SHIPPED_MODEL, make_scenes(240, seed=5), quiet=True)
    accuracy = {name: values[0] for name, values in report["worth"]["accuracy"].items()}
    assert accuracy["both"] > 0.95
    assert accuracy["text_only"] == accuracy["image_only"] == accuracy["majority"] == 0.5
    assert accuracy["additive"] == pytest.approx(0.5, abs=0.12)
    shown = evaluation_text(report, by_class=True)
    assert "was the image worth it? with it" in shown
    assert "additive (EMAP)" in shown
    assert "precision" in shown
    few = evaluate(SHIPPED_MODEL, make_scenes(40, seed=5), quiet=True)
    assert "warning: 40 rows are few" in evaluation_text(few)


@pytest.mark.slow
def test_on_scenes_the_projection_is_chance():
    model, _ = load_model(SHIPPED_MODEL)
    assert model.config.labels == ["false", "true"]
    report = evaluate(SHIPPED_MODEL, make_scenes(120, seed=6), quiet=True, emap_exact=True)  # 14,400 pairs
    assert report["worth"]["accuracy"]["additive"][0] == pytest.approx(0.5, abs=0.05)
