"""Vision models of transformers, and of timm through it: their last features as a grid, however they are laid out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_timm_available

from .image import ImageEncoder
from .resnet import IMAGE_ENCODERS
from .text import first_line, model_class, quiet_transformers
from .trainable import EncoderNotFound, Part

Size = tuple[int, int]
"""Height and width, in pixels or in regions."""

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
        trunk = _build(config)
        self.size = _own_size(trunk)
        layout, unused = _probe(trunk, self.size, {})
        self._prefix, self._channels_last = layout.prefix, layout.channels_last
        for name in _unused_modules(trunk, unused):
            trunk.set_submodule(name, nn.Identity())
        super().__init__(trunk, name=_name(config), width=layout.width, dim=dim, region_grid=region_grid)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, dim: int = 512) -> VisionEncoder:
        """Load a trunk from the Hub or a local folder, frozen; the projection is random.

        Raises:
            ValueError: There is no such model, or it gives no grid.
        """
        encoder = cls(load_image_config(name_or_folder), dim=dim)
        try:
            with quiet_transformers():
                loaded, report = AutoModel.from_pretrained(
                    name_or_folder, config=encoder.trunk.config, trust_remote_code=False, output_loading_info=True
                )
        except Exception as error:  # of the hub, of safetensors, of a pickle that is refused
            raise EncoderNotFound(
                f"the weights of the image encoder {name_or_folder} cannot be loaded: {first_line(error)}"
            ) from error
        names = encoder.trunk.state_dict().keys()
        if missing := sorted(names & report["missing_keys"]):
            raise ValueError(
                f"the weights at {name_or_folder} are not those of its configuration: {len(missing)} are missing, "
                f"{missing[0]} first"
            )
        weights = loaded.float().state_dict()
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
        path, blocks = _blocks(self.trunk)
        parts: list[tuple[str, list[nn.Module]]] = [("embeddings", [])]
        parts += [(f"block{name}" if name.isdigit() else name, [block]) for name, block in blocks]
        done = tuple(f"{path}{name}." for name, _ in blocks)
        side = 0
        for name, module in self.trunk.named_modules():
            if f"{name}.".startswith(done):
                side = -1 if f"{path}{blocks[0][0]}" == name else side
            elif path.startswith(f"{name}." if name else ""):  # it holds the blocks, and perhaps parameters of its own
                parts[side][1].append(nn.ParameterList(module.parameters(recurse=False)))
            elif _weighs(module):
                parts[side][1].append(module)
                done += (f"{name}.",)
        return list(parts)

    def trunk_grid(self, pixel_values: Tensor) -> Tensor:
        """The trunk's own grid, (batch, width, rows, columns), from (batch, 3, height, width) pixels.

        A single picture trains on the running statistics of batch norms: its last grid may be one region.
        """
        size = (pixel_values.shape[2], pixel_values.shape[3])
        norms = [m for m in self.trunk.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
        still = norms if len(pixel_values) == 1 else []
        for norm in still:
            norm.eval()
        try:
            states = self.trunk(pixel_values, **self._options(size)).last_hidden_state
        finally:
            for norm in still:
                norm.train()
        if states.ndim == 4:
            return states.movedim(-1, 1) if self._channels_last else states
        states = states[:, self._prefix :]  # (batch, regions, width)
        grid = next(grid for grid in _grids(size, _cell(self.trunk)) if grid[0] * grid[1] == states.shape[1])
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
            _probe(self.trunk, size, self._options(size))
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
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(name_or_folder, trust_remote_code=False)
    except Exception as error:  # of the hub, of the file system, of a file that is no configuration
        raise EncoderNotFound(
            f"unknown image encoder {str(name_or_folder)!r}; choose one of {', '.join(IMAGE_ENCODERS)}, a folder that "
            f"holds a vision model, or a Hub id, which must be in the cache or the network open ({first_line(error)})"
        ) from error
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


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    """A random trunk.

    Raises:
        ValueError: It is none that sees pictures, or cannot be built here.
    """
    name = _name(config)
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
        trunk = AutoModel.from_config(config).float()  # float(): a checkpoint of half precision is built in it
    except Exception as error:  # of fields that do not go together, of a timm that does not know the name
        raise ValueError(f"the image encoder {name} cannot be built: {first_line(error)}") from error
    if trunk.main_input_name != "pixel_values":
        raise ValueError(f"{name} is no vision model, it wants {trunk.main_input_name}: choose another --image-encoder")
    return trunk


def _name(config: PreTrainedConfig) -> str:
    return str(config.architecture if config.model_type == "timm_wrapper" else config.model_type)


def _own_size(trunk: PreTrainedModel) -> Size:
    """Height and width of the pictures that a trunk was made for."""
    config = trunk.config
    size = getattr(config, "image_size", None)
    if config.model_type == "timm_wrapper":
        size = (config.model_args or {}).get("img_size") or trunk.timm_model.pretrained_cfg["input_size"][1:]
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[1])
    return (int(size), int(size)) if size else (224, 224)


class _Layout(NamedTuple):
    """How a trunk's last features lie.

    Attributes:
        width: Numbers of one.
        prefix: Tokens before those of the patches.
        channels_last: Whether a grid is (batch, rows, columns, width).
    """

    width: int
    prefix: int = 0
    channels_last: bool = False


def _probe(trunk: PreTrainedModel, size: Size, options: dict[str, bool]) -> tuple[_Layout, set[str]]:
    """How the features of a picture of `size` lie, and which parameters they do not depend on.

    Nothing is computed: tensors on the device `meta` have shapes and know what they came from, but no numbers.

    Raises:
        ValueError: The trunk cannot encode such a picture, or its features are no grid.
    """
    what = f"{_name(trunk.config)} cannot encode a picture of {size[0]} x {size[1]} pixels"
    weights = {name: p.detach().to("meta").requires_grad_() for name, p in trunk.named_parameters()}
    buffers = {name: buffer.to("meta") for name, buffer in trunk.named_buffers()}
    training = trunk.training
    try:
        with torch.inference_mode(False), torch.enable_grad():
            blank = torch.zeros(1, 3, *size, device="meta")
            output = torch.func.functional_call(trunk.eval(), weights | buffers, (blank,), options)
            states = output.last_hidden_state
            gradients = torch.autograd.grad(states.sum(), list(weights.values()), allow_unused=True)
    except Exception as error:  # whatever a model makes of a picture that it does not take
        raise ValueError(f"{what}: {first_line(error)}") from error
    finally:
        trunk.train(training)
    unused = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is None}
    network = getattr(trunk, "timm_model", None)
    if states.ndim == 4 and states.numel():
        channels_last = states.shape[3] == getattr(network, "num_features", None) != states.shape[1]
        return _Layout(states.shape[3 if channels_last else 1], 0, channels_last), unused
    if states.ndim == 3:
        registers = getattr(trunk.config, "num_register_tokens", None) or 0
        prefixes = (
            {0, 1, 2, registers, 1 + registers} if network is None else {getattr(network, "num_prefix_tokens", 0)}
        )
        for prefix in sorted(prefixes):
            if any(rows * columns == states.shape[1] - prefix for rows, columns in _grids(size, _cell(trunk))):
                return _Layout(states.shape[2], prefix), unused
    raise ValueError(f"{what} as a grid of regions: its features are {tuple(states.shape[1:])}")


def _cell(trunk: PreTrainedModel) -> Size | None:
    """Height and width of a trunk's first patches in pixels, if it says them."""
    embedding = getattr(getattr(trunk, "timm_model", None), "patch_embed", None)
    names = [(trunk.config, "patch_stride"), (trunk.config, "patch_size"), (embedding, "patch_size")]
    cell = next((c for c in (getattr(owner, name, None) for owner, name in names) if c), None)
    return (cell, cell) if isinstance(cell, int) else cell and (int(cell[0]), int(cell[1]))


