"""The transforms that belong to an image encoder: from a picture to normalised pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from ...encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from ..data.images import picture_box, read_image
from ..runtime.choices import IMAGE_FITS, require_choice
from .config import DiptychConfig

MOST_PIXELS = 4096
"""Of a side that an encoder sees: a batch of larger ones would not fit in memory."""
_OLD_NAMES = {"height", "width", "shortest_edge", "mean", "std"}
_SAVED_BY_TRANSFORMERS = {"image_processor_type", "processor_class", "feature_extractor_type"}


class DiptychImageProcessor(BaseImageProcessor):
    """The transforms that belong to the image encoder's weights, and are saved with them.

    Args:
        size: In pixels, as transformers names it: `{"height": h, "width": w}` scales both sides, whatever the
            proportions; `{"shortest_edge": s}` scales the shorter side and cuts `crop_size` out of the centre.
        crop_size: `{"height": h, "width": w}` in pixels; goes with `shortest_edge`, and only with it.
        do_pad: Keep the proportions where both sides are scaled, and fill what is left with `image_mean`.
        image_mean: Of each colour, on a scale of 0 to 1, subtracted.
        image_std: Of each colour, on a scale of 0 to 1, divided by.
        interpolation: The name of one of Pillow's filters, such as `bilinear`.
        kwargs: What transformers saves with any image processor; names of formats 1 to 3 are read with a warning.

    Raises:
        ValueError: A number is out of its range, or a name is not known.
    """

    model_input_names = ["pixel_values", "image_present"]  # noqa: RUF012

    def __init__(
        self,
        *,
        size: dict[str, int] | None = None,
        crop_size: dict[str, int] | None = None,
        do_pad: bool = False,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        **kwargs: Any,
    ) -> None:
        if old := sorted(_OLD_NAMES & set(kwargs)):
            names = ", ".join(old)
            warnings.warn(
                f"{names}: names of Diptych 0.3, read until 0.5; now size, crop_size, image_mean and image_std",
                FutureWarning,
                stacklevel=2,
            )
            given = {"size": size, "crop_size": crop_size, "image_mean": image_mean, "image_std": image_std}
            new = _renamed({name: kwargs.pop(name) for name in old})
            size, crop_size, image_mean, image_std = (given | new).values()
        if unknown := sorted(set(kwargs) - _SAVED_BY_TRANSFORMERS):
            raise ValueError(
                f"{unknown[0]} is nothing that this image processor does; it has size, crop_size, do_pad, "
                "image_mean, image_std and interpolation"
            )
        super().__init__(**kwargs)
        self.size = dict(size or {"height": 224, "width": 224})
        self.crop_size = None if crop_size is None else dict(crop_size)
        cuts = set(self.size) == {"shortest_edge"}
        if not cuts and set(self.size) != {"height", "width"}:
            raise ValueError(f"size is {self.size}; give height and width, or shortest_edge, in pixels")
        if cuts is (crop_size is None) or (cuts and set(crop_size or ()) != {"height", "width"}):
            raise ValueError(f"crop_size is {crop_size}; give its height and width with a size of shortest_edge only")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"the image size is {self.height} x {self.width}; both must be at least 1 pixel")
        if max(self.height, self.width) > MOST_PIXELS:
            raise ValueError(
                f"the image size is {self.height} x {self.width}; both must be at most {MOST_PIXELS} pixels"
            )
        if self.shortest_edge is not None and self.shortest_edge < max(self.height, self.width):
            raise ValueError(
                f"shortest_edge is {self.shortest_edge}; it must be at least {max(self.height, self.width)}"
            )
        if do_pad and cuts:
            raise ValueError("do_pad is True; it goes with a size of height and width only")
        if interpolation.upper() not in Image.Resampling.__members__:
            names = ", ".join(Image.Resampling.__members__).lower()
            raise ValueError(f"interpolation is {interpolation!r}; choose one of {names}")
        self.do_pad = do_pad
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.interpolation = interpolation

    @classmethod
    def of(
        cls, wanted: Preprocessing, *, size: tuple[int, int] | None = None, fit: str | None = None
    ) -> DiptychImageProcessor:
        """The transforms of an encoder.

        Args:
            wanted: What its weights were trained with.
            size: (height, width) in pixels that the encoder is to see, if other than that.
            fit: One of `IMAGE_FITS`, by default the first.
        """
        fit = IMAGE_FITS[0] if fit is None else fit
        require_choice("image_fit", fit, IMAGE_FITS)
        numbers: dict[str, Any] = {
            "image_mean": wanted.mean,
            "image_std": wanted.std,
            "interpolation": wanted.interpolation,
        }
        height, width = size or (wanted.height, wanted.width)
        box = {"height": height, "width": width}
        if fit != "crop":
            return cls(size=box, do_pad=fit == "pad", **numbers)
        edge = round(wanted.shortest_edge * max(height, width) / max(wanted.height, wanted.width))
        return cls(size={"shortest_edge": edge}, crop_size=box, **numbers)

    @property
    def fit(self) -> str:
        """Which of `IMAGE_FITS` brings a picture to the encoder's size."""
        return "crop" if self.crop_size else "pad" if self.do_pad else "squash"

    @property
    def preprocessing(self) -> Preprocessing:
        """The numbers of which `of` makes such transforms."""
        edge = self.shortest_edge or max(self.height, self.width)
        return Preprocessing(self.height, self.width, edge, self.image_mean, self.image_std, self.interpolation)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers reads a saved one, of any format."""
        return super().from_dict(_renamed(image_processor_dict), **kwargs)

    @property
    def height(self) -> int:
        """Of the picture that the encoder sees, in pixels."""
        return (self.crop_size or self.size)["height"]

    @property
    def width(self) -> int:
        """Of the picture that the encoder sees, in pixels."""
        return (self.crop_size or self.size)["width"]

    @property
    def shortest_edge(self) -> int | None:
        """To how many pixels the shorter side is scaled before the centre is cut out; None if nothing is cut."""
        return self.size.get("shortest_edge")

    @property
    def needed_size(self) -> tuple[int, int]:
        """(height, width) in pixels that a picture must keep where it is decoded at reduced scale.

        Twice what it is then scaled to: what comes out differs from the whole picture's by 0.2 to 0.3 of 255
        in the mean (`examples/benchmarks/large_photos.py`).
        """
        height, width = (self.height, self.width) if self.shortest_edge is None else (self.shortest_edge,) * 2
        return 2 * height, 2 * width

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale (and pad, or cut) an RGB picture to `width` x `height` pixels."""
        resample = Image.Resampling[self.interpolation.upper()]
        picture = picture_box(image)
        sides = (picture[2] - picture[0], picture[3] - picture[1])
        if self.do_pad:
            scale = min(self.width / sides[0], self.height / sides[1])
            whole = (max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale)))
            bars = Image.new("RGB", (self.width, self.height), tuple(round(255 * mean) for mean in self.image_mean))
            place = ((self.width - whole[0]) // 2, (self.height - whole[1]) // 2)
            bars.paste(image.resize(whole, resample, box=picture), place)
            return bars
        if self.shortest_edge is None:
            return image.resize((self.width, self.height), resample, box=picture)
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
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.image_mean, self.image_std))
        return (pixels - mean) / std

    def pixel_values(self, pictures: Sequence[Tensor], device: torch.device) -> Tensor:
        """What `normalize` gives, (batch, 3, height, width), of pictures of 8 bits a colour; channels last in memory.

        Args:
            pictures: What `resize` gives, as tensors (height, width, 3) of uint8.
            device: Where to compute and to put it.
        """
        mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
        scale, shift = ((1 / (255 * std)).to(device), (mean / std).to(device))
        if device.type != "cpu":
            return (torch.stack(list(pictures)).to(device) * scale - shift).permute(0, 3, 1, 2)
        values = torch.empty(len(pictures), self.height, self.width * 3)
        scale, shift = scale.repeat(self.width), shift.repeat(self.width)
        for row, picture in zip(values, pictures, strict=True):  # one by one: one fits into the processor's cache
            row.copy_(picture.view(self.height, -1)).mul_(scale).sub_(shift)
        return values.view(-1, self.height, self.width, 3).permute(0, 3, 1, 2)

    def preprocess(self, images: Any, *, return_tensors: str = "pt") -> BatchFeature:
        """`pixel_values` (batch, 3, height, width) and `image_present` (batch,).

        Args:
            images: Anything that `read_image` takes, a tensor from `normalize`, or None for an
                absent image, whose pixel values are 0 and are never encoded.
            return_tensors: `pt` or `np`.

        Raises:
            BadImage: An image cannot be used.
            ValueError: A tensor of fractions has another size than `normalize` gives, or an option is not known.
        """
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}; choose pt or np")
        images = [images] if not isinstance(images, (list, tuple)) else images
        pixels = [self._pixels(image) for image in images]
        present = torch.tensor([tensor is not None for tensor in pixels])
        empty = torch.zeros(3, self.height, self.width)
        tensors = {"pixel_values": torch.stack([empty if p is None else p for p in pixels]), "image_present": present}
        return BatchFeature({name: t.numpy() if return_tensors == "np" else t for name, t in tensors.items()})

    def _pixels(self, image: Any) -> Tensor | None:
        if image is None:
            return None
        if isinstance(image, Tensor) and image.is_floating_point():
            if image.shape != (3, self.height, self.width):
                raise ValueError(
                    f"a tensor of fractions is taken for normalised pixels (3, {self.height}, {self.width}), and one "
                    f"is {tuple(image.shape)}; give pictures as integers of 8 bits, arrays or PIL images"
                )
            return image
        return self.normalize(self.resize(read_image(image, at_least=self.needed_size)))


def _renamed(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields of a saved image processor by the names of format 4."""
    if not _OLD_NAMES & set(saved):
        return saved
    numbers = {name: value for name, value in saved.items() if name not in _OLD_NAMES}
    height_width = {"height": saved.get("height", 224), "width": saved.get("width", 224)}
    edge = saved.get("shortest_edge")
    numbers["size"] = height_width if edge is None else {"shortest_edge": edge}
    numbers |= {} if edge is None else {"crop_size": height_width}
    return numbers | {f"image_{name}": saved[name] for name in ("mean", "std") if name in saved}


AutoImageProcessor.register(DiptychConfig, image_processor_classes={"pil": DiptychImageProcessor})
