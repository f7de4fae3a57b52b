"""Explanations of many rows, and the methods compared over a dataset."""

from __future__ import annotations

import html
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.options import Reading
from ..data.read import read_data
from ..data.rows import Pair as RowPair
from ..data.rows import read_pair
from ..data.splits import pick_split
from ..data.tables import Table
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.files import user_path
from ..runtime.outputs import write_whole
from .explain import DEFAULT_METHOD, explain, make_pair
from .faithfulness import curves
from .methods import METHODS
from .page import places_of, save_explanation, see_that_they_may_go
from .removal import log_odds

FIRST_ROWS = 10


def parse_rows(text: str) -> list[int]:
    """Row numbers of `0,3,10-12`.

    Raises:
        ValueError: It names no rows.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))):
            raise ValueError(f"--rows is {text!r}: give row numbers from 0, such as 0,3,10-12")
        numbers += range(int(first), int(last if dash else first) + 1)
    return list(dict.fromkeys(numbers))


def explain_rows(
    model: DiptychModel,
    processor: DiptychProcessor,
    data: Any,
    out: str | Path,
    *,
    rows: Sequence[int] | None = None,
    split: str | None = None,
    against: str | None = None,
    method: str = DEFAULT_METHOD,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    **reading: Any,
) -> list[dict[str, Any]]:
    """Explain rows of a table: a page and a picture of each in `out`, `explanations.jsonl`, and a page with all.

    Without `rows` the first ten, or as many as there are. A row that has neither a usable image nor a text gets no
    page: its status and reason say why. `reading` are fields of `Reading`, such as `image_column`; columns are those of
    training where the data has them.

    Raises:
        ValueError: The data cannot be read, or has no such row; or files of these names are there, and `overwrite` was
            not given, or they are none of ours.
    """
    folder = user_path(out)
    lines, index = folder / "explanations.jsonl", folder / "index.html"
    numbers = range(FIRST_ROWS) if rows is None else rows
    if not numbers or any(not isinstance(row, Integral) or row < 0 for row in numbers):
        raise ValueError(f"rows is {rows}; give row numbers from 0, one at least")
    pages = [place for row in numbers for place in places_of(folder, _name(row))]
    see_that_they_may_go((lines, index, *pages), overwrite=overwrite)
    records = []
    how: dict[str, Any] = {"split": split, "reading": Reading(**reading), "say": say, "all_there": rows is not None}
    for pair in read_rows(model, data, numbers, **how):
        record: dict[str, Any] = {"row": pair.row, "status": pair.status, "reason": pair.reason}
        if pair.image is not None or pair.text is not None:
            explanation = explain(model, processor, image=pair.image, text=pair.text, against=against, method=method)
            page, _ = save_explanation(explanation, folder, name=_name(pair.row), overwrite=overwrite)
            record |= {"page": page.name, **explanation.to_dict()}
        records.append(record)
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_whole(lines, text.encode("utf-8", "replace"))
    write_whole(index, _index(records).encode("utf-8", "replace"))
    return records


def _name(row: int) -> str:
    return f"row-{row:05}"


def read_rows(
    model: DiptychModel,
    data: Any,
    numbers: Sequence[int] | None,
    *,
    split: str | None,
    reading: Reading,
    say: Callable[[str], None] = lambda line: None,
    all_there: bool = True,
) -> Iterator[RowPair]:
    """The rows of these numbers, in the table's order; all of them without numbers.

    Raises:
        ValueError: The data cannot be read, is empty, or ends before one of them, if all are to be there.
    """
    pick, known = partial(pick_split, split=split, default="test"), model.config.columns
    read = read_data(data, reading, pick=pick, need_label=False, streaming=True, known=known, say=say)
    table, columns = read.table, read.columns
    wanted = None if numbers is None else set(numbers)
    needed = wanted if all_there and wanted is not None else {0}
    if table.rows.by_number:  # before anything is computed
        _require_rows(table, needed, len(table.rows))
    count = 0
    for number, row in enumerate(table.rows):
        count = number + 1
        if wanted is None or number in wanted:
            yield read_pair(number, row, columns, table.folder)
        if wanted is not None and number >= max(wanted):
            return
    _require_rows(table, needed, count)


def _require_rows(table: Table, wanted: Iterable[int], count: int) -> None:
    missing = sorted(number for number in wanted if number >= count)
    if not count:
        raise ValueError(f"{table.name} is empty: there are no rows in it")
    if missing:
        raise ValueError(f"{table.name} has {count} rows, so there is no row {missing[-1]}; rows count from 0")


def compare_methods(
    model: DiptychModel,
    processor: DiptychProcessor,
    data: Any,
    *,
    split: str | None = None,
    most: int = 300,
    seed: int = 0,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
    **reading: Any,
) -> dict[str, dict[str, Any]]:
    """Deletion, insertion and CPU time of each method over the first `most` rows that have both modalities.

    Deletion is the mean score of the predicted class while the first places and words are removed one after another
    (lower is better), insertion while only they are kept (higher is better); each compared with a random order of the
    same sizes, row by row. `reading` as for `explain_rows`.

    Raises:
        ValueError: The data cannot be read, or no row has both modalities.
    """
    methods = [
        name for name in METHODS if name != "attention" or model.config.fusion in ("cross-modal", "self-attention")
    ]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    done = 0
    with tqdm(desc="faithfulness", unit="row", total=most, disable=True if quiet else None) as bar:
        for row in read_rows(model, data, None, split=split, reading=Reading(**reading), say=say):
            if row.image is None or row.text is None:
                continue
            pair, spans = make_pair(processor, row.image, row.text)
            if not pair.has_text:
                continue
            groups = [group for _, _, group in spans]
            label = int(model(**pair.batch).logits.argmax())
            attributions, seconds = {}, {}
            for name in methods:
                start = time.process_time()
                attributions[name] = METHODS[name](model, pair, log_odds(model, label))
                seconds[name] = time.process_time() - start
            measured = curves(model, pair, attributions, groups, label, seed=seed + row.row)
            for name in methods:
                results[name].append(measured[name] | {"seconds": seconds[name]})
            done += 1
            bar.update()
            if done >= most:
                break
    if not done:
        raise ValueError("no row has both an image and a text: there is nothing to compare the methods on")
    return {name: _summary(measured) for name, measured in results.items()}


def _summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over rows, and paired differences from the random order with their 95 % intervals."""
    summary: dict[str, Any] = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    summary["rows"] = len(rows)
    for curve, sign in (("deletion", 1), ("insertion", -1)):
        gains = [sign * (row[f"random {curve}"] - row[curve]) for row in rows]
        mean = statistics.fmean(gains)
        half = 1.96 * statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        summary[f"{curve}_gain"] = [mean, mean - half, mean + half]
    return summary


