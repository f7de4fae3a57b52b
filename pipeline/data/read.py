"""One way in: from data and how it is to be read to tables and their columns, for every command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..runtime.files import user_path
from .columns import find_columns
from .dataset_rows import FetchedRows, PassingRows
from .image_source import IMAGE_SUFFIXES, BadImage, find_image
from .options import OptionNeeded, Reading
from .rows import Columns, UnreadableRow, file_name_of, read_pair
from .splits import training_table
from .tables import Table, load_tables

_SAMPLE = 20
"""Image names that are looked for in folders."""
_PEEK = 100
"""Rows that are looked at, of those that can be read once."""


@dataclass(frozen=True)
class Data:
    """Tables and what to read of them.

    Attributes:
        tables: By split; of each only the columns that are read.
        columns: Which they are.
        table: The split that was asked for, or that is trained on.
    """

    tables: dict[str, Table]
    columns: Columns
    table: Table


def read_data(
    data: Any,
    reading: Reading | None = None,
    *,
    pick: Callable[[Mapping[str, Table]], Table] = training_table,
    need_label: bool = True,
    streaming: bool = False,
    known: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Data:
    """Load data, find its columns and the folder of its images, and leave out what is not read.

    Args:
        data: Whatever `load_tables` takes.
        pick: Which of the tables tells the columns.
        streaming: As for `load_tables`.
        known: Columns by `image`, `text` and `label` that a model was trained on: used where the data has them.
        say: What to do with each line that says how the data is read.

    Raises:
        ValueError: The data cannot be read, or something must be chosen; the message says what.
    """
    reading = reading or Reading()
    tables = load_tables(data, streaming=streaming, config=reading.config, revision=reading.revision, say=say)
    picked = pick(tables)
    columns, table = settle(picked, reading, need_label=need_label, known=known, say=say)
    reading = replace(reading, image_suffix=columns.suffix or None)
    whole = {name: table if one is picked else _placed(one, columns, reading) for name, one in tables.items()}
    tables = {name: narrow(one, columns) for name, one in whole.items()}
    return Data(tables, columns, next(tables[name] for name in whole if whole[name] is table))


def settle(
    table: Table,
    reading: Reading,
    *,
    need_label: bool,
    known: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Columns, Table]:
    """The columns of a table, and the table with the folder where its images lie; both are printed.

    Raises:
        ValueError: As of `read_data`.
    """
    given: dict[str, Any] = {"image": reading.image_column, "text": reading.text_column, "label": reading.label_column}
    modalities = [name for name, left in (("image", reading.text_only), ("text", reading.image_only)) if not left]
    modalities = [name for name in modalities if given[name] is not None or (known or {}).get(name, "") is not None]
    if not modalities:
        raise ValueError(
            f"{table.name}: nothing is left to read, as the model was trained on one modality: leave out "
            "--text-only and --image-only"
        )
    remembered = {
        name: column
        for name, column in (known or {}).items()
        if given.get(name) is None
        and column is not None
        and has_column(table, column)
        and (need_label or name != "label")
    }
    given = {name: column for name, column in (given | remembered).items() if name == "label" or name in modalities}
    how: dict[str, Any] = {"need_label": need_label, "modalities": modalities}
    remark = " (as in training)" if remembered else ""
    try:
        columns = find_columns(table, **given, **how)
    except OptionNeeded as error:
        wanted = "image" in modalities and given["image"] is None
        photos = _find_named_photos(table, reading) if wanted else None
        if photos is None:
            raise _with_hint(error) from None
        try:
            columns = find_columns(table, **given | {"image": photos.column}, **how)
        except OptionNeeded as another:
            if not another.options:
                raise _with_hint(another) from None
            more = {"image_column": photos.column, "image_folder": str(photos.folder), "image_suffix": photos.suffix}
            raise OptionNeeded(str(another), **more | another.options) from None
    if columns.image is not None:
        photos = _find_photos(table, columns.image, reading)
        columns = replace(columns, suffix=photos.suffix, file_names=photos.file_names)
        table = _placed(table, columns, reading)
        remark += photos.remark
    say(f"columns: {columns}{remark}")
    return columns, table


def _placed(table: Table, columns: Columns, reading: Reading) -> Table:
    """A table with the folder where its images lie, or fetched where they lie on the Hub."""
    if columns.image is None or not has_column(table, columns.image):
        return table
    if _lie_on_the_hub(table, reading):
        fetched = table.rows.fetching(columns.image, reading.image_folder or "", columns.suffix)
        return replace(table, rows=fetched)
    return replace(table, folder=_find_photos(table, columns.image, reading).folder)


def _lie_on_the_hub(table: Table, reading: Reading) -> bool:
    """Whether relative paths are of files in the table's repository, in the folder that is named if any."""
    here = reading.image_folder and user_path(reading.image_folder).is_dir()
    return isinstance(table.rows, FetchedRows) and bool(table.rows.base) and not here


