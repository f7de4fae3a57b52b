"""Image encoders: a grid of features becomes region tokens, coarser if asked for, each with its place."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .batch_norm import shared
from .tokens import Tokens, all_present, encode_present
from .trainable import Encoder


class ImageEncoder(Encoder):
    """A trunk that gives a grid of features for an image, and a projection.

    Region tokens carry where they are: a fixed two-dimensional sine code of the cell's relative
    place is added to them (after Carion et al., DETR, 2020), so that any grid works.

    Args:
        trunk: The network.
        name: What people call it.
        width: Numbers of a feature.
        dim: Width of the tokens, a multiple of 4.
        region_grid: Regions to a side at most; a finer grid of the trunk is averaged down to it. 0 is the trunk's own.

    Raises:
        ValueError: `dim` is no multiple of 4, or `region_grid` below 0.
    """

    def __init__(self, trunk: nn.Module, *, name: str, width: int, dim: int, region_grid: int) -> None:
        if dim % 4:
            raise ValueError(f"dim is {dim}; region positions need a multiple of 4")
        if region_grid < 0:
            raise ValueError(f"region_grid is {region_grid}; it must be at least 1, or 0 for the trunk's own grid")
        super().__init__(trunk, pretrained=False)
        self.name, self.width, self.region_grid = name, width, region_grid
        self.projection = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim))

    @property
    def facts(self) -> dict[str, Any]:
        """What shapes the features beside the trunk's weights."""
        return {"encoder": self.name, "region_grid": self.region_grid}

    def require_size(self, size: tuple[int, int]) -> None:
        """See that the trunk takes pictures of `size`, height and width in pixels; most take any.

        Raises:
            ValueError: It does not.
        """

    def trunk_grid(self, pixel_values: Tensor) -> Tensor:
        """The trunk's own grid of features, (batch, width, rows, columns), from (batch, 3, height, width) pixels."""
        raise NotImplementedError

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Features of the regions, (batch, width, rows, columns), from (batch, 3, height, width) pixels."""
        weight = next(self.trunk.parameters(), pixel_values)  # a trunk of 16 bits takes pixels of 32 as well
        features = self.trunk_grid(pixel_values.to(weight.dtype))
        if self.region_grid:  # never up: equal regions would only cost
            rows, columns = (min(self.region_grid, side) for side in features.shape[2:])
            features = F.adaptive_avg_pool2d(features, (rows, columns))
        return features

    def folded(self) -> ImageEncoder:
        """An encoder for inference that shares all but the trunk, whose batch norms are folded into its convolutions.

        In eval a batch norm multiplies and adds constants, and so does the convolution before it: one
        step does both. The copy is channels last, as convolutions on a CPU want it, and does not train.
        Without batch norms it is this encoder itself.
        """
        if not any(isinstance(module, nn.BatchNorm2d) for module in self.trunk.modules()):
            return self
        folded = copy.copy(self)
        folded._modules = dict(self._modules)  # the copy's own, or its trunk would become ours
        trunk = copy.deepcopy(self.trunk).eval().requires_grad_(False)
        for parent in list(trunk.modules()):
            children = list(parent.named_children())
            for (name, conv), (after, norm) in itertools.pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                    # timm's batch norms hold the activation that follows them
                    setattr(parent, after, nn.Sequential(*norm.children()) if len(norm._modules) else nn.Identity())
        folded.trunk = trunk.to(memory_format=torch.channels_last)
        return folded

    def project(self, features: Tensor, present: Tensor) -> Tokens:
        """Tokens (batch, regions, dim) from what `encode` gives, (batch, width, rows, columns)."""
        batch, _, rows, columns = features.shape
        features = features.to(next(self.projection.parameters()).dtype)  # kept features are of half precision
        states = self.projection(features.flatten(2).transpose(1, 2))  # (batch, regions, dim)
        states = states + sine_positions(rows, columns, states.shape[-1]).to(states)
        mask = torch.ones(batch, rows * columns, dtype=torch.bool, device=states.device)
        return Tokens(states, mask, present, grid=(rows, columns))

    def forward(
        self, pixel_values: Tensor | None, present: Tensor | None = None, *, features: Tensor | None = None
    ) -> Tokens:
        """Region tokens (batch, regions, dim) from (batch, 3, height, width) normalised pixels.

        Args:
            pixel_values: Any height and width; absent rows may hold anything. Not read if `features` are given.
            present: (batch,), False in rows without an image; all are there if not given.
            features: What `encode` gives for the rows, if that is known.
        """
        present = all_present(present, like=pixel_values if features is None else features)
        if features is None:
            everyone = self.training and not self.pretrained and shared()  # its batch norms wait for all processes
            features = encode_present(self.encode, present, (self.width, 1, 1), pixel_values, always=everyone)
        return self.project(features, present)


def sine_positions(rows: int, columns: int, dim: int) -> Tensor:
    """A code for each cell's relative place, (rows * columns, dim), values between -1 and 1.

    The first half of `dim` tells the row, the second the column, each by sines and cosines of
    `dim / 4` frequencies from half a turn to 4 turns over the whole picture: more would be too fine for
    the 6 to 14 cells a side that a grid has.
    """
    frequencies = math.pi * torch.logspace(0, 3, dim // 4, base=2.0)

    def code(cells: int) -> Tensor:
        centres = (torch.arange(cells) + 0.5) / cells
        angles = centres.unsqueeze(1) * frequencies  # (cells, dim / 4)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_row = code(rows).unsqueeze(1).expand(rows, columns, dim // 2)
    by_column = code(columns).unsqueeze(0).expand(rows, columns, dim // 2)
    return torch.cat([by_row, by_column], dim=2).reshape(rows * columns, dim)
