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

from ...encoders.resnet import pretrained_weights
from ..data.images import picture_box, read_image
from .config import DiptychConfig

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

    def pixel_values(self, pictures: Sequence[Tensor], device: torch.device) -> Tensor:
        """What `normalize` gives, (batch, 3, height, width), of pictures of 8 bits a colour; channels last in memory.

        Args:
            pictures: What `resize` gives, as tensors (height, width, 3) of uint8.
            device: Where to compute and to put it.
        """
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        scale, shift = ((1 / (255 * std)).to(device), (mean / std).to(device))
        if device.type != "cpu":
            return (torch.stack(list(pictures)).to(device) * scale - shift).permute(0, 3, 1, 2)
        values = torch.empty(len(pictures), self.height, self.width * 3)
        scale, shift = scale.repeat(self.width), shift.repeat(self.width)
        for row, picture in zip(values, pictures, strict=True):  # one by one: one fits into the processor's cache
            row.copy_(picture.view(self.height, -1)).mul_(scale).sub_(shift)
        return values.view(-1, self.height, self.width, 3).permute(0, 3, 1, 2)

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

    def pieces(self, text: Sequence[str]) -> list[tuple[list[int], int]]:
        """Ids of each text's word pieces, cut to `max_length`, and how many there were before."""
        if not text:
            return []
        found = self.tokenizer(
            list(text), truncation=True, max_length=self.max_length, return_attention_mask=False, verbose=False
        )
        ids: list[list[int]] = found["input_ids"]
        lengths = [len(one) for one in ids]
        long = [index for index, length in enumerate(lengths) if length >= self.max_length]
        if found.encodings is None:  # of a tokenizer in Python, which throws the rest away
            for index, length in zip(long, self.lengths([text[index] for index in long]), strict=True):
                lengths[index] = length
        else:
            special = self.tokenizer.num_special_tokens_to_add()
            for index in long:
                lengths[index] += sum(len(rest.ids) - special for rest in found.encodings[index].overflowing)
        return list(zip(ids, lengths, strict=True))

    def padded(self, pieces: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (batch, words) of ids as `pieces` gives them, padded to the longest."""
        words = max(map(len, pieces))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*one, *[pad] * (words - len(one))] for one in pieces])
        lengths = torch.tensor([len(one) for one in pieces])
        return {"input_ids": ids, "attention_mask": (torch.arange(words) < lengths.unsqueeze(1)).long()}

    def lengths(self, text: Sequence[str]) -> list[int]:
        """Word pieces of each text, the special ones included, before any is cut."""
        if not text:
            return []
        return [len(ids) for ids in self.tokenizer(list(text), verbose=False)["input_ids"]]


AutoImageProcessor.register(DiptychConfig, image_processor_classes={"pil": DiptychImageProcessor})
AutoProcessor.register(DiptychConfig, DiptychProcessor)