def _grids(size: Size, cell: Size | None) -> Iterator[Size]:
    """Grids that a picture of `size` may become, finest first: of `cell`, then of twice that, or of any stride."""
    strides = ((s, s) for s in range(1, max(size) + 1))
    for high, wide in strides if cell is None else ((cell[0] << k, cell[1] << k) for k in range(6)):
        yield -(-size[0] // high), -(-size[1] // wide)  # as a padded convolution counts
        yield size[0] // high, size[1] // wide


def _unused_modules(trunk: nn.Module, unused: set[str]) -> list[str]:
    """The outermost modules whose every parameter is unused."""
    found: list[str] = []
    for name, module in trunk.named_modules():
        own = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if name and own and unused.issuperset(own) and not name.startswith(tuple(f"{other}." for other in found)):
            found.append(name)
    return found


def _blocks(module: nn.Module, path: str = "") -> tuple[str, list[tuple[str, nn.Module]]]:
    """The blocks that make up most of a network, in order, and the path to what holds them."""
    children = [(name, child) for name, child in module.named_children() if _weighs(child)]
    if len(children) > 1 and isinstance(module, (nn.ModuleList, nn.Sequential)):
        return path, children
    nested = [(name, child) for name, child in children if any(_weighs(part) for part in child.children())]
    stems = [name.rstrip("0123456789") for name, _ in nested]
    numbered = [child for child, stem in zip(nested, stems, strict=True) if child[0] != stem and stems.count(stem) > 1]
    if numbered or not children:  # layer1, layer2, ...
        return path, numbered
    name, largest = max(children, key=lambda child: (_has_blocks(child[1]), _weighs(child[1])))
    return _blocks(largest, f"{path}{name}.")


def _has_blocks(module: nn.Module) -> bool:
    lists = (m for m in module.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)))
    return any(sum(_weighs(child) > 0 for child in m.children()) > 1 for m in lists)


def _weighs(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
