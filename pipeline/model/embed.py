"""Embeddings of texts and images by a model that was trained with alignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .model import DiptychModel
from .processor import DiptychProcessor


@torch.inference_mode()
def embed_texts(
    model: DiptychModel, processor: DiptychProcessor, texts: list[str], *, batch_size: int = 64
) -> Iterator[Tensor]:
    """Embeddings (batch, dim) of texts, batch by batch."""
    for start in range(0, len(texts), batch_size):
        words = processor.tokenize(texts[start : start + batch_size])
        yield model.get_text_features(words["input_ids"].to(model.device), words["attention_mask"].to(model.device))


@torch.inference_mode()
def embed_images(model: DiptychModel, processor: DiptychProcessor, images: list[Any]) -> Tensor:
    """Embeddings (images, dim) of images that have been read."""
    return model.get_image_features(processor.image_processor(images)["pixel_values"].to(model.device))
