"""Pretrained encoders that are on this machine: for whoever has no network, or has mistyped a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import constants
from transformers import AutoConfig

from .resnet import IMAGE_ENCODERS, pretrained_weights
from .text import load_text_config, model_class, quiet_transformers

RANDOM = (
    " (or --image-weights random: learned from your images alone, which takes thousands of them, and hours on a CPU)"
)


def what_is_here(*kinds: str) -> str:
    """What to choose without the network in place of an encoder of these kinds, `image` or `text`, in words."""
    found = local_encoders()
    parts = []
    for kind in kinds:
        names = f"one of {', '.join(found[kind])}, which are here" if found[kind] else "(the caches here hold none)"
        parts.append(f"--{kind}-encoder {names}, or a folder{RANDOM if kind == 'image' else ''}")
    return f"Without the network, give {'; and '.join(parts)}"


def local_encoders() -> dict[str, list[str]]:
    """Names of `image` and of `text` encoders in the caches of torchvision and of the Hub."""
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    published = [name for name in IMAGE_ENCODERS if name != "resnet-tiny"]
    images = [n for n in published if (checkpoints / pretrained_weights(n).url.rsplit("/", 1)[-1]).is_file()]
    texts = []
    for name, folder in _cached_models():
        if _sees_pictures(folder):
            images.append(name)
        elif _reads_texts(folder):
            texts.append(name)
    return {"image": images, "text": texts}


def _cached_models() -> Iterator[tuple[str, Path]]:
    """Hub ids of models in the cache whose weights are there too, and where each lies."""
    for repository in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        for folder in repository.glob("snapshots/*"):
            if any(any(folder.glob(f"*.{kind}")) for kind in ("safetensors", "bin")):
                yield repository.name.removeprefix("models--").replace("--", "/"), folder
                break


def _sees_pictures(folder: Path) -> bool:
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "architecture" in fields:  # a model of timm
            return True
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # whatever is wrong with it, it cannot be chosen
        return False
    config = getattr(config, "vision_config", None) or config
    return getattr(model_class(config), "main_input_name", None) == "pixel_values"


def _reads_texts(folder: Path) -> bool:
    try:
        load_text_config(folder)
    except ValueError:
        return False
    return True
