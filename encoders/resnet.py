"""ResNets of torchvision: the last feature grid of an image."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from .batch_norm import BatchNorm
from .image import ImageEncoder
from .trainable import EncoderNotFound, Part

IMAGE_ENCODERS = (*models.list_models(module=models, include=["resnet*", "resnext*", "wide_resnet*"]), "resnet-tiny")
"""ResNets, ResNeXts and Wide ResNets of torchvision, and one of ours for 64-pixel pictures."""

_STEM = ("conv1", "bn1", "relu", "maxpool")
_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNetEncoder(ImageEncoder):
    """A ResNet without its classifier (He et al., Deep Residual Learning, 2016), and a projection.

    Args:
        name: One of `IMAGE_ENCODERS`. Weights are random; `from_pretrained` loads learned ones.
        dim: Width of the tokens, a multiple of 4.
        region_grid: Regions to a side at most; 0 is the trunk's own grid.

    Raises:
        ValueError: `name` is not among `IMAGE_ENCODERS`, or as for `ImageEncoder`.
    """

    def __init__(self, name: str, *, dim: int = 512, region_grid: int = 0) -> None:
        if name not in IMAGE_ENCODERS:
            raise ValueError(f"unknown image encoder {name!r}; choose one of {', '.join(IMAGE_ENCODERS)}")
        if name == "resnet-tiny":
            network = _tiny_resnet()
        else:
            network = models.get_model(name, weights=None, norm_layer=BatchNorm)
        layers = ((key, getattr(network, key)) for key in (*_STEM, *_STAGES) if hasattr(network, key))
        trunk = nn.Sequential(OrderedDict(layers))
        super().__init__(trunk, name=name, width=network.fc.in_features, dim=dim, region_grid=region_grid)

    @classmethod
    def from_pretrained(cls, name: str, *, dim: int = 512) -> ResNetEncoder:
        """Build `name` with torchvision's best weights, from $TORCH_HOME or the network, its trunk frozen.

        Raises:
            ValueError: `name` is unknown, has no published weights, or they cannot be had.
        """
        encoder = cls(name, dim=dim)
        weights = pretrained_weights(name)
        try:  # weights_only: the file is a pickle, of which nothing but tensors is let through
            with contextlib.redirect_stdout(sys.stderr):  # where torch says that it downloads them
                state = weights.get_state_dict(progress=False, weights_only=True)
        except OSError as error:
            raise EncoderNotFound(
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

    def trunk_grid(self, pixel_values: Tensor) -> Tensor:
        """The last stage's grid, (batch, width, rows, columns), 7 x 7 from 224 pixels."""
        grid: Tensor = self.trunk(pixel_values)
        return grid


def pretrained_weights(name: str) -> Any:
    """Torchvision's best weights for `name`; their `transforms()` say how images are prepared.

    Raises:
        ValueError: There are none.
    """
    if name not in IMAGE_ENCODERS:
        raise ValueError(f"unknown image encoder {name!r}; choose one of {', '.join(IMAGE_ENCODERS)}")
    if name == "resnet-tiny":
        raise ValueError("resnet-tiny has no published weights; build it with random ones (--image-weights random)")
    return models.get_model_weights(name).DEFAULT


def _tiny_resnet() -> ResNet:
    """A ResNet of 8 layers and total stride 8: 0.3 M parameters, an 8 x 8 grid from 64 pixels."""
    network = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=BatchNorm)
    network.conv1 = nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1, bias=False)
    network.bn1 = BatchNorm(32)
    del network.maxpool, network.layer4
    network.inplanes = 32
    network.layer1 = network._make_layer(BasicBlock, 32, 1)
    network.layer2 = network._make_layer(BasicBlock, 64, 1, stride=2)
    network.layer3 = network._make_layer(BasicBlock, 128, 1, stride=2)
    network.fc = nn.Linear(128, 1)
    return network
