"""From images and sentences to the tensors that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ..encoders.image import pretrained_weights
from .config import DiptychConfig
from .images import picture_box, read_image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DiptychImageProcessor(BaseImageProcessor):
    """The transforms that belong to the image encoder's weights, and are saved with them.

    Args:
        height: Of the picture that the encoder sees, in pixels.
        width: Likewise.
        shortest_edge: Scale the picture's shorter side to this many pixels and cut the centre out;
            None scales both sides to height and width, whatever the proportions.
        mean: Of each colour, on a scale of 0 to 1, subtracted.
        std: Likewise, divided by.
        interpolation: `bilinear` or `bicubic`.
    """

    model_input_names = ["pixel_values", "image_present"]  # noqa: RUF012

    def __init__(
        self,
        *,
        height: int = 224,
        width: int = 224,
        shortest_edge: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if height < 1 or width < 1:
            raise ValueError(f"the image size is {height} x {width}; both must be at least 1 pixel")
        if shortest_edge is not None and shortest_edge < max(height, width):
            raise ValueError(f"shortest_edge is {shortest_edge}; it must be at least {max(height, width)}")
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation is {interpolation!r}; choose bilinear or bicubic")
        self.height, self.width, self.shortest_edge = height, width, shortest_edge
        self.mean, self.std = list(mean), list(std)
        self.interpolation = interpolation

    @classmethod
    def of(cls, image_encoder: str, *, pretrained: bool, size: tuple[int, int] | None = None) -> DiptychImageProcessor:
        """The transforms of torchvision's best weights for `image_encoder`, or ImageNet's usual ones.

        Args:
            image_encoder: One of `IMAGE_ENCODERS`.
            pretrained: Whether those weights are used; if so their numbers are.
            size: (height, width) in pixels, to which pictures are then scaled without cutting.
        """
        preset = pretrained_weights(image_encoder).transforms() if pretrained else None
        numbers: dict[str, Any] = {"shortest_edge": 256}
        if preset is not None:
            crop, resize = preset.crop_size[0], preset.resize_size[0]
            numbers = {
                "height": crop,
                "width": crop,
                "shortest_edge": resize,
                "interpolation": preset.interpolation.value,
            }
            numbers |= {"mean": preset.mean, "std": preset.std}
        if size is not None:
            numbers |= {"height": size[0], "width": size[1], "shortest_edge": None}
        return cls(**numbers)

    @property
    def needed_size(self) -> tuple[int, int]:
        """(height, width) in pixels that a picture must keep where it is decoded at reduced scale.

        Twice what it is then scaled to: what comes out differs from the whole picture's by 0.2 to 0.3 of 255
        in the mean (`examples/benchmarks/large_photos.py`).
        """
        height, width = (self.height, self.width) if self.shortest_edge is None else (self.shortest_edge,) * 2
        return 2 * height, 2 * width

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale (and cut) an RGB picture to `width` x `height` pixels."""
        resample = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        picture = picture_box(image)
        if self.shortest_edge is None:
            return image.resize((self.width, self.height), resample, box=picture)
        sides = (picture[2] - picture[0], picture[3] - picture[1])
        width, height = (int(self.shortest_edge * side / min(sides)) for side in sides)
        left, top = round((width - self.width) / 2), round((height - self.height) / 2)  # as torchvision rounds
        # one step: scale only what the cut keeps, so that a picture 20,000 pixels long costs no memory
        box = (left / width, top / height, (left + self.width) / width, (top + self.height) / height)
        source = (
            picture[0] + box[0] * sides[0],
            picture[1] + box[1] * sides[1],
            picture[0] + box[2] * sides[0],
            picture[1] + box[3] * sides[1],
        )
        return image.resize((self.width, self.height), resample, box=source)

    def normalize(self, image: Image.Image) -> Tensor:
        """Pixel values (3, height, width), normalised, of an RGB picture."""
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.mean, self.std))
        return (pixels - mean) / std

    def preprocess(self, images: Any, **_: Any) -> BatchFeature:
        """`pixel_values` (batch, 3, height, width) and `image_present` (batch,).

        Args:
            images: Anything that `read_image` takes, a tensor from `normalize`, or None for an
                absent image, whose pixel values are 0 and are never encoded.

        Raises:
            BadImage: An image cannot be used.
        """
        images = [images] if not isinstance(images, (list, tuple)) else images
        pixels = [self._pixels(image) for image in images]
        present = torch.tensor([tensor is not None for tensor in pixels])
        empty = torch.zeros(3, self.height, self.width)
        return BatchFeature(
            {"pixel_values": torch.stack([empty if p is None else p for p in pixels]), "image_present": present}
        )

    def _pixels(self, image: Any) -> Tensor | None:
        if image is None or isinstance(image, Tensor):
            return image
        return self.normalize(self.resize(read_image(image, at_least=self.needed_size)))


class DiptychProcessor(ProcessorMixin):
    """Image transforms and tokenizer of a model, saved in its folder.

    Args:
        image_processor: The image transforms.
        tokenizer: The text encoder's own.
        max_length: Longest text in word pieces, the two special ones included; the rest is cut.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, max_length: int = 128, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_length = max_length
        tokenizer.padding_side = "right"  # real tokens first: the contract of Tokens

    def __call__(
        self, images: Sequence[Any] | None = None, text: Sequence[str | None] | None = None, **_: Any
    ) -> BatchFeature:
        """Tensors for a model, of as many rows as there are images or texts; None stands for an absent half.

        Args:
            images: Anything that `DiptychImageProcessor` takes; None if no row has an image.
            text: Sentences; None if no row has a text.

        Returns:
            `pixel_values` (batch, 3, height, width), `image_present` (batch,), `input_ids` and
            `attention_mask` (batch, words), `text_present` (batch,).

        Raises:
            ValueError: There are neither images nor texts, or not as many of one as of the other.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        if images is not None and not isinstance(images, (list, tuple)):
            images = [images]
        if isinstance(text, str):
            text = [text]
        images = [None] * len(text or []) if images is None else images
        text = [None] * len(images) if text is None else text
        if len(images) != len(text):
            raise ValueError(f"there are {len(images)} images and {len(text)} texts; give as many of each")
        return BatchFeature({**self.image_processor(images), **self.tokenize(text)})

    def tokenize(self, text: Sequence[str | None]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (batch, words), padded to the longest, and `text_present` (batch,)."""
        words = self.tokenizer(
            ["" if sentence is None else sentence for sentence in text],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        present = torch.tensor([sentence is not None for sentence in text])
        return {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"], "text_present": present}

    def word_pieces(self, text: Sequence[str]) -> list[list[int]]:
        """Word pieces of each text as `tokenize` gives them, cut but not padded."""
        if not text:
            return []
        return list(self.tokenizer(list(text), truncation=True, max_length=self.max_length)["input_ids"])

    def lengths(self, text: Sequence[str]) -> list[int]:
        """Word pieces of each text, the special ones included, before any is cut."""
        if not text:
            return []
        return [len(ids) for ids in self.tokenizer(list(text), verbose=False)["input_ids"]]


AutoImageProcessor.register(DiptychConfig, image_processor_classes={"pil": DiptychImageProcessor})
AutoProcessor.register(DiptychConfig, DiptychProcessor)
