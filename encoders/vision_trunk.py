"""The trunk of a vision model: built without its classifier, its features looked at without computing any."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_timm_available

from .batch_norm import BatchNorm
from .text import first_line, model_class
from .trainable import Part, evaluating

Size = tuple[int, int]
"""Height and width, in pixels or in regions."""


def build_trunk(config: PreTrainedConfig) -> PreTrainedModel:
    """A random trunk.

    Raises:
        ValueError: It is none that sees pictures, or cannot be built here.
    """
    name = name_of(config)
    if config.model_type == "timm_wrapper":
        if not is_timm_available():
            raise ValueError(f"the image encoder {name} is a model of timm, which is not installed: pip install timm")
        arguments = config.model_args or {}
        if not re.fullmatch(r"\w+", name) or any(word in key for key in arguments for word in ("path", "pretrained")):
            raise ValueError(f"the image encoder {name} names weights of another place, which are not loaded")
    if config.model_type == "vit_mae":
        raise ValueError(f"{name} leaves parts of a picture out at random: choose another --image-encoder")
    if model_class(config) is None:
        raise ValueError(f"{name} is no vision model that transformers builds alone: choose another --image-encoder")
    try:
        # a half-precision checkpoint is built in it
        trunk = AutoModel.from_config(config).to(torch.get_default_dtype())
    except Exception as error:  # of fields that do not go together, of a timm that does not know the name
        raise ValueError(f"the image encoder {name} cannot be built: {first_line(error)}") from error
    if trunk.main_input_name != "pixel_values":
        raise ValueError(f"{name} is no vision model, it wants {trunk.main_input_name}: choose another --image-encoder")
    for module in trunk.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm
        elif isinstance(module, nn.BatchNorm2d) and module._modules.keys() == {"drop", "act"}:
            module.__class__ = _TimmBatchNorm
    return trunk


class _TimmBatchNorm(BatchNorm):
    """One of timm's, which holds the activation that follows it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width), normalised and activated."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def name_of(config: PreTrainedConfig) -> str:
    """What people call a model: the architecture of timm's, the type of any other."""
    return str(config.architecture if config.model_type == "timm_wrapper" else config.model_type)


def own_size(trunk: PreTrainedModel) -> Size:
    """Height and width of the pictures that a trunk was made for."""
    config = trunk.config
    size = getattr(config, "image_size", None)
    if config.model_type == "timm_wrapper":
        size = (config.model_args or {}).get("img_size") or trunk.timm_model.pretrained_cfg["input_size"][1:]
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[1])
    return (int(size), int(size)) if size else (224, 224)


class Layout(NamedTuple):
    """How a trunk's last features lie.

    Attributes:
        width: Numbers of one.
        prefix: Tokens before those of the patches.
        channels_last: Whether a grid is (batch, rows, columns, width).
    """

    width: int
    prefix: int = 0
    channels_last: bool = False


def probe(trunk: PreTrainedModel, size: Size, options: dict[str, bool]) -> tuple[Layout, set[str]]:
    """How the features of a picture of `size` lie, and which parameters they do not depend on.

    Nothing is computed: tensors on the device `meta` have shapes and know what they came from, but no numbers.

    Raises:
        ValueError: The trunk cannot encode such a picture, or its features are no grid.
    """
    what = f"{name_of(trunk.config)} cannot encode a picture of {size[0]} x {size[1]} pixels"
    weights = {name: p.detach().to("meta").requires_grad_() for name, p in trunk.named_parameters()}
    buffers = {name: buffer.to("meta") for name, buffer in trunk.named_buffers()}
    try:
        with evaluating(trunk), torch.inference_mode(False), torch.enable_grad():
            blank = torch.zeros(1, 3, *size, device="meta")
            output = torch.func.functional_call(trunk, weights | buffers, (blank,), options)
            states = output.last_hidden_state
            gradients = torch.autograd.grad(states.sum(), list(weights.values()), allow_unused=True)
    except Exception as error:  # whatever a model makes of a picture that it does not take
        raise ValueError(f"{what}: {first_line(error)}") from error
    unused = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is None}
    network = getattr(trunk, "timm_model", None)
    if states.ndim == 4 and states.numel():
        channels_last = states.shape[3] == getattr(network, "num_features", None) != states.shape[1]
        return Layout(states.shape[3 if channels_last else 1], 0, channels_last), unused
    if states.ndim == 3:
        registers = getattr(trunk.config, "num_register_tokens", None) or 0
        prefixes = (
            {0, 1, 2, registers, 1 + registers} if network is None else {getattr(network, "num_prefix_tokens", 0)}
        )
        for prefix in sorted(prefixes):
            if any(rows * columns == states.shape[1] - prefix for rows, columns in grids(size, cell_of(trunk))):
                return Layout(states.shape[2], prefix), unused
    raise ValueError(f"{what} as a grid of regions: its features are {tuple(states.shape[1:])}")


