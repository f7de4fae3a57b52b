"""`diptych info`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime.files import megabytes
from ..runtime.version import __version__
from .command import command, option
from .options import CacheDir
from .terminal import Show


@command()
def info(
    show: Show,
    model: Annotated[
        str | None, typer.Argument(help="Show this model instead: a run's folder, a model's folder or a Hub id.")
    ] = None,
    cache: Annotated[bool, option("Show what the feature cache holds instead.", "--cache")] = False,
    clear: Annotated[bool, option("With --cache: empty it.", "--clear")] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Show versions and devices, or a model, or the feature cache."""
    if model is not None:
        if cache or clear or cache_dir is not None:
            raise ValueError("--cache, --clear and --cache-dir do not go with a model: leave them out, or the model")
        show.result(model_facts(model), _listed)
        return
    if cache:
        from ..feature_cache.folder import cache_folder, cached_encoders, clear_cache

        folder = cache_folder(cache_dir)
        entries = cached_encoders(folder)
        stays = clear_cache(folder) if clear else []
        for line in stays:
            show.remark(line)
        show.result(entries, lambda entries: cache_text(folder, entries, cleared=clear and not stays))
        return
    if clear or cache_dir is not None:
        raise ValueError("--clear and --cache-dir go with --cache")
    import platform
    from importlib.metadata import version

    import torch

    facts = {"python": platform.python_version(), "system": platform.platform(), "diptych": __version__}
    packages = ("torch", "torchvision", "transformers", "datasets", "accelerate", "pillow")
    facts |= {package: version(package) for package in packages}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["devices"] = ", ".join(devices) or f"CPU, {os.cpu_count()} cores"
    show.result(facts, _listed)


def model_facts(name: str) -> dict[str, Any]:
    """What a saved model is, what it was trained on, and whether its scores are calibrated; no weights are loaded."""
    from ..data.rows import Columns
    from ..model.folder import load_config

    config, version = load_config(name)
    names = config.labels
    kind = ", any number a row" if config.multi_label else ", one a row" if names else ""
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return {
        "model": name,
        "format": version,
        "image encoder": config.image_encoder,
        "text encoder": config.text_config.model_type,
        "fusion": config.fusion,
        "classes": f"{len(names)}{kind}{': ' if names else ''}{listed}",
        "columns": str(Columns(**config.columns)) if config.columns else "not known",
        "calibration": calibration_text(config.calibration, labels=bool(names)),
    }


def calibration_text(calibration: dict[str, Any] | None, *, labels: bool) -> str:
    """For which modalities a model is calibrated, by how many rows."""
    if not labels:
        return "none: there are no classes"
    if not calibration:
        return "none: scores are raw, and --precision, --coverage and --sets cannot be had; train it again for them"
    titles = {"both": "image and text", "text": "text only", "image": "image only"}
    found = [f"{title} ({calibration[key]['rows']} rows)" for key, title in titles.items() if key in calibration]
    missing = [f"not of {title}" for key, title in titles.items() if key not in calibration]
    return ", ".join([f"scores of {found[0]}", *found[1:], *missing])


def _listed(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name:>14}  {value}" for name, value in facts.items())


def cache_text(folder: Path, entries: list[dict[str, Any]], *, cleared: bool) -> str:
    """One line for each encoder whose features are kept, and what all of them take."""
    lines = [
        f"{entry['changed']}  {megabytes(entry['bytes']):>10}  {entry['items']:>9,}  {entry['key'][:8]}  "
        + ", ".join([entry["encoder"], *(f"grid {entry['grid']}" for _ in range("grid" in entry))])
        for entry in entries
    ]
    total = megabytes(sum(entry["bytes"] for entry in entries))
    return "\n".join([*lines, f"{total} in {folder}{', cleared' if cleared and entries else ''}"])
