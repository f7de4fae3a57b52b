"""Classify a whole table, row by row, into another."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from ..data.csv_rows import CsvRows
from ..data.options import Reading
from ..data.read import nothing_used, require_some, settle
from ..data.rows import STATUSES, BadRow, Columns
from ..data.splits import pick_split
from ..data.tables import Table, load_tables, read_json_lines, readable
from ..data.writer import RowWriter, types_of_features, types_of_rows
from ..inference.classifier import ImageTextClassifier
from ..inference.fast_path import use_fast_path
from ..inference.options import ClassifyOptions, Fast
from ..inference.predictions import COLUMNS, output_row
from ..runtime.console import SILENT
from ..runtime.files import user_path, writing_to
from ..runtime.options import require_flags, sort_options
from ..runtime.outputs import beside, keep_part, see_that_it_is_new
from ..runtime.signals import Interrupted, StopSignals
from .identity import FileStamps, changed_images, identity_of, names_files, see_that_data_stays, states_of
from .parts import Parts
from .team import Team


def classify_table(
    data: Any,
    out: str,
    *,
    model: str | Path,
    split: str | None = None,
    fast: Fast | None = None,
    part_rows: int = 10_000,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    quiet: bool = False,
    **options: Any,
) -> dict[str, int]:
    """Classify rows as they are read and write them as they are classified, in order; no table is held.

    Several processes that were started together share the rows, part by part.

    Args:
        data: Whatever `load_tables` takes, such as a file or a streaming dataset; `-` for JSON
            lines from standard input.
        out: A .csv, .jsonl or .parquet file; a folder, of parts, if it is one, ends with a slash or
            has no suffix; `-` for JSON lines to standard output.
        model: A run's folder, a model's folder or a Hub id.
        fast: A faster way to run the encoders, compared with the usual one on the first rows before anything is
            written.
        part_rows: Rows of each part of a folder, and of what several processes share.
        resume: Go on with what is in `out`; parts that are there are not computed again.
        overwrite: Replace what an earlier run has written to `out`.
        say: What to do with each line that tells how it goes.
        quiet: Show no progress bar.
        **options: Fields of `ClassifyOptions` and of `Reading`, such as `image_column`.

    Returns:
        The number of rows by status, `ok` first, the most severe last; nothing in all processes but the main one.

    Raises:
        BadRow: At the first bad row, if asked to; what was classified before is kept, of parts the whole ones.
        ValueError: The data, the model or the output is not usable, there are no rows, or `out` holds something
            that would be lost or that does not belong to this run; or too few labels agree on the fast path.
        Interrupted: A signal came; what was classified before is kept likewise.
    """
    require_flags(resume=resume, overwrite=overwrite, quiet=quiet)
    reading, chosen = sort_options(options, Reading, ClassifyOptions)
    # without `cpu` Accelerate sees one process where several share a machine that has no accelerator
    state = PartialState(cpu=not torch.accelerator.is_available())
    team = Team(state)
    aloud = say  # for what one process alone knows
    if not team.main:
        say, quiet = SILENT.print, True

    def ready() -> tuple[_Job, Parts | None]:
        if resume and overwrite:
            raise ValueError("--resume goes on with a run and --overwrite begins anew: give one of them")
        parts = Parts.of(out, rows=part_rows, always=resume or team.count > 1)
        see_that_data_stays(data, out, None if parts is None else parts.folder)
        if parts is not None and team.main:
            parts.may_begin(resume=resume, overwrite=overwrite)
        elif parts is None and out != "-" and not overwrite:
            see_that_it_is_new(user_path(out))
        if parts is not None and _is_stream(data):
            raise ValueError(
                "- can be read once and by one process: for several processes, a folder or --resume give --data a file"
            )
        if fast is not None and _is_stream(data):
            raise ValueError(f"- can be read once: for {fast}, which is compared on its first rows, give --data a file")
        classifier = ImageTextClassifier.from_pretrained(model, device=str(state.device) if team.count > 1 else None)
        table, columns = _open(data, split, reading, classifier.model.config.columns, say)
        if fast is not None:
            rows = partial(readable, table.rows, table.name)
            use_fast_path(classifier, fast, rows, columns, table.folder, batch_size=chosen.batch_size, say=say)
        return _Job(table, columns, classifier, chosen, _is_stream(data)), parts

    job, parts = team.all_or_none(ready)
    if parts is None:
        counts = _into_file(job, out, overwrite=overwrite, quiet=quiet)
    else:

        def begin() -> dict[str, Any]:
            if not team.main:
                return {}
            identity = identity_of(data, job.table, job.columns, job.classifier, resume=resume, **others)
            record = parts.begin(identity, resume=resume, overwrite=overwrite, say=say)
            if record["state"] == "done" and (changed := _changed_images(job, parts, parts.numbers())):
                raise ValueError(
                    f"the run in {out} is done, and images of {parts.path(changed[0])} were changed since: give "
                    "--overwrite in place of --resume to begin anew"
                )
            return record

        rows_apart = {"batch_size", "workers"}  # these change nothing but the last digits
        others: dict[str, Any] = {
            f"--{name.replace('_', '-')}": value for name, value in asdict(chosen).items() if name not in rows_apart
        }
        others |= {"split": split, "fast path": fast and str(fast), "--part-rows": part_rows}
        with contextlib.closing(parts):
            counts = _into_parts(job, parts, team, begin, partial(states_of, data), say=aloud, quiet=quiet)
    by_status = {status: counts[status] for status in reversed(STATUSES) if counts[status] or status == "ok"}
    shown = ", ".join(f"{count} {status}" for status, count in by_status.items())
    say(f"{sum(counts.values())} rows: {shown}; {out}")
    return by_status if team.main else {}


@dataclass(frozen=True)
class _Job:
    """What is to be classified, by what."""

    table: Table
    columns: Columns
    classifier: ImageTextClassifier
    options: ClassifyOptions
    prompt: bool

    def predictions(self, rows: Iterator[Any]) -> Iterator[dict[str, Any]]:
        return self.classifier.table_stream(
            replace(self.table, rows=rows),
            self.columns,
            self.options,
            prompt=self.prompt,
        )

    def writing(self, suffix: str) -> dict[str, Any]:
        """Options for a `RowWriter`: the same whichever rows it is given."""
        every = suffix == ".parquet"
        return {
            "labels": self.classifier.labels,
            "multi_label": self.classifier.model.config.multi_label,
            "columns": None if suffix == ".jsonl" else _column_types(self.table, self.options.requested, every=every),
        }


def _into_file(job: _Job, out: str, *, overwrite: bool, quiet: bool) -> Counter[str]:
    """All rows into one file, as they come."""
    if out == "-":
        return _write_rows(job, out, out, StopSignals(), quiet=True)
    path = user_path(out)
    with writing_to(out), beside(path, replace=overwrite) as new, StopSignals() as signals:
        try:
            return _write_rows(job, new, out, signals, quiet=quiet)
        except (Exception, KeyboardInterrupt) as error:
            kept = None if isinstance(error.__cause__, OSError) else keep_part(new, path)
            left = f"the rows before it are in {kept}" if kept else "no row was written"
            if isinstance(error, Interrupted):
                raise Interrupted(f"{error}; {left}", error.code) from None
            if isinstance(error, ValueError):
                raise (BadRow if isinstance(error, BadRow) else ValueError)(f"{error}; {left}") from error
            raise


def _write_rows(job: _Job, file: Path | str, name: str, signals: StopSignals, *, quiet: bool) -> Counter[str]:
    """All rows into a file of this name in messages.

    Raises:
        ValueError: There are none, or they cannot be read or written.
        Interrupted: A signal came.
    """
    counts, firsts = Counter[str](), dict[str, str]()
    with RowWriter(file, name=name, **job.writing(".jsonl" if name == "-" else Path(name).suffix)) as writer:
        rows = job.predictions(readable(job.table.rows, job.table.name))
        try:
            for row in tqdm(signals.between(rows), desc="classify", unit="row", disable=True if quiet else None):
                writer.write(row)
                counts[row["status"]] += 1
                firsts.setdefault(row["status"], f"row {row['row']}: {row['reason']}")
        except BadRow as error:
            raise BadRow(f"{job.table.name}, {error}") from error
    if not counts:
        raise ValueError(f"{job.table.name} is empty: there are no rows in it")
    if nothing := nothing_used(job.table, job.columns, firsts):  # of a stream, into which nobody looked so far ahead
        raise nothing
    return counts


def _into_parts(
    job: _Job,
    parts: Parts,
    team: Team,
    begin: Callable[[], dict[str, Any]],
    states: Callable[[], Any],
    *,
    say: Callable[[str], None],
    quiet: bool,
) -> Counter[str]:
    """All rows into parts, of which each process writes its share."""
    before = states()
    record = team.broadcast(team.all_or_none(begin))
    if record["state"] == "done":
        return Counter(record["counts"])
    team.all_or_none(lambda: team.begin(parts.folder, record["run"]))
    with StopSignals(processes=team.count) as signals:
        check = partial(team.check, signals)
        try:
            rows = _write_share(job, parts, team, say=say, check=check, quiet=quiet)
            team.end(rows)
            if not team.main:
                team.wait(parts.ended, check)
                return Counter()
            team.wait(team.all_ended, check)
            if not rows:
                raise ValueError(f"{job.table.name} is empty: there are no rows in it")
            counts = parts.all_counts(rows)
            reasons = dict.fromkeys(counts, f"the reason of each is in {parts.folder}")
            if nothing := nothing_used(job.table, job.columns, reasons):
                raise nothing
            if states() != before:
                raise ValueError(f"{job.table.name} was changed while it was read: begin anew, with --overwrite")
            check(now=True)
            parts.end(record | {"rows": rows, "counts": counts})
        except (ValueError, OSError) as error:
            check(now=True)
            first = team.is_first_to_fail()
            if first and team.main:
                raise
            raise Interrupted(str(error) if first else "", 1) from error  # said at once: nobody else will say it
    return counts


def _write_share(
    job: _Job, parts: Parts, team: Team, *, say: Callable[[str], None], check: Callable[[], None], quiet: bool
) -> int:
    """Write the parts of this process that are not there yet; the number of all rows of the table."""

    def mine(part: int) -> bool:
        return part % team.count == team.index

    def wanted(part: int) -> bool:
        return mine(part) and part not in there

    there, stamps = parts.whole(mine, say), dict[int, FileStamps]()
    for part in _changed_images(job, parts, there):
        say(f"removing {parts.path(part)}, to compute it again: images of its rows were changed")
        parts.remove([part])
        there.remove(part)
    files = names_files(job.table, job.columns)
    name = "classify" if team.count == 1 else f"classify, process 1 of {team.count}"
    with tqdm(desc=name, unit="row", disable=True if quiet else None) as bar:

        def predict(first: int, rows: Iterator[Any]) -> Iterator[dict[str, Any]]:
            number = first
            if files:
                stamps[first // parts.rows] = FileStamps(job.columns, job.table.folder)
                rows = stamps[first // parts.rows].passing(rows)
            try:
                for row in job.predictions(readable(rows, job.table.name, first)):
                    check()
                    yield row
                    number += 1
                    bar.update()
            except BadRow as error:  # its own number is that of the row in this part
                reason = str(error).partition(": ")[2]
                raise BadRow(
                    f"{job.table.name}, row {number}: {reason}; whole parts of the rows before it are in {parts.folder}"
                ) from error

        return parts.write_wanted(
            job.table.rows.only(lambda row: wanted(row // parts.rows)),
            predict,
            wanted=wanted,
            check=check,
            more=lambda part: {"images": str(stamps.pop(part))} if files else {},
            **job.writing(parts.suffix),
        )


def _changed_images(job: _Job, parts: Parts, numbers: Iterable[int]) -> list[int]:
    return changed_images(job.table, job.columns, {part: parts.facts(part) for part in numbers}, parts.rows)


def _is_stream(data: Any) -> bool:
    return isinstance(data, (str, Path)) and data == "-"


def _open(
    data: Any, split: str | None, reading: Reading, known: dict[str, str] | None, say: Callable[[str], None]
) -> tuple[Table, Columns]:
    """The table and its columns, which are printed."""
    if _is_stream(data) and sys.stdin is None:
        raise ValueError("standard input is closed: there are no rows to read from it")
    if _is_stream(data) and (unread := split or reading.config or reading.revision):
        raise ValueError(f"- is standard input, which has no {unread!r}: leave out --split, --config and --revision")
    if _is_stream(data):  # bytes: a line that is no text is a bad row as well
        table = read_json_lines(getattr(sys.stdin, "buffer", sys.stdin))
    else:
        how = {"config": reading.config, "revision": reading.revision}
        table = pick_split(load_tables(data, streaming=True, say=say, **how), split)
    try:
        columns, table = settle(table, reading, need_label=False, known=known, say=say)
    except ValueError:
        # the first row of a stream may lack what the next one has
        if table.rows.again or not ({"image", "text"} & set(table.names) or not table.names):
            raise
        image, text = reading.image_column or "image", reading.text_column or "text"
        columns = Columns(None if reading.text_only else image, None if reading.image_only else text)
        say(f"columns: {columns}")
    if not _is_stream(data):  # who sends the next row may wait for an answer
        require_some(table, columns)
    return table, columns


def _column_types(table: Table, requested: list[str], *, every: bool) -> dict[str, Any] | None:
    """The columns of the output and their types; None for a stream, of which nothing can be read ahead.

    Features tell them. Of other rows, `every` one is read, or the first thousand: for parquet a type must suit all
    values, and a part that finds another one after hours is too late.
    """
    columns = [*COLUMNS, *requested]
    if table.features:
        return output_row(types_of_features(table.features), dict.fromkeys(columns, pa.string()))  # type: ignore[arg-type]
    if not table.rows.by_number:
        return None
    nothing: Any = dict.fromkeys(columns)
    rows = islice(table.rows, None if every and not isinstance(table.rows, CsvRows) else 1000)  # CSV is text anyway
    return types_of_rows(output_row(row, nothing) for row in rows)
