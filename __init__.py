"""Diptych: classify image + text pairs. ResNet regions and BERT words, fused by cross-modal attention.

    from diptych import ImageTextClassifier
    classify = ImageTextClassifier.from_pretrained("runs/products")
    classify({"image": "shirt.jpg", "text": "Turtle Check Men Navy Blue Shirt"})

Names are loaded when they are first asked for, so that importing this costs nothing; so are our classes by
transformers, whose AutoConfig, AutoModel, AutoProcessor and pipeline know them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .pipeline.runtime import auto_classes
from .pipeline.runtime.version import __version__

if TYPE_CHECKING:
    from .encoders.resnet import ResNetEncoder as ResNetEncoder
    from .encoders.text import BertEncoder as BertEncoder
    from .encoders.tokens import Tokens as Tokens
    from .pipeline.check.check import check as check
    from .pipeline.demo.scenes import make_scenes as make_scenes
    from .pipeline.evaluation.evaluate import evaluate as evaluate
    from .pipeline.inference.classifier import ImageTextClassifier as ImageTextClassifier
    from .pipeline.model.build import build_model as build_model
    from .pipeline.model.config import DiptychConfig as DiptychConfig
    from .pipeline.model.folder import load_model as load_model
    from .pipeline.model.model import DiptychModel as DiptychModel
    from .pipeline.model.processor import DiptychProcessor as DiptychProcessor
    from .pipeline.training.train import train as train
    from .pipeline.tuning.tune import tune as tune

_HOMES = {
    "BertEncoder": "encoders.text",
    "DiptychConfig": "pipeline.model.config",
    "DiptychModel": "pipeline.model.model",
    "DiptychProcessor": "pipeline.model.processor",
    "ImageTextClassifier": "pipeline.inference.classifier",
    "ResNetEncoder": "encoders.resnet",
    "Tokens": "encoders.tokens",
    "build_model": "pipeline.model.build",
    "check": "pipeline.check.check",
    "evaluate": "pipeline.evaluation.evaluate",
    "load_model": "pipeline.model.build",
    "make_scenes": "pipeline.demo.scenes",
    "train": "pipeline.training.train",
    "tune": "pipeline.tuning.tune",
}

__all__ = ["__version__", *_HOMES]


auto_classes.install(f"{__name__}.pipeline.inference.transformers_task")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
