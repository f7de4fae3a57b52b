"""A JSON record in a folder, and what must be the same for its owner to resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import reason
from .outputs import write_whole
from .version import __version__


def require_same(then: dict[str, Any], now: dict[str, Any], out: Path, *, what: str = "run") -> None:
    """See that a run, or a sweep, goes on with what it began with.

    Raises:
        ValueError: Something differs; the message names it.
    """
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"the {what} in {out} cannot go on: {name} is {_short(now.get(name))}, and was "
                f"{_short(then.get(name))}; give what the {what} began with, or choose another --out"
            )


def read_record(folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The record of a run's folder; empty if there is none of ours.

    Raises:
        ValueError: It is there and cannot be read.
    """
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    except OSError as error:
        raise ValueError(f"{folder / name} cannot be read ({reason(error)})") from error
    return record if isinstance(record, dict) and "diptych" in record else {}


def write_record(folder: Path, record: dict[str, Any], name: str = "run.json") -> None:
    """Write the record of a run: whole or not at all, replacing the one that was there."""
    write_whole(folder / name, (json.dumps({"diptych": __version__, **record}, indent=2) + "\n").encode("utf-8"))


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