def comparison_text(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for people."""
    lines = [
        f"{next(iter(methods.values()))['rows']} rows; gains over a random order, 95 % interval",
        f"{'':22}{'deletion':>9}{'gain':>26}{'insertion':>11}{'gain':>26}{'CPU s':>7}",
    ]
    for name, values in methods.items():
        gains = [
            "  {:+.3f} ({:+.3f} to {:+.3f})".format(*values[f"{curve}_gain"]) for curve in ("deletion", "insertion")
        ]
        lines.append(
            f"{name:22}{values['deletion']:9.3f}{gains[0]:>26}{values['insertion']:11.3f}{gains[1]:>26}"
            f"{values['seconds']:7.2f}"
        )
    return "\n".join(lines)


def _index(records: Sequence[Mapping[str, Any]]) -> str:
    """A page with a link to each explanation."""
    items = []
    for record in records:
        text = html.escape(str(record.get("text") or record["reason"] or ""))
        if "page" in record:
            label = f"<b>{html.escape(record['label'])}</b> {record['score']:.1%}"
            items.append(f'<li><a href="{record["page"]}">row {record["row"]}</a> {label}<br>{text}</li>')
        else:
            items.append(f"<li>row {record['row']}: {record['status']}<br>{text}</li>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="generator" content="Diptych">'
        '<meta name="viewport" '
        'content="width=device-width, initial-scale=1"><link rel="icon" href="data:,"><title>Explanations</title>'
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:760px;margin:0 auto;"
        "padding:24px;overflow-wrap:anywhere}li{margin:0 0 14px}</style></head><body><h1>Explanations</h1><ul>"
        + "".join(items)
        + "</ul></body></html>\n"
    )
