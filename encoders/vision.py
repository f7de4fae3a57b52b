"""Vision models of transformers, and of timm through it: their last features as a grid, however they are laid out."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from .image import ImageEncoder
from .resnet import IMAGE_ENCODERS
from .text import first_line, load_trunk, read_config
from .trainable import Part
from .vision_trunk import Size, build_trunk, cell_of, grids, name_of, own_size, parts_of, probe, unused_modules

_NOT_THE_TRUNK = {"architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "name_or_path"}
_NOT_THE_TRUNK |= {"id2label", "label2id", "label_names", "num_classes", "num_labels", "pretrained_cfg"}
_NOT_THE_TRUNK |= {"attn_implementation", "experts_implementation", "quantization_config"}
"""What a configuration says of its classifier, of its origin and of how it is run: none of it is kept."""


class VisionEncoder(ImageEncoder):
    """A vision model without its classifier, and a projection: ViT, DINOv2, SigLIP, CLIP, ConvNeXt, Swin, timm's, ...

    What the model gives is a grid, or tokens of patches, from which class and register tokens (Darcet et al.,
    Vision Transformers Need Registers, 2024) are dropped. What its last features do not depend on, such as a
    pooler, is left out of the trunk.

    Args:
        config: What builds the trunk. Weights are random; `from_pretrained` loads learned ones.
        dim: Width of the tokens, a multiple of 4.
        region_grid: Regions to a side at most; 0 is the trunk's own grid.

    Attributes:
        size: Of the pictures that the trunk was made for, in pixels.

    Raises:
        ValueError: `config` is of no model that gives a grid, or as for `ImageEncoder`.
    """

    def __init__(self, config: PreTrainedConfig, *, dim: int = 512, region_grid: int = 0) -> None:
        trunk = build_trunk(config)
        self.size = own_size(trunk)
        layout, unused = probe(trunk, self.size, {})
        self._prefix, self._channels_last = layout.prefix, layout.channels_last
        for name in unused_modules(trunk, unused):
            trunk.set_submodule(name, nn.Identity())
        super().__init__(trunk, name=name_of(config), width=layout.width, dim=dim, region_grid=region_grid)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, dim: int = 512) -> VisionEncoder:
        """Load a trunk from the Hub or a local folder, frozen; the projection is random.

        Raises:
            ValueError: There is no such model, or it gives no grid.
        """
        encoder = cls(load_image_config(name_or_folder), dim=dim)
        names = encoder.trunk.state_dict().keys()
        weights = load_trunk(name_or_folder, encoder.trunk.config, "image", names).state_dict()
        encoder.trunk.load_state_dict({name: weights[name] for name in names})
        encoder.pretrained = True
        encoder.unfreeze(0)
        return encoder

    @property
    def facts(self) -> dict[str, Any]:
        """What shapes the features beside the trunk's weights."""
        return super().facts | {"config": plain_config(self.trunk.config)}

    def parts(self) -> list[Part]:
        """What comes before the blocks, then the blocks; what stands behind the last belongs to it."""
        return parts_of(self.trunk)

    def trunk_grid(self, pixel_values: Tensor) -> Tensor:
        """The trunk's own grid, (batch, width, rows, columns), from (batch, 3, height, width) pixels."""
        size = (pixel_values.shape[2], pixel_values.shape[3])
        states = self.trunk(pixel_values, **self._options(size)).last_hidden_state
        if states.ndim == 4:
            return states.movedim(-1, 1) if self._channels_last else states
        states = states[:, self._prefix :]  # (batch, regions, width)
        grid = next(grid for grid in grids(size, cell_of(self.trunk)) if grid[0] * grid[1] == states.shape[1])
        return states.transpose(1, 2).unflatten(2, grid)

    def folded(self) -> ImageEncoder:
        """As of `ImageEncoder`, where it gives the same: modules side by side need not follow each other."""
        picture = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        try:
            folded = super().folded()
            if folded is self:
                return self
            with torch.no_grad():
                expected, found = self.encode(picture), folded.encode(picture)
        except Exception:  # of a trunk that takes pictures of its own size only, or cannot be copied
            return self
        return folded if torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=0) else self

    def require_size(self, size: Size) -> None:
        """See that the trunk takes pictures of `size`.

        Raises:
            ValueError: It does not.
        """
        try:
            probe(self.trunk, size, self._options(size))
        except ValueError as error:
            raise ValueError(
                f"image_size is {size[0]} x {size[1]}; {self.name} takes pictures of {self.size[0]} x {self.size[1]}: "
                f"leave it out ({first_line(error)})"
            ) from error

    def _options(self, size: Size) -> dict[str, bool]:
        """What the trunk needs beside the pixels of a picture of `size`."""
        resizes = "interpolate_pos_encoding" in inspect.signature(self.trunk.forward).parameters
        return {"interpolate_pos_encoding": True} if resizes and size != self.size else {}


def load_image_config(name_or_folder: str | Path) -> PreTrainedConfig:
    """Read the configuration of a vision model, from the Hub or a local folder; of CLIP and its kin the image's part.

    Raises:
        ValueError: There is no such model, or it is none that sees pictures.
    """
    config = read_config(
        name_or_folder,
        f"unknown image encoder {str(name_or_folder)!r}; choose one of {', '.join(IMAGE_ENCODERS)}, a folder that "
        "holds a vision model, or a Hub id, which must be in the cache or the network open",
    )
    return image_config_of((getattr(config, "vision_config", None) or config).to_dict())


def image_config_of(fields: dict[str, Any]) -> PreTrainedConfig:
    """A configuration from its fields, `model_type` among them.

    Raises:
        ValueError: Transformers knows no such model, or the fields are not those of one.
    """
    try:
        config = AutoConfig.for_model(**plain_config(fields))
    except Exception as error:
        raise ValueError(f"the image encoder's configuration cannot be read: {first_line(error)}") from error
    if config.model_type == "timm_wrapper":
        config.do_pooling = False
    return config


def plain_config(config: PreTrainedConfig | dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that say what the trunk computes."""
    fields = config if isinstance(config, dict) else config.to_dict()
    return {name: value for name, value in fields.items() if name not in _NOT_THE_TRUNK and not name.startswith("_")}
