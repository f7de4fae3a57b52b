"""The task `image-text-classification` for `transformers.pipeline`, which has none of its own.

Imported with the model, so that any use of Diptych registers it:

    import diptych.pipeline.transformers_task
    classify = transformers.pipeline("image-text-classification", model="runs/products/model")
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..model.processor import DiptychProcessor  # registers itself with AutoProcessor
from ..model.scores import scores

TASK = "image-text-classification"


class ImageTextClassificationPipeline(Pipeline):
    """Scores of `{"image": ..., "text": ...}`, the likeliest label first.

    As in transformers' other classifiers a multi-label model's scores need not sum to 1, and all labels come:
    `ImageTextClassifier` says which of them reach their thresholds, `model.config.thresholds`.
    """

    _load_processor = True
    _load_tokenizer = True
    _load_image_processor = True
    processor: DiptychProcessor

    def _sanitize_parameters(self, top_k: int | None = None, **_: Any) -> tuple[dict[str, Any], ...]:
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, pair: dict[str, Any], **_: Any) -> Any:
        """Tensors of one pair."""
        return self.processor([pair.get("image")], [pair.get("text")])

    def _forward(self, batch: Any, **_: Any) -> Any:
        return {"logits": self.model(**batch).logits}

    def postprocess(self, output: dict[str, Any], top_k: int | None = None, **_: Any) -> list[dict[str, Any]]:
        """The `top_k` labels of one pair, all if not given, with their scores."""
        row = scores(output["logits"], self.model.config)[0].tolist()
        ranked = sorted(zip(self.model.config.labels, row, strict=True), key=lambda item: -item[1])
        return [{"label": label, "score": score} for label, score in ranked[:top_k]]


if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=ImageTextClassificationPipeline, pt_model=AutoModel, type="multimodal"
    )
