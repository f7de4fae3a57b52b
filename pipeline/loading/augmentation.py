"""Random changes of training images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torchvision.transforms import v2

from ..model.image_processor import DiptychImageProcessor

_SIDES = re.compile(r"\b(left|right)(most|ward|wards|-hand)?\b", re.IGNORECASE)


class Augmentation:
    """Random changes of a training picture that leave its meaning alone.

    Args:
        processor: Says the size that comes out.
        flip: Mirror left and right, one time in two.
        crop: Cut out 70 to 100 % of the area, with its proportions changed by up to a fifth.
        colour: Change brightness, contrast and saturation by up to a fifth; never the hue.
    """

    def __init__(self, processor: DiptychImageProcessor, *, flip: bool, crop: bool, colour: bool) -> None:
        self.processor = processor
        interpolation = v2.InterpolationMode(processor.interpolation)
        steps: list[Any] = [v2.RandomHorizontalFlip()] if flip else []
        if crop:
            proportions = processor.width / processor.height
            size = (processor.height, processor.width)
            ratio = (proportions / 1.2, proportions * 1.2)
            steps.append(v2.RandomResizedCrop(size, scale=(0.7, 1.0), ratio=ratio, interpolation=interpolation))
        if colour:
            steps.append(v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2))
        self.steps = v2.Compose(steps) if steps else None

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of the size that the encoder sees, from one of any size."""
        image = self.processor.resize(image)  # first, so that a crop has the proportions that evaluation sees
        return self.steps(image) if self.steps is not None else image


def speaks_of_sides(texts: Sequence[Any]) -> bool:
    """True if at least one text in a hundred says left or right: then a mirrored picture would lie."""
    return sum(bool(_SIDES.search(text)) for text in texts if isinstance(text, str)) * 100 >= max(1, len(texts))