def narrow(table: Table, columns: Columns) -> Table:
    """A table of the columns that are read, and no other."""
    text = [columns.text] if columns.text in table.names else (columns.text or "").split("+")
    names = [name for name in (columns.image, *text, columns.label) if name]
    return replace(table, rows=table.rows.select(names))


def has_column(table: Table, name: str) -> bool:
    """Whether a table has a column, or one that a path leads into, or all that are joined."""
    parts = [name] if name in table.names else name.split("+")
    return all(part in table.names or part.partition(".")[0] in table.names for part in parts)


def require_some(table: Table, columns: Columns) -> None:
    """See that at least one row has an image that can be used, and one a text.

    Of rows that can be read once the first are looked at, and held; if there are more, `nothing_used` tells in the end.

    Raises:
        ValueError: None has; the message says where was looked.
    """
    missing = [name for name in ("image", "text") if getattr(columns, name) is not None]
    reasons: dict[str, str] = {}
    rows = table.rows
    for number, row in enumerate(rows.peek(_PEEK) if isinstance(rows, PassingRows) and not rows.again else rows):
        half = {name: name in missing for name in ("image", "text")}
        pair = read_pair(number, row, columns, table.folder, at_least=(1, 1), **half)
        missing = [name for name in missing if getattr(pair, name) is None]
        if not missing or (number + 1 == _PEEK and not rows.again):
            return
        for status, reason in pair.problems:
            reasons.setdefault("image" if status.startswith("image") else "text", f"row {number}: {reason}")
    if not reasons:
        raise ValueError(f"{table.name} is empty: there are no rows in it")
    raise _none_has(table, columns, missing[0], reasons.get(missing[0]) or next(iter(reasons.values())))


def nothing_used(table: Table, columns: Columns, firsts: Mapping[str, str]) -> ValueError | None:
    """What to say of rows of which none could be read, or none had an image or none a text to use; None if some had.

    Args:
        firsts: Of each status of theirs a reason.
    """
    if {*firsts} == {"row_unreadable"}:
        return ValueError(f"{table.name}: no row can be read ({firsts['row_unreadable']})")
    for name in ("image", "text"):
        without = [s for s in firsts if s == "both_missing" or (s.startswith(f"{name}_") and s != "text_truncated")]
        if getattr(columns, name) is not None and without and {*firsts} <= {*without, "row_unreadable"}:
            return _none_has(table, columns, name, firsts[without[0]])
    return None


def _none_has(table: Table, columns: Columns, name: str, reason: str) -> ValueError:
    other = {"image": "text", "text": "image"}[name]
    folder = " or the folder with --image-folder," if name == "image" else ""
    return ValueError(
        f"{table.name}: no row has {'an image' if name == 'image' else 'a text'} that can be used in "
        f"{getattr(columns, name)!r} ({reason}): name the column with --{name}-column,{folder} or give --{other}-only "
        "to do without"
    )


def _with_hint(error: OptionNeeded) -> OptionNeeded:
    for name, other in (("image", "text"), ("text", "image")):
        if f"no column looks like the {name}" in str(error):
            return OptionNeeded(f"{error}, or give --{other}-only if there is none", **error.options)
    return error


@dataclass(frozen=True)
class _Photos:
    """Where the images of a table lie: a folder, and what is added to, or left out of, the names in its cells."""

    folder: Path | None
    suffix: str = ""
    file_names: bool = False
    column: str = ""
    remark: str = ""


