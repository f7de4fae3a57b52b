"""What the tests of the encoders share: tiny trunks of every family."""

from __future__ import annotations

from typing import Any

import pytest
from diptych.encoders.vision import image_config_of
from transformers import AlbertConfig, BertConfig, DistilBertConfig, ElectraConfig, PreTrainedConfig, RobertaConfig

VOCABULARY = 40
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}

TEXT_FAMILIES = ("bert", "distilbert", "roberta", "albert", "electra")


def tiny_config(family: str) -> PreTrainedConfig:
    """Three layers, 16 wide; ALBERT and ELECTRA with their narrower embeddings."""
    if family == "distilbert":
        return DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=24
        )
    if family == "albert":  # whose own default is no dropout
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        return AlbertConfig(**_SIZES, embedding_size=8, **dropout)
    if family == "electra":
        return ElectraConfig(**_SIZES, embedding_size=8)
    return {"bert": BertConfig, "roberta": RobertaConfig}[family](**_SIZES)


_PATCHES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES = {"depths": [1, 1, 1, 1], "image_size": 64}
_VISION: dict[str, dict[str, Any]] = {
    "vit": _PATCHES,
    "dinov2": _PATCHES,
    "dinov2_with_registers": _PATCHES,
    "siglip": _PATCHES | {"model_type": "siglip_vision_model"},
    "clip": _PATCHES | {"model_type": "clip_vision_model"},
    "convnext": _STAGES | {"hidden_sizes": [4, 8, 8, 16]},
    "swin": _STAGES | {"embed_dim": 4, "num_heads": [1, 1, 1, 1], "window_size": 2},
    "test_efficientnet": {"model_type": "timm_wrapper", "architecture": "test_efficientnet"},  # of timm's own tests
}
VISION_FAMILIES = tuple(_VISION)


def tiny_vision_config(family: str) -> PreTrainedConfig:
    """Two or four blocks, 16 wide, of pictures of 32 or 64 pixels."""
    if family.startswith("test_"):
        pytest.importorskip("timm")
    return image_config_of({"model_type": family} | _VISION[family])
