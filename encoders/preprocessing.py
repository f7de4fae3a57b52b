"""How a pretrained image encoder wants its pictures: the numbers that belong to its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from transformers import AutoImageProcessor

from .resnet import pretrained_weights
from .text import first_line, quiet_transformers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocessing(NamedTuple):
    """Numbers of a picture on its way to an encoder; by default ImageNet's usual ones.

    Attributes:
        height: Of what the encoder sees, in pixels.
        width: Of what the encoder sees, in pixels.
        shortest_edge: To which the shorter side is scaled before the centre is cut out, in pixels.
        mean: Of each colour, on a scale of 0 to 1, subtracted.
        std: Of each colour, on a scale of 0 to 1, divided by.
        interpolation: The name of one of Pillow's filters, such as `bicubic`.
    """

    height: int = 224
    width: int = 224
    shortest_edge: int = 256
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    interpolation: str = "bilinear"


def resnet_preprocessing(name: str) -> Preprocessing:
    """Of torchvision's best weights for `name`.

    Raises:
        ValueError: There are none.
    """
    preset = pretrained_weights(name).transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return Preprocessing(crop, crop, resize, preset.mean, preset.std, preset.interpolation.value)


def vision_preprocessing(name_or_folder: str | Path, size: tuple[int, int]) -> Preprocessing:
    """Of a vision model on the Hub or in a local folder, from its image processor.

    Args:
        name_or_folder: Where the model is.
        size: (height, width) in pixels of the pictures it was made for, if the processor does not say it.

    Raises:
        ValueError: There is no image processor, or it does what Diptych's does not.
    """
    try:
        with quiet_transformers():
            processor = AutoImageProcessor.from_pretrained(name_or_folder, trust_remote_code=False)
    except Exception as error:  # of the hub, of a file that is none, of a library that it wants
        raise ValueError(
            f"how the image encoder {name_or_folder} wants its pictures is not known, for want of its "
            f"preprocessor_config.json: {first_line(error)}"
        ) from error
    if hasattr(processor, "data_config"):
        return _of_timm(processor.data_config)
    return _of_transformers(processor.to_dict(), size, str(name_or_folder))


def _of_timm(numbers: dict[str, Any]) -> Preprocessing:
    height, width = numbers["input_size"][-2:]
    edge = max(height, width, math.floor(min(height, width) / numbers["crop_pct"]))
    return Preprocessing(height, width, edge, numbers["mean"], numbers["std"], numbers["interpolation"])


def _of_transformers(numbers: dict[str, Any], own_size: tuple[int, int], name: str) -> Preprocessing:
    if numbers.get("do_flip_channel_order"):
        raise ValueError(f"{name} wants its colours as blue, green, red, which Diptych does not do: choose another")
    size = numbers.get("size") if numbers.get("do_resize", True) else None
    size = dict(zip(("height", "width"), own_size, strict=True)) if not size else dict(size)
    crop = numbers.get("crop_size") if numbers.get("do_center_crop") else None
    edge = size.get("shortest_edge") or size.get("height") or max(own_size)
    height, width = (dict(crop or size).get(side) or edge for side in ("height", "width"))
    if crop is None:
        edge = max(height, width)
    if not crop and size.get("shortest_edge") and edge < 384:  # ConvNeXt's way, which names what is cut out
        edge = int(edge / numbers.get("crop_pct", 1))
    # (scale * 255 * picture - offset - mean) / std, as one subtraction and one division of a picture from 0 to 1
    scale = 255 * (numbers.get("rescale_factor") or 1 / 255) if numbers.get("do_rescale", True) else 255.0
    offset = 1.0 if numbers.get("rescale_offset") else 0.0
    normalizes = numbers.get("do_normalize", True)
    means = numbers["image_mean"] if normalizes else [0.0] * 3
    stds = numbers["image_std"] if normalizes else [1.0] * 3
    if numbers.get("include_top"):  # EfficientNet's way, which divides twice
        stds = [std * std for std in stds]
    return Preprocessing(
        height,
        width,
        max(edge, height, width),
        [(mean + offset) / scale for mean in means],
        [std / scale for std in stds],
        Image.Resampling(numbers.get("resample") or Image.Resampling.BILINEAR).name.lower(),
    )
