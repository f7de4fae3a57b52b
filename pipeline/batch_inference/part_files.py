"""What is known of each part's file, and parts joined into one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..runtime.files import reason
from ..runtime.outputs import beside, facts_of, write_whole


def facts_file(part: Path) -> Path:
    """The hidden file beside a part that says of which run it is, its hash, and how many rows of which status."""
    return part.with_name(f".{part.stem}.json")


def write_facts(part: Path, written: Path, **facts: Any) -> None:
    """Say what `written` is, which is to become the file of a part.

    Raises:
        ValueError: What stands in the place for it is not of ours.
    """
    if facts_file(part).exists() and "table_run" not in read_facts(part):
        raise ValueError(f"{facts_file(part)} is in the way and not of diptych: move it, or choose another --out")
    write_whole(facts_file(part), json.dumps(facts_of(written) | facts).encode())


def read_facts(part: Path) -> dict[str, Any]:
    """What is said of a part; empty if nothing is.

    Raises:
        OSError: It is there and cannot be read.
    """
    try:
        return dict(json.loads(facts_file(part).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def damage_of_part(part: Path, facts: dict[str, Any], rows: int | None = None) -> str | None:
    """What is wrong with a part of which `facts` were written, and that is to have so many rows; None if it is whole.

    Raises:
        ValueError: It is there and cannot be read now, which says nothing of what is in it.
    """
    try:
        whole = facts_of(part) == {name: facts.get(name) for name in ("bytes", "blake2b")}
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        raise ValueError(f"{part} cannot be read ({reason(error)}); nothing was changed") from error
    if not whole:
        return "it is not what was written"
    return None if rows in (None, facts["rows"]) else f"it has {facts['rows']} rows, not {rows}"


def join(parts: list[Path], file: Path) -> None:
    """Make one file of parts, in order, whole or not at all; no part is held in memory.

    Raises:
        ValueError: It cannot be written.
    """
    try:
        with beside(file) as new:
            (_join_parquet if file.suffix == ".parquet" else _join_text)(parts, new)
    except OSError as error:
        raise ValueError(
            f"{file} cannot be written ({reason(error)}); its parts stay in {parts[0].parent}: make room, then resume "
            "with --resume"
        ) from error


def _join_parquet(parts: list[Path], file: Path) -> None:
    with pq.ParquetWriter(file, pq.read_schema(parts[0]), write_page_checksum=True) as writer:
        for path in parts:
            for batch in pq.ParquetFile(path).iter_batches(1000):
                writer.write_batch(batch)


def _join_text(parts: list[Path], file: Path) -> None:
    with file.open("wb") as joined:
        for path in parts:
            with path.open("rb") as lines:
                shutil.copyfileobj(lines, joined, 1 << 20)
