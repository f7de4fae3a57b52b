"""Where the feature cache lies, how big it is, and how to clear it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from ..runtime.files import megabytes
from .store import _header


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where the cache is: `chosen`, $DIPTYCH_CACHE, or diptych/ in $XDG_CACHE_HOME or ~/.cache."""
    if chosen is None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        chosen = os.environ.get("DIPTYCH_CACHE") or Path(home) / "diptych"
    return Path(chosen).expanduser()


def require_room(folder: Path, needed: int) -> None:
    """See that `needed` bytes can be written in the cache.

    Raises:
        ValueError: The disk has not that much room, or the folder cannot be made; the message says what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"the feature cache {folder} cannot be written to ({error.strerror}); choose another --cache-dir, or train "
            "with --no-cache"
        ) from error
    if needed > free:
        raise ValueError(
            f"the features need {megabytes(needed)} in {folder}, where {megabytes(free)} are free; make room, choose "
            "another --cache-dir, a smaller --region-grid, or train with --no-cache"
        )


def cached_encoders(folder: Path) -> list[dict[str, Any]]:
    """What the cache holds, by encoder: `key`, `encoder`, `items`, `bytes`, `changed` (a time), oldest first."""
    found = []
    for place in sorted((folder / "features").glob("*/")):
        about: dict[str, Any] = {}
        try:
            about = dict(json.loads((place / "encoder.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            about["encoder"] = "unknown"
        files = []
        for path in place.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a run is writing here at this moment
                files.append((path, path.stat()))
        changed = max((stat.st_mtime for _, stat in files), default=place.stat().st_mtime)
        items = sum(_count(path) for path, _ in files if path.suffix == ".safetensors")
        size = sum(stat.st_size for _, stat in files)
        moment = datetime.fromtimestamp(changed).isoformat(" ", "minutes")
        found.append({**about, "key": place.name, "items": items, "bytes": size, "changed": moment})
    return sorted(found, key=lambda entry: str(entry["changed"]))


def clear_cache(folder: Path) -> None:
    """Take away all features; a run that reads them goes on with those it has opened."""
    shutil.rmtree(folder / "features", ignore_errors=True)


def _count(path: Path) -> int:
    try:
        return int(_header(path)[0]["ids"]["shape"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0
