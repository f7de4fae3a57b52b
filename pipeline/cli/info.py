"""What commands show to people: predictions, evaluations, rankings, in words and columns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime.files import megabytes
from .options import CacheDir, Debug, Json, Quiet
from .terminal import one_line_errors


def cache_text(folder: Path, entries: list[dict[str, Any]], *, cleared: bool) -> str:
    """One line for each encoder whose features are kept, and what all of them take."""
    lines = [
        f"{entry['changed']}  {megabytes(entry['bytes']):>10}  {entry['items']:>9,}  {entry['key'][:8]}  "
        + ", ".join([entry["encoder"], *(f"grid {entry['grid']}" for _ in range("grid" in entry))])
        for entry in entries
    ]
    total = megabytes(sum(entry["bytes"] for entry in entries))
    return "\n".join([*lines, f"{total} in {folder}{', taken away' if cleared and entries else ''}"])


def info(
    cache: Annotated[bool, typer.Option("--cache", help="Show what the feature cache holds instead.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="With --cache: take it all away.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show the versions in use and the devices: what to put into a bug report. Or the feature cache."""
    with one_line_errors(debug):
        if cache:
            from ..feature_cache.folder import cache_folder, cached_encoders, clear_cache
            from .info import cache_text

            folder = cache_folder(cache_dir)
            entries = cached_encoders(folder)
            if clear:
                clear_cache(folder)
            print(json.dumps(entries) if as_json else cache_text(folder, entries, cleared=clear))
            return
        if clear or cache_dir is not None:
            raise ValueError("--clear and --cache-dir go with --cache")
        import platform
        from importlib.metadata import version

        import torch

        facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
        packages = ("diptych", "torch", "torchvision", "transformers", "datasets", "accelerate", "pillow")
        facts |= {package: version(package) for package in packages}
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["devices"] = devices or [f"CPU, {os.cpu_count()} cores"]
        if as_json:
            print(json.dumps(facts))
        else:
            for name, value in facts.items():
                print(f"{name:>14}  {', '.join(value) if isinstance(value, list) else value}")
