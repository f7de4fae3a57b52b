"""What a check found, for people: a table of figures, what is wrong, and what to do next."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .scan import NOT_BAD
from .statistics import HUGE, TINY

SHOWN_BAD_ROWS = 5
_WIDEST = 110


def report(found: Mapping[str, Any]) -> str:
    """The findings of `check` as lines that fit a screen."""
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    named = ", ".join(f"{half} from {name!r}" for half, name in found["columns"].items() if name is not None)
    lines = [str(found["data"]), f"columns: {named}", "", *_table(found), ""]
    for title, kind in (
        ("errors, which would break training, evaluating or classifying", "errors"),
        ("warnings", "warnings"),
    ):
        if found[kind]:
            lines.append(f"{title}:")
            for number, finding in enumerate(found[kind], start=1):
                lines += _wrapped(f"{number:>3}. ", finding["message"], width)
            lines.append("")
    lines += _bad_rows(found, width)
    broken, warned = len(found["errors"]), len(found["warnings"])
    if broken:
        lines.append(f"not ready: mend the {_count(broken, 'error')} above, then check again")
    else:
        uses = "training, evaluating or classifying" if found["columns"]["label"] is not None else "classifying"
        note = f", {_count(warned, 'warning')} above" if warned else ""
        lines.append(f"ready: nothing here would break {uses}{note}")
    return "\n".join(lines).encode("utf-8", "replace").decode()  # no terminal takes half a character


def _table(found: Mapping[str, Any]) -> list[str]:
    """A column for each split, and one for all if there are several."""
    parts = dict(found["splits"])
    if len(parts) > 1:
        parts["all"] = found["all"]
    rows = [(name, [cell(part) for part in parts.values()]) for name, cell in _lines(found)]
    rows = [(name, cells) for name, cells in rows if not name.startswith("?") or set(cells) - {"0", "-"}]
    rows = [("", list(parts)), *((name.removeprefix("?"), cells) for name, cells in rows)]
    first = max(len(name) for name, _ in rows)
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(parts))]
    return [
        f"{name:<{first}}  {'  '.join(f'{c:>{w}}' for c, w in zip(cells, widths, strict=True))}".rstrip()
        for name, cells in rows
    ]


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """Name and cell of each line; one whose name begins with a `?` is left out where it is all zeros."""

    def number(*keys: str) -> Callable[[Mapping[str, Any]], str]:
        def cell(part: Mapping[str, Any]) -> str:
            value: Any = part
            for key in keys:
                value = value.get(key, 0)
            if isinstance(value, list):
                return "x".join(map(str, value))
            return "-" if value is None else f"{value:,}"

        return cell

    def share(part: Mapping[str, Any]) -> str:
        seen = part["images"]["in_crop"]
        return "-" if seen is None else f"{seen:.0%}"

    yield "rows", number("rows")
    for status in found["all"]["statuses"]:
        yield f"?  {status}" if status != "ok" else "  ok", number("statuses", status)
    yield "images, distinct", number("images", "distinct")
    yield "?  rows that share one", number("images", "rows_sharing")
    yield "?  files cut short", number("images", "cut_short")
    yield f"?  under {TINY} pixels a side", number("images", "tiny")
    yield f"?  over {HUGE // 1_000_000} megapixels", number("images", "huge")
    yield "  width x height, median", number("images", "median")
    if found["all"]["images"]["sizes"] > 1:
        yield "    smallest", number("images", "smallest")
        yield "    largest", number("images", "largest")
    yield "  seen: all of it; with --image-fit crop", share
    yield "texts, distinct", number("texts", "distinct")
    yield "?  rows that share one", number("texts", "rows_sharing")
    yield f"  {found['all']['texts']['unit']}, median", number("texts", "median")
    yield "    longest", number("texts", "longest")
    if found["max_length"] is not None:
        yield f"  over {found['max_length']} tokens", number("texts", "too_long")
    if found["columns"]["label"] is not None:
        yield "classes", number("labels", "classes")
        yield "  rows of the largest", lambda part: f"{(part['labels']['largest'] or [0, 0])[1]:,}"
        yield "  rows of the smallest", lambda part: f"{(part['labels']['smallest'] or [0, 0])[1]:,}"
        yield "?  rows without label", number("labels", "missing")


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


def _wrapped(start: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
