"""Where the feature cache lies, how big it is, and how to clear it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from ..runtime.files import Lock, megabytes, reason, user_path
from ..runtime.outputs import remove_leftovers
from .store import chunk_items, is_chunk


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where the cache is: `chosen`, $DIPTYCH_CACHE, or diptych/ in $XDG_CACHE_HOME or ~/.cache."""
    if chosen is None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        chosen = os.environ.get("DIPTYCH_CACHE") or Path(home) / "diptych"
    try:
        return user_path(chosen)
    except ValueError as error:
        raise ValueError(f"{error}: choose a --cache-dir, or set DIPTYCH_CACHE") from error


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
            f"the feature cache {folder} cannot be written to ({reason(error)}); choose another --cache-dir, or train "
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
        about = {"encoder": "unknown", **_about(place)}
        files = []
        for path in place.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a run is writing here at this moment
                files.append((path, path.stat()))
        changed = max((stat.st_mtime for _, stat in files), default=place.stat().st_mtime)
        items = sum(chunk_items(path) for path, _ in files if path.suffix == ".safetensors")
        size = sum(stat.st_size for _, stat in files)
        moment = datetime.fromtimestamp(changed).isoformat(" ", "minutes")
        found.append({**about, "key": place.name, "items": items, "bytes": size, "changed": moment})
    return sorted(found, key=lambda entry: str(entry["changed"]))


def clear_cache(folder: Path) -> list[str]:
    """Remove all features that are ours and that no run is using; in words, what stays."""
    stays = []
    for place in sorted((folder / "features").glob("*/")):
        if not {"diptych", "width"} <= _about(place).keys():
            stays.append(f"{place} stays: it is not marked as of diptych")
            continue
        try:
            with Lock(place):
                remove_leftovers(place)
                for path in place.glob("*.safetensors"):
                    if is_chunk(path):
                        path.unlink()
                (place / "encoder.json").unlink()
        except BlockingIOError:
            stays.append(f"{place} stays: a run is using it")
            continue
        with contextlib.suppress(OSError):
            place.rmdir()
        if place.exists():
            stays.append(f"{place} stays: others have put something there")
    with contextlib.suppress(OSError):
        (folder / "features").rmdir()
    return stays


def _about(place: Path) -> dict[str, Any]:
    """What `encoder.json` says; empty if there is none of ours."""
    try:
        about = json.loads((place / "encoder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