def cell_of(trunk: PreTrainedModel) -> Size | None:
    """Height and width of a trunk's first patches in pixels, if it says them."""
    embedding = getattr(getattr(trunk, "timm_model", None), "patch_embed", None)
    names = [(trunk.config, "patch_stride"), (trunk.config, "patch_size"), (embedding, "patch_size")]
    cell = next((c for c in (getattr(owner, name, None) for owner, name in names) if c), None)
    return (cell, cell) if isinstance(cell, int) else cell and (int(cell[0]), int(cell[1]))


def grids(size: Size, cell: Size | None) -> Iterator[Size]:
    """Grids that a picture of `size` may become, finest first: of `cell`, then of twice that, or of any stride."""
    strides = ((s, s) for s in range(1, max(size) + 1))
    for high, wide in strides if cell is None else ((cell[0] << k, cell[1] << k) for k in range(6)):
        yield -(-size[0] // high), -(-size[1] // wide)  # as a padded convolution counts
        yield size[0] // high, size[1] // wide


def unused_modules(trunk: nn.Module, unused: set[str]) -> list[str]:
    """The outermost modules whose every parameter is unused."""
    found: list[str] = []
    for name, module in trunk.named_modules():
        own = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if name and own and unused.issuperset(own) and not name.startswith(tuple(f"{other}." for other in found)):
            found.append(name)
    return found


def parts_of(trunk: nn.Module) -> list[Part]:
    """What comes before the blocks of a trunk, then the blocks; what stands behind the last belongs to it."""
    path, blocks = _blocks_of(trunk)
    parts: list[tuple[str, list[nn.Module]]] = [("embeddings", [])]
    parts += [(f"block{name}" if name.isdigit() else name, [block]) for name, block in blocks]
    done = tuple(f"{path}{name}." for name, _ in blocks)
    side = 0
    for name, module in trunk.named_modules():
        if f"{name}.".startswith(done):
            side = -1 if f"{path}{blocks[0][0]}" == name else side
        elif path.startswith(f"{name}." if name else ""):  # it holds the blocks, and perhaps parameters of its own
            parts[side][1].append(nn.ParameterList(module.parameters(recurse=False)))
        elif _weight_count(module):
            parts[side][1].append(module)
            done += (f"{name}.",)
    return list(parts)


def _blocks_of(module: nn.Module, path: str = "") -> tuple[str, list[tuple[str, nn.Module]]]:
    """The blocks that make up most of a network, in order, and the path to what holds them."""
    children = [(name, child) for name, child in module.named_children() if _weight_count(child)]
    if len(children) > 1 and isinstance(module, (nn.ModuleList, nn.Sequential)):
        return path, children
    nested = [(name, child) for name, child in children if any(_weight_count(part) for part in child.children())]
    stems = [name.rstrip("0123456789") for name, _ in nested]
    numbered = [child for child, stem in zip(nested, stems, strict=True) if child[0] != stem and stems.count(stem) > 1]
    if numbered or not children:  # layer1, layer2, ...
        return path, numbered
    name, largest = max(children, key=lambda child: (_has_blocks(child[1]), _weight_count(child[1])))
    return _blocks_of(largest, f"{path}{name}.")


def _has_blocks(module: nn.Module) -> bool:
    lists = (m for m in module.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)))
    return any(sum(_weight_count(child) > 0 for child in m.children()) > 1 for m in lists)


def _weight_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
