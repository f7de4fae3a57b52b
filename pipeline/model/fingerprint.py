"""Hashes of a model: equal if its predictions are."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from .model import DiptychModel
from .processor import DiptychProcessor

_NOT_THE_MODEL = {"transformers_version", "_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype"}


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration without what says nothing about it."""
    return {
        key: plain_config(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NOT_THE_MODEL
    }


def model_digest(model: DiptychModel, processor: DiptychProcessor) -> str:
    """A hash of all that a model's predictions follow from: weights, configuration, processor."""
    digest = hashlib.blake2b(digest_size=16)
    images = {name: value for name, value in vars(processor.image_processor).items() if not name.startswith("_")}
    config = [plain_config(model.config.to_dict()), images, processor.max_length]
    digest.update(json.dumps(config, default=str, sort_keys=True).encode())
    hash_weights(digest, model)
    return digest.hexdigest()


def hash_weights(digest: Any, module: torch.nn.Module) -> None:
    """Add to a hash the weights of a module and its buffers, by name."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
