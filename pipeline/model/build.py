"""Build a new model from encoders, load a saved one, save one: the only places that touch a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ...encoders import IMAGE_ENCODERS, BertEncoder, ResNetEncoder
from ...encoders.text import load_text_config, quiet_transformers
from ..runtime.choices import IMAGE_WEIGHTS, require_choice
from .config import DiptychConfig
from .folder import _is_ours, _require_words, load_model
from .image_processor import DiptychImageProcessor
from .model import DiptychModel
from .processor import DiptychProcessor


def build_model(
    image_encoder: str = "resnet50",
    text_encoder: str = "bert-base-uncased",
    *,
    labels: list[str],
    image_weights: str = "pretrained",
    image_size: tuple[int, int] | None = None,
    max_length: int = 128,
    **architecture: Any,
) -> tuple[DiptychModel, DiptychProcessor]:
    """A model over pretrained encoders, its fusion and head random, and the processor that fits it.

    Args:
        image_encoder: One of `diptych.encoders.IMAGE_ENCODERS`, or the folder of an earlier model
            of ours, whose image trunk and transforms are taken.
        text_encoder: A Hub id or a folder of a BERT-family encoder, or the folder of an earlier
            model of ours, whose text trunk and tokenizer are taken.
        labels: Names of the classes, in the order of the logits.
        image_weights: `pretrained`, or `random` for an image trunk that learns from nothing.
        image_size: (height, width) in pixels, to which pictures are scaled without cutting; what
            the weights were trained with if not given.
        max_length: Longest text in word pieces.
        **architecture: Other fields of `DiptychConfig`.

    Raises:
        ValueError: An encoder cannot be found or a field is out of its range.
    """
    require_choice("image_weights", image_weights, IMAGE_WEIGHTS)
    image_source = load_model(image_encoder) if _is_ours(image_encoder) else None
    text_source = load_model(text_encoder) if _is_ours(text_encoder) else None

    if image_source is not None:
        encoder_name, image_processor = image_source[0].config.image_encoder, image_source[1].image_processor
        if image_size is not None:
            image_processor.size = {"height": image_size[0], "width": image_size[1]}
            image_processor.crop_size = None
    else:
        if image_encoder not in IMAGE_ENCODERS:
            raise ValueError(
                f"unknown image encoder {image_encoder!r}; choose one of {', '.join(IMAGE_ENCODERS)}, "
                "or the folder of a model trained with diptych"
            )
        pretrained = image_weights == "pretrained"
        encoder_name = image_encoder
        image_processor = DiptychImageProcessor.of(image_encoder, pretrained=pretrained, size=image_size)

    if text_source is not None:
        text_config, tokenizer = text_source[0].config.text_config, text_source[1].tokenizer
    else:
        text_config, tokenizer = load_text_config(text_encoder), load_tokenizer(text_encoder)
    text_config.name_or_path = ""  # a path of this machine says nothing elsewhere
    positions = getattr(text_config, "max_position_embeddings", max_length)
    max_length = min(max_length, positions, tokenizer.model_max_length)

    config = DiptychConfig(
        image_encoder=encoder_name,
        text_config=text_config,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        **architecture,
    )
    model = DiptychModel(config)
    if image_source is not None:
        model.image_encoder.copy_trunk(image_source[0].image_encoder)
    elif image_weights == "pretrained":
        model.image_encoder.copy_trunk(ResNetEncoder.from_pretrained(encoder_name, dim=config.hidden_size))
    if text_source is not None:
        model.text_encoder.copy_trunk(text_source[0].text_encoder)
    else:
        model.text_encoder.copy_trunk(BertEncoder.from_pretrained(text_encoder, dim=config.hidden_size))
    return model, DiptychProcessor(image_processor, tokenizer, max_length=max_length)


def load_tokenizer(name_or_folder: str | Path) -> Any:
    """The tokenizer of a text encoder, from the Hub or a local folder.

    Raises:
        ValueError: There is none.
    """
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(name_or_folder, trust_remote_code=False)
        _require_words(tokenizer)
        return tokenizer
    except Exception as error:  # of a file that is none, too
        raise ValueError(
            f"there is no tokenizer at {str(name_or_folder)!r}; a text encoder's folder holds one"
        ) from error