def _find_photos(table: Table, column: str, reading: Reading) -> _Photos:
    """Where the images that a column names lie: as it stands, else in the one folder that holds such files.

    Raises:
        ValueError: There is no folder of that name, or several hold such files.
    """
    folder, suffix = table.folder, reading.image_suffix or ""
    if _lie_on_the_hub(table, reading):
        return _Photos(folder, suffix)
    if reading.image_folder is not None:
        folder = user_path(reading.image_folder)
        if not folder.is_dir():
            raise ValueError(f"--image-folder is {reading.image_folder}, which is no folder")
        folder = folder.resolve()
    names = _sample(table, column)
    if not names or isinstance(table.rows, FetchedRows) or any(_is_there(name + suffix, folder) for name in names):
        return _Photos(folder, suffix)
    folders = [folder] if reading.image_folder else list(_folders(table))
    found = _search(names, folders, reading.image_suffix)
    if not found:
        return _Photos(folder, suffix)
    if len(found) > 1:
        places = ", ".join(str(one.folder) for one in found)
        raise OptionNeeded(
            f"{table.name}: several folders hold images of the names in {column!r}: {places}; name one with "
            "--image-folder",
            image_folder=str(found[0].folder),
        )
    return found[0]


def _find_named_photos(table: Table, reading: Reading) -> _Photos | None:
    """The one column whose values, with a suffix, are the names of image files in one folder; None if there is none."""
    start = user_path(reading.image_folder) if reading.image_folder else table.folder
    if start is None or not start.is_dir():
        return None
    folders = [start.resolve()] if reading.image_folder else list(_folders(table))
    found = []
    for column in table.names:
        names = _sample(table, column)
        if len(set(names)) > len(names) / 2 and not any(" " in name or len(name) > 100 for name in names):
            found += [replace(one, column=column) for one in _search(names, folders, reading.image_suffix, most=True)]
    return found[0] if len(found) == 1 else None


def _sample(table: Table, column: str) -> list[str]:
    """Some of the values of a column that may be names of files."""
    columns = Columns(column, None)
    values = [columns.image_of(row) for row in table.rows.ahead if not isinstance(row, UnreadableRow)][:_SAMPLE]
    named = [value.get("path") if isinstance(value, Mapping) and not value.get("bytes") else value for value in values]
    names = [file_name_of(value) for value in named if isinstance(value, (str, int, float, os.PathLike))]
    return [name for name in names if name]


def _search(
    names: list[str], folders: Iterable[Path | None], suffix: str | None, *, most: bool = False
) -> list[_Photos]:
    """The folders that hold the most files of these names, as they stand, without their folders or with a suffix."""
    known = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)
    suffixes = [suffix] if suffix else [""] if known else ["", *IMAGE_SUFFIXES]
    ways = [(end, short) for end in suffixes for short in ((False, True) if any(map(_has_folder, names)) else (False,))]
    found: dict[Path | None, tuple[int, _Photos]] = {}
    for folder in folders:
        for end, short in ways:
            count = sum(_is_there(_file_name(name) + end if short else name + end, folder) for name in names)
            if count > found.get(folder, (0,))[0] and (not most or count > len(names) / 2):
                how = f" + {end!r}" if end else ""
                remark = f"; images in {folder}" + (f", by the names of their files{how}" if short else "")
                found[folder] = count, _Photos(folder, end, short, remark=remark)
    best = max(((not photos.file_names, count) for count, photos in found.values()), default=None)
    return [photos for count, photos in found.values() if (not photos.file_names, count) == best]


def _is_there(name: str, folder: Path | None) -> bool:
    try:
        held, _ = find_image(name, folder)
        return not isinstance(held, Path) or held.is_file()
    except (BadImage, OSError, ValueError):
        return False


def _has_folder(name: str) -> bool:
    return _file_name(name) != name


def _file_name(name: str) -> str:
    return name.strip().replace("\\", "/").rpartition("/")[2]


def _folders(table: Table) -> Iterator[Path]:
    """Folders in which images may lie: that of the table, the one it is in, and those below what was given."""
    start = (table.folder or Path()).resolve()
    yield start
    yield start.parent
    root = table.root or start
    for place, folders, _ in islice(os.walk(root), 500):
        deep = len(Path(place).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")) and deep < 3)
        yield from (Path(place) / name for name in folders)
