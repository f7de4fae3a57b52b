"""Build a new model from encoders."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...encoders import IMAGE_ENCODERS, BertEncoder, ImageEncoder, ResNetEncoder, VisionEncoder
from ...encoders.local import what_is_here
from ...encoders.preprocessing import Preprocessing, resnet_preprocessing, vision_preprocessing
from ...encoders.trainable import EncoderNotFound
from ...encoders.vision import load_image_config
from ..runtime.choices import IMAGE_WEIGHTS, require_choice
from ..runtime.options import require_names
from .config import DiptychConfig
from .folder import _is_ours, load_model
from .image_processor import DiptychImageProcessor
from .model import DiptychModel
from .processor import DiptychProcessor
from .tokenizer import length_to_read, load_tokenizer, require_fit


def build_model(
    image_encoder: str = "resnet50",
    text_encoder: str = "bert-base-uncased",
    *,
    labels: list[str],
    image_weights: str = "pretrained",
    image_size: tuple[int, int] | None = None,
    image_fit: str | None = None,
    max_length: int | None = None,
    **architecture: Any,
) -> tuple[DiptychModel, DiptychProcessor]:
    """A model over pretrained encoders, its fusion and head random, and the processor that fits it.

    Args:
        image_encoder: One of `diptych.encoders.IMAGE_ENCODERS`; a Hub id or a folder of a vision model of
            transformers or timm; or the folder of an earlier model of ours, whose image trunk and transforms are taken.
        text_encoder: A Hub id or a folder of a BERT-family encoder, or the folder of an earlier
            model of ours, whose text trunk and tokenizer are taken.
        labels: Names of the classes, in the order of the logits.
        image_weights: `pretrained`, or `random` for an image trunk that learns from nothing.
        image_size: (height, width) in pixels of what the encoder sees; what its weights were trained with
            if not given.
        image_fit: How pictures of other proportions come to that size, one of `IMAGE_FITS`; an earlier model's own, or
            the first.
        max_length: Longest text in word pieces; 128 if not given, or what the text encoder reads if that is less.
        **architecture: Other fields of `DiptychConfig`.

    Raises:
        ValueError: An encoder cannot be found, or a field does not exist or is out of its range.
    """
    require_names(architecture, [spec.name for spec in fields(DiptychConfig)], "field of the architecture")
    if isinstance(labels, str):
        raise ValueError(f"labels is {labels!r}, one text: give a list of names")
    missing: dict[str, str] = {}
    try:
        images, image_processor = _image_side(image_encoder, image_weights, image_size, image_fit)
    except EncoderNotFound as error:
        missing["image"] = str(error)
    try:
        text, tokenizer = _text_side(text_encoder)
    except EncoderNotFound as error:
        missing["text"] = str(error)
    if missing:
        raise ValueError(f"{'; '.join(missing.values())}. {what_is_here(*missing)}")
    text_config = text.trunk.config
    text_config.name_or_path = ""  # a path of this machine says nothing elsewhere
    longest = min(text.longest or tokenizer.model_max_length, tokenizer.model_max_length)
    max_length = length_to_read(max_length, longest, text_encoder)
    try:
        require_fit(tokenizer, text, max_length)
    except ValueError as error:
        raise ValueError(f"the text encoder {text_encoder} cannot be used: {error}") from None

    config = DiptychConfig(
        image_encoder=images.name,
        image_config=getattr(images.trunk, "config", None),
        text_config=text_config,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        **architecture,
    )
    model = DiptychModel(config)
    model.image_encoder.copy_trunk(images)
    model.text_encoder.copy_trunk(text)
    return model, DiptychProcessor(image_processor, tokenizer, max_length=max_length)


def _image_side(
    name: str, weights: str, size: tuple[int, int] | None, fit: str | None
) -> tuple[ImageEncoder, DiptychImageProcessor]:
    """An encoder whose trunk a new model is to have, and its transforms.

    Raises:
        ValueError: The encoder cannot be found, or does not take pictures of this size.
    """
    require_choice("image_weights", weights, IMAGE_WEIGHTS)
    encoder: ImageEncoder
    wanted, pretrained = Preprocessing(), weights == "pretrained"
    if _is_ours(name):
        if not pretrained:
            raise ValueError(f"image_weights is {weights!r}, but the encoder of {name} is trained: leave it out")
        model, processor = load_model(name)
        encoder, images = model.image_encoder, processor.image_processor
        wanted, fit = images.preprocessing, fit or images.fit
    elif name in IMAGE_ENCODERS:
        encoder = ResNetEncoder.from_pretrained(name) if pretrained else ResNetEncoder(name)
        wanted = resnet_preprocessing(name) if pretrained else wanted
    else:
        encoder = VisionEncoder.from_pretrained(name) if pretrained else VisionEncoder(load_image_config(name))
        own = Preprocessing(*encoder.size, shortest_edge=max(encoder.size))
        wanted = vision_preprocessing(name, encoder.size) if pretrained else own
    images = DiptychImageProcessor.of(wanted, size=size, fit=fit)
    encoder.require_size((images.height, images.width))
    return encoder, images


def _text_side(name: str) -> tuple[BertEncoder, Any]:
    """An encoder whose trunk a new model is to have, and its tokenizer.

    Raises:
        ValueError: There is none.
    """
    if _is_ours(name):
        model, processor = load_model(name)
        return model.text_encoder, processor.tokenizer
    return BertEncoder.from_pretrained(name), load_tokenizer(name)
