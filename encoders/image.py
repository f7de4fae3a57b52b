"""ResNet: an image becomes region tokens, one for each cell of the last feature grid, or of a coarser one."""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from .tokens import Tokens, all_present, encode_present
from .trainable import Encoder, Part

IMAGE_ENCODERS = (*models.list_models(module=models, include=["resnet*", "resnext*", "wide_resnet*"]), "resnet-tiny")
"""ResNets, ResNeXts and Wide ResNets of torchvision, and one of ours for 64-pixel pictures."""

_STEM = ("conv1", "bn1", "relu", "maxpool")
_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNetEncoder(Encoder):
    """A ResNet without its classifier (He et al., Deep Residual Learning, 2016), and a projection.

    Region tokens carry where they are: a fixed two-dimensional sine code of the cell's relative
    place is added to them (after Carion et al., DETR, 2020), so that any input size works.

    Args:
        name: One of `IMAGE_ENCODERS`. Weights are random; `from_pretrained` loads learned ones.
        dim: Width of the tokens, a multiple of 4.
        region_grid: Regions to a side at most; a finer grid of the trunk is averaged down to it. 0 is the
            trunk's own, 7 x 7 from 224 pixels.

    Raises:
        ValueError: `name` is not among `IMAGE_ENCODERS`, `dim` is no multiple of 4, or `region_grid` below 0.
    """

    def __init__(self, name: str, *, dim: int = 512, region_grid: int = 0) -> None:
        if name not in IMAGE_ENCODERS:
            raise ValueError(f"unknown image encoder {name!r}; choose one of {', '.join(IMAGE_ENCODERS)}")
        if dim % 4:
            raise ValueError(f"dim is {dim}; region positions need a multiple of 4")
        if region_grid < 0:
            raise ValueError(f"region_grid is {region_grid}; it must be at least 1, or 0 for the trunk's own grid")
        if name == "resnet-tiny":
            network = _tiny_resnet()
        else:
            network = models.get_model(name, weights=None, norm_layer=_BatchNorm)
        layers = ((key, getattr(network, key)) for key in (*_STEM, *_STAGES) if hasattr(network, key))
        super().__init__(nn.Sequential(OrderedDict(layers)), pretrained=False)
        self.name, self.region_grid = name, region_grid
        self.width: int = network.fc.in_features
        self.projection = nn.Sequential(nn.Linear(self.width, dim), nn.LayerNorm(dim))

    @classmethod
    def from_pretrained(cls, name: str, *, dim: int = 512) -> ResNetEncoder:
        """Build `name` with torchvision's best weights, from $TORCH_HOME or the network, its trunk frozen.

        Raises:
            ValueError: `name` is unknown, has no published weights, or they cannot be had.
        """
        encoder = cls(name, dim=dim)
        weights = pretrained_weights(name)
        try:  # weights_only: the file is a pickle, of which nothing but tensors is let through
            state = weights.get_state_dict(progress=False, weights_only=True)
        except OSError as error:
            raise ValueError(
                f"the weights of {name} cannot be had ({error}): open the network, or put the file that "
                f"{weights.url} names into {torch.hub.get_dir()}/checkpoints"
            ) from error
        except Exception as error:  # whatever a damaged file makes the unpickler raise
            raise ValueError(
                f"the weights of {name} in {torch.hub.get_dir()}/checkpoints are damaged, or hold more than tensors "
                "and are refused: take the file away"
            ) from error
        encoder.trunk.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
        encoder.pretrained = True
        encoder.unfreeze(0)
        return encoder

    def parts(self) -> list[Part]:
        """Stem, then the stages."""
        children = dict(self.trunk.named_children())
        stem = [children[key] for key in _STEM if key in children]
        return [("stem", stem), *((key, [children[key]]) for key in _STAGES if key in children)]

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Features of the regions, (batch, width, rows, columns), from (batch, 3, height, width) pixels."""
        features: Tensor = self.trunk(pixel_values)
        if self.region_grid:  # never up: equal regions would only cost
            rows, columns = (min(self.region_grid, side) for side in features.shape[2:])
            features = F.adaptive_avg_pool2d(features, (rows, columns))
        return features

    def folded(self) -> ResNetEncoder:
        """An encoder for inference that shares all but the trunk, whose batch norms are folded into its convolutions.

        In eval a batch norm multiplies and adds constants, and so does the convolution before it: one
        step does both. The copy is channels last, as convolutions on a CPU want it, and does not train.
        """
        folded = copy.copy(self)
        folded._modules = dict(self._modules)  # the copy's own, or its trunk would become ours
        trunk = copy.deepcopy(self.trunk).eval().requires_grad_(False)
        for parent in list(trunk.modules()):
            children = list(parent.named_children())
            for (name, conv), (after, norm) in itertools.pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                    setattr(parent, after, nn.Identity())
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
            features = encode_present(self.encode, present, (self.width, 1, 1), pixel_values)
        return self.project(features, present)


def pretrained_weights(name: str) -> Any:
    """Torchvision's best weights for `name`; their `transforms()` say how images are prepared.

    Raises:
        ValueError: There are none.
    """
    if name not in IMAGE_ENCODERS:
        raise ValueError(f"unknown image encoder {name!r}; choose one of {', '.join(IMAGE_ENCODERS)}")
    if name == "resnet-tiny":
        raise ValueError("resnet-tiny has no published weights; build it with random ones (--image-weights none)")
    return models.get_model_weights(name).DEFAULT


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


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm that lives through a batch of one value per channel, of which there are no statistics.

    So it is where a single row of a training batch has an image, and the last grid is one region:
    that batch is normalised as in eval, and the running statistics stand still.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width), normalised."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def _tiny_resnet() -> ResNet:
    """A ResNet of 8 layers and total stride 8: 0.3 M parameters, an 8 x 8 grid from 64 pixels."""
    network = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=_BatchNorm)
    network.conv1 = nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1, bias=False)
    network.bn1 = _BatchNorm(32)
    del network.maxpool, network.layer4
    network.inplanes = 32
    network.layer1 = network._make_layer(BasicBlock, 32, 1)
    network.layer2 = network._make_layer(BasicBlock, 64, 1, stride=2)
    network.layer3 = network._make_layer(BasicBlock, 128, 1, stride=2)
    network.fc = nn.Linear(128, 1)
    return network
