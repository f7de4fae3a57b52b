"""What a model folder must be: checked before anything of it is loaded, and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

_CODE = {"auto_map", "custom_pipelines", "quantization_config", "kernel_config", "use_kernels"}
_CODE |= {f"{prefix}{name}_implementation" for prefix in ("", "_") for name in ("attn", "experts")}
"""Keys by which transformers loads code, or kernels, that are not its own."""


def check_files(folder: Path) -> None:
    """See that a folder names no code, and no weights but its own.

    Raises:
        ValueError: It does; the message names the file and what it names.
    """
    for file in sorted(folder.glob("*.json")):
        if file.name in ("tokenizer.json", "vocab.json"):
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # whoever needs it says why it cannot be read
        for key, value in _items(content):
            if key in _CODE and value not in (None, False, "eager", "sdpa"):
                if key == "auto_map":
                    raise ValueError("it brings code of its own, which is never run")
                raise ValueError(f"{file.name} asks for {key} {value!r}, which loads code or kernels: take it out")
    if (folder / "adapter_config.json").exists():
        raise ValueError("adapter_config.json names the weights of another model: merge the adapter and save it again")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        for name in sorted(set(map(str, weight_map.values()))):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(f"{index.name} names {name!r}; weights are .safetensors files of the folder itself")


def check_weights(model: nn.Module, info: dict[str, Any]) -> None:
    """See that a model was loaded whole, with nothing left over, and that all its weights are numbers.

    Args:
        model: As it was loaded.
        info: What transformers says of it.

    Raises:
        ValueError: Weights are missing, left over, of another shape, or not finite.
    """
    wrong = {*info["missing_keys"], *info["unexpected_keys"], *(key[0] for key in info["mismatched_keys"])}
    if wrong:
        raise ValueError(
            f"damaged: {len(wrong)} weights are missing, left over or of another shape than its config.json says, "
            f"{min(wrong)} first; train or copy it again"
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            if not bool(low.isfinite() & high.isfinite()):
                raise ValueError(f"damaged: {name} has values that are not finite; train or copy it again")


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects, and its value."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _items(value)
