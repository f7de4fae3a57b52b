"""The task `image-text-classification` for `transformers.pipeline`, which has none of its own.

    import diptych, transformers
    classify = transformers.pipeline("image-text-classification", model="runs/products/model")
    classify({"image": "shirt.jpg", "text": "Turtle Check Men Navy Blue Shirt"}, top_k=3)

`import diptych` registers it, and the classes for AutoConfig, AutoModel and AutoProcessor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..data.rows import read_text
from ..data.values import is_nothing
from ..model.calibration import modalities_of
from ..model.config import warn_of_left_out
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..model.scores import scores
from ..runtime.auto_classes import TASK


class ImageTextClassificationPipeline(Pipeline):
    """Scores of `{"image": ..., "text": ...}`, the likeliest label first; none of a pair that has neither.

    As in transformers' other classifiers a multi-label model's scores need not sum to 1, and all labels come:
    `ImageTextClassifier` says which of them reach their thresholds, `model.config.thresholds`.
    """

    _load_processor = True
    _load_tokenizer = True
    _load_image_processor = True
    processor: DiptychProcessor

    def _sanitize_parameters(self, top_k: int | None = None, **unknown: Any) -> tuple[dict[str, Any], ...]:
        if unknown:
            raise ValueError(f"{min(unknown)} is nothing that {TASK} does; it has top_k and batch_size")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, pair: Any) -> Any:
        """Tensors of one pair."""
        if not isinstance(pair, Mapping) or not {"image", "text"} & set(pair):
            raise ValueError("a pair is a dict with 'image', 'text' or both")
        missing, others = {"image", "text"} - {*pair}, {*pair} - {"image", "text"}
        if missing and others:
            named = ", ".join(map(repr, sorted(map(str, others))))
            raise ValueError(f"a pair has {named} and no {missing.pop()!r}: call it so, or leave the others out")
        for name in self.model.config.left_out & {*pair}:
            warn_of_left_out(name)
            pair = {**pair, name: None}
        image, (text, _) = pair.get("image"), read_text(pair.get("text"))
        return self.processor([None if is_nothing(image) else image], [text])

    def _forward(self, batch: Any) -> Any:
        there = batch["image_present"] | batch["text_present"]
        modalities = modalities_of(batch["image_present"], batch["text_present"])
        return {"logits": self.model(**batch).logits, "there": there, "modalities": modalities}

    def postprocess(self, output: dict[str, Any], top_k: int | None = None) -> list[dict[str, Any]]:
        """The `top_k` labels of one pair, all if not given, with their scores."""
        if not output["there"].any():
            return []
        row = scores(output["logits"], self.model.config, output["modalities"])[0].tolist()
        ranked = sorted(zip(self.model.config.labels, row, strict=True), key=lambda item: -item[1])
        return [{"label": label, "score": score} for label, score in ranked[:top_k]]


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=ImageTextClassificationPipeline, pt_model=DiptychModel, type="multimodal"
)
