"""Encoders: from raw pixels and word ids to `Tokens`. Imports third-party code only."""

from .image import ImageEncoder
from .resnet import IMAGE_ENCODERS, ResNetEncoder
from .text import BertEncoder
from .tokens import NullTokens, Tokens
from .vision import VisionEncoder

__all__ = ["IMAGE_ENCODERS", "BertEncoder", "ImageEncoder", "NullTokens", "ResNetEncoder", "Tokens", "VisionEncoder"]
