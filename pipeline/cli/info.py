"""`diptych info`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from ..runtime.files import megabytes
from ..runtime.version import __version__
from .command import command, option
from .options import CacheDir
from .terminal import Show


@command()
def info(
    show: Show,
    cache: Annotated[bool, option("Show what the feature cache holds instead.", "--cache")] = False,
    clear: Annotated[bool, option("With --cache: empty it.", "--clear")] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Show versions and devices, or the feature cache."""
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
    show.result(facts, lambda facts: "\n".join(f"{name:>14}  {value}" for name, value in facts.items()))


def cache_text(folder: Path, entries: list[dict[str, Any]], *, cleared: bool) -> str:
    """One line for each encoder whose features are kept, and what all of them take."""
    lines = [
        f"{entry['changed']}  {megabytes(entry['bytes']):>10}  {entry['items']:>9,}  {entry['key'][:8]}  "
        + ", ".join([entry["encoder"], *(f"grid {entry['grid']}" for _ in range("grid" in entry))])
        for entry in entries
    ]
    total = megabytes(sum(entry["bytes"] for entry in entries))
    return "\n".join([*lines, f"{total} in {folder}{', cleared' if cleared and entries else ''}"])
