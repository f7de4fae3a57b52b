"""The model in the hands of transformers' own pipeline and Trainer."""

from __future__ import annotations

import diptych.pipeline.inference.transformers_task  # noqa: F401  registers the task
import pytest
import torch
import transformers
from diptych import ImageTextClassifier
from diptych.pipeline.model.folder import save_model
from transformers import Trainer, TrainingArguments

from ...conftest import picture


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


def test_the_trainer_trains_it(tiny, tmp_path, pairs):
    model, processor = tiny
    before = model.head.weight.detach().clone()

    def collate(rows):
        batch = dict(processor([row["image"] for row in rows], [row["text"] for row in rows]))
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    result = Trainer(model=model, args=arguments, train_dataset=pairs.select(range(8)), data_collator=collate).train()
    assert result.global_step == 2
    assert not torch.equal(before, model.head.weight)
