"""Encoders: from raw pixels and word ids to `Tokens`. Imports third-party code only."""

from .image import IMAGE_ENCODERS, ResNetEncoder
from .text import BertEncoder
from .tokens import NullTokens, Tokens

__all__ = ["IMAGE_ENCODERS", "BertEncoder", "NullTokens", "ResNetEncoder", "Tokens"]
