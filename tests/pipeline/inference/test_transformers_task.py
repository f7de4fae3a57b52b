"""The model in the hands of transformers' own pipeline and Trainer."""

from __future__ import annotations

import pytest
import torch
import transformers
from diptych import ImageTextClassifier, evaluate
from diptych.pipeline.model.folder import save_model
from transformers import Trainer, TrainingArguments

from ...conftest import build_tiny, picture


@pytest.mark.parametrize("batch_size", [1, 3])
def test_transformers_pipeline_says_what_the_classifier_says(tiny, tmp_path, batch_size):
    save_model(*tiny, tmp_path / "model")
    texts = ("a red shirt", "a", "a blue shoe left right", "shoe")
    pairs = [{"image": picture("red", seed=seed), "text": text} for seed, text in enumerate(texts)]
    pipe = transformers.pipeline("image-text-classification", model=str(tmp_path / "model"), device="cpu")
    found = pipe(pairs, batch_size=batch_size)
    for ranked, expected in zip(found, ImageTextClassifier(*tiny, device="cpu")(pairs), strict=True):
        assert {item["label"]: item["score"] for item in ranked} == pytest.approx(expected["scores"], abs=1e-5)
        assert ranked[0]["label"] == expected["label"]
    assert len(pipe(pairs[0], top_k=1)) == 1
    halves = [{"image": pairs[0]["image"]}, {}, {"text": " "}, {"image": None, "text": None}, {"text": "a"}]
    assert [len(found) for found in pipe(halves[:1] + halves[2:], batch_size=batch_size)] == [2, 0, 0, 2]
    for wrong in ({}, "a red shirt", 3):
        with pytest.raises(ValueError, match="a pair is a dict with 'image', 'text' or both"):
            pipe(wrong)
    with pytest.raises(ValueError, match="a pair has 'images' and no 'image': call it so, or leave the others out"):
        pipe({"images": pairs[0]["image"], "text": "a"})
    with pytest.raises(ValueError, match="topk is nothing that image-text-classification does; it has top_k"):
        pipe(pairs[0], topk=1)
    with pytest.raises(ValueError, match="top_k is 0; it must be at least 1"):
        pipe(pairs[0], top_k=0)


def test_the_trainer_trains_it_and_measures_what_evaluate_measures(text_folder, tmp_path, pairs):
    torch.manual_seed(0)
    model, processor = build_tiny(text_folder, labels=["red", "blue"])
    model.eval()
    save_model(model, processor, tmp_path / "model")
    expected = evaluate(tmp_path / "model", pairs, quiet=True)
    before = model.head.weight.detach().clone()

    def collate(rows):
        batch = dict(processor([row["image"] for row in rows], [row["text"] for row in rows]))
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=pairs.select(range(8)), eval_dataset=pairs, data_collator=collate,
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
    )  # fmt: skip
    measured = trainer.evaluate()
    assert measured["eval_accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)
    assert measured["eval_loss"] == pytest.approx(expected["loss"], abs=1e-6)
    result = trainer.train()
    assert result.global_step == 2
    assert not torch.equal(before, model.head.weight)
