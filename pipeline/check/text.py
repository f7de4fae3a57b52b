"""What a check found, for people: a table of metrics, what is wrong, and what to do next."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from ..data.splits import has_training_split
from .scan import NOT_BAD
from .statistics import HUGE, TINY

SHOWN_BAD_ROWS = 5
_WIDEST = 110


def report(found: Mapping[str, Any]) -> str:
    """The findings of `check` as lines that fit a screen."""
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    lines = [str(found["data"]), *found["remarks"], "", *_table(found), ""]
    for title, kind in (
        ("errors, which would break training, evaluating or classifying", "errors"),
        ("warnings", "warnings"),
    ):
        if found[kind]:
            lines.append(f"{title}:")
            for number, finding in enumerate(found[kind], start=1):
                start = f"{number:>3}. "
                indent = {"initial_indent": start, "subsequent_indent": " " * len(start)}
                lines += textwrap.wrap(finding["message"], width, break_on_hyphens=False, **indent)  # type: ignore[arg-type]
            lines.append("")
    lines += _bad_rows(found, width)
    broken, warned = len(found["errors"]), len(found["warnings"])
    if broken:
        lines.append(f"not ready: fix the {_count(broken, 'error')} above, then check again")
    else:
        uses, note = _uses(found), f", {_count(warned, 'warning')} above" if warned else ""
        lines.append(f"ready: nothing here would break {uses}{note}")
    return "\n".join(lines).encode("utf-8", "replace").decode()  # no terminal takes half a character


def _uses(found: Mapping[str, Any]) -> str:
    """What a check without an error is good for."""
    if found["columns"]["label"] is None:
        return "classifying"
    if has_training_split(found["splits"]):
        return "training, evaluating or classifying"
    return "evaluating or classifying (no split to train on was checked)"


def _table(found: Mapping[str, Any]) -> list[str]:
    """A column for each split, and one for all if there are several."""
    parts = dict(found["splits"])
    if len(parts) > 1:
        parts["all"] = found["all"]
    cells = [(name, [_cell(part, place) for part in parts.values()]) for name, place in _lines(found)]
    rows = [("", list(parts))]
    rows += [(name.removeprefix("?"), line) for name, line in cells if name[0] != "?" or set(line) - {"0", "-"}]
    first = max(len(name) for name, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(line for _, line in rows), strict=True)]
    return [f"{name:<{first}}  {'  '.join(map(str.rjust, line, widths))}".rstrip() for name, line in rows]


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name of each line and where its number stands; one that begins with a `?` is left out where it is all zeros."""
    yield "rows", "rows"
    for status in found["all"]["statuses"]:
        yield f"?  {status}" if status != "ok" else "  ok", f"statuses.{status}"
    yield from (("images, distinct", "images.distinct"), ("?  rows that share one", "images.rows_sharing"))
    yield from (("?  files cut short", "images.cut_short"), (f"?  under {TINY} pixels a side", "images.tiny"))
    yield from (
        (f"?  over {HUGE // 1_000_000} megapixels", "images.huge"),
        ("  width x height, median", "images.median"),
    )
    if found["all"]["images"]["sizes"] > 1:
        yield from (("    smallest", "images.smallest"), ("    largest", "images.largest"))
    yield "  seen: all of it; with --image-fit crop", "images.in_crop"
    yield from (("texts, distinct", "texts.distinct"), ("?  rows that share one", "texts.rows_sharing"))
    yield from ((f"  {found['all']['texts']['unit']}, median", "texts.median"), ("    longest", "texts.longest"))
    if found["max_length"] is not None:
        yield f"  over {found['max_length']} tokens", "texts.too_long"
    if found["columns"]["label"] is not None:
        yield from (("classes", "labels.classes"), ("  rows of the largest", "labels.largest.1"))
        yield from (("  rows of the smallest", "labels.smallest.1"), ("?  rows without label", "labels.missing"))


def _cell(part: Any, place: str) -> str:
    for key in place.split("."):
        part = (part or [0, 0])[int(key)] if key.isdecimal() else part.get(key, 0)
    if part is None or isinstance(part, list):
        return "x".join(map(str, part or "-"))
    return f"{part:.0%}" if isinstance(part, float) else f"{part:,}"


def _bad_rows(found: Mapping[str, Any], width: int) -> list[str]:
    """The first few of them, and where the others are."""
    bad, file = found["bad_rows"], found["bad_rows_file"]
    total = sum(n for status, n in found["all"]["statuses"].items() if status not in NOT_BAD)
    if not total:
        return []
    shown = bad[:SHOWN_BAD_ROWS]
    first = "all" if total == len(shown) else f"the first {len(shown)} of {total:,}"
    where = f", all in {file}" if file else "" if total == len(shown) else "; --out FILE writes all"
    lines = [f"bad rows, {first}{where}:"]
    widths = [max(len(str(row[key])) for row in shown) for key in ("split", "row", "status")]
    for row in shown:
        start = f"  {row['split']:<{widths[0]}}  {row['row']:>{widths[1]}}  {row['status']:<{widths[2]}}  "
        reason = " ".join(row["reason"].split())
        lines.append(start + (reason if len(start + reason) <= width else "..." + reason[len(start) + 3 - width :]))
    return [*lines, ""]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
