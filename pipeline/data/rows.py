"""Reading one row of any table: its image, its text, and what became of them."""

from __future__ import annotations

import numbers
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..runtime.files import reason
from .image_source import BadImage
from .images import read_image
from .values import is_nothing

STATUSES = {
    "row_unreadable": "the row itself cannot be read: a broken line of a file, or no row at all",
    "both_missing": "neither half can be used; there is no prediction",
    "image_too_large": "the image has too many pixels to be decoded",
    "image_unreadable": "the image cannot be decoded, or not whole",
    "image_missing": "there is no image, no such file, or a URL, which is not followed",
    "text_unreadable": "the text is of another type, or no valid Unicode",
    "text_missing": "there is no text, or nothing but blanks",
    "text_truncated": "the text is longer than what the model reads; not bad: its beginning is read",
    "ok": "both halves are read whole",
}
"""What can become of a row and what it means, the most severe first: of several, that is its status."""

_SEVERITY = {status: rank for rank, status in enumerate(STATUSES)}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what.

    A name may lead into a column, `data.choices.0`, where there is no column of that very name; a text may be of
    several columns, `premise+hypothesis`.

    Attributes:
        image: None if images are not asked for.
        text: None if texts are not asked for.
        label: None if there is none.
        suffix: What is added to the names of image files, such as `.jpg`.
        file_names: Whether of a path to an image only the name of the file counts.
    """

    image: str | None
    text: str | None
    label: str | None = None
    suffix: str = ""
    file_names: bool = False

    def __str__(self) -> str:
        image = repr(self.image) if self.image is not None else "none"
        text = repr(self.text) if self.text is not None else "none"
        label = f", label from {self.label!r}" if self.label is not None else ""
        return f"image from {image}{f' + {self.suffix!r}' if self.suffix else ''}, text from {text}{label}"

    def image_of(self, row: Mapping[str, Any]) -> Any:
        """What stands for the row's image."""
        value = None if self.image is None else field_of(row, self.image)
        if not (self.suffix or self.file_names) or not isinstance(value, (str, int, float, Path)) or is_nothing(value):
            return value
        name = file_name_of(value)
        if self.file_names:
            name = name.replace("\\", "/").rpartition("/")[2]
        return name and name + self.suffix

    def text_of(self, row: Mapping[str, Any]) -> Any:
        """What stands for the row's text; of several columns those that hold some, one after another."""
        if self.text is None:
            return None
        if "+" not in self.text or self.text in row:
            return field_of(row, self.text)
        parts = [part for name in self.text.split("+") if not is_nothing(part := field_of(row, name)) and part != ""]
        if not all(isinstance(part, (str, numbers.Real)) for part in parts):
            return next(part for part in parts if not isinstance(part, (str, numbers.Real)))
        return " | ".join(str(part) for part in parts) or None

    def label_of(self, row: Mapping[str, Any]) -> Any:
        """What stands for the row's label."""
        return None if self.label is None else field_of(row, self.label)


def file_name_of(value: Any) -> str:
    """The name of a file that a cell holds; a number that pandas has written as 7.0, beside a gap, is 7."""
    return re.sub(r"^(\d+)\.0$", r"\1", str(value).strip())


def field_of(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or what a path such as `data.choices.0` leads to; None if it leads nowhere."""
    if name in row or "." not in name:
        return row.get(name)
    value: Any = row
    for step in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


@dataclass(frozen=True)
class Pair:
    """One row, read.

    Attributes:
        row: Its number in the table, from 0.
        image: RGB; None if it cannot be used.
        text: None if it cannot be used.
        problems: Whatever is wrong with either: a status and a reason in words.
    """

    row: int
    image: Image.Image | None
    text: str | None
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def status(self) -> str:
        """One of `STATUSES`, the most severe that applies."""
        return worst_status(self.problems, none_left=self.image is None and self.text is None)

    @property
    def reason(self) -> str:
        """Everything that is wrong, in words, the most severe first; empty if nothing is."""
        return all_reasons(self.problems)

    @property
    def bad(self) -> bool:
        """Whether a half that was asked for cannot be used. A text that is cut can."""
        return any(status != "text_truncated" for status, _ in self.problems)


def worst_status(problems: Sequence[tuple[str, str]], *, none_left: bool) -> str:
    """The most severe status of these problems, or `ok`; `none_left` says that neither half can be used."""
    found = [status for status, _ in problems] + ["both_missing"] * none_left
    return min(found, key=_SEVERITY.__getitem__, default="ok")


def all_reasons(problems: Sequence[tuple[str, str]]) -> str:
    """What is wrong, in words, the most severe first; empty if nothing is."""
    return "; ".join(reason for _, reason in sorted(problems, key=lambda problem: _SEVERITY[problem[0]]))


def with_problem(status: str, reason: str, problem: tuple[str, str], *, none_left: bool) -> tuple[str, str]:
    """Status and reason of a row that has one more problem."""
    problems = [problem] if status == "ok" else [(status, reason), problem]
    return worst_status(problems, none_left=none_left), all_reasons(problems)


def not_tokenized(error: Exception) -> tuple[str, str]:
    """The status and reason of a text on which a tokenizer fails."""
    return "text_unreadable", f"the text cannot be tokenized: {reason(error)}"


class UnreadableRow(dict[str, Any]):
    """What stands in the place of a row that cannot be read: no columns, and the reason.

    Args:
        reason: In words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class BadRow(ValueError):
    """A row that cannot be used, where the caller asked to stop at the first such."""


def read_pair(
    number: int,
    row: Mapping[str, Any],
    columns: Columns,
    folder: Path | None = None,
    *,
    at_least: tuple[int, int] | None = None,
    image: bool = True,
    text: bool = True,
) -> Pair:
    """Read the image and the text of a row. Never raises for what a row holds: the status tells.

    Memory is bounded by that of one image, as of `read_image`: 1 GiB of a file, 1.25 GB decoded. A text is taken as it
    stands; no more than its first million characters is ever tokenized.

    Args:
        number: Of the row, from 0.
        row: By column name; an absent column counts as an absent half. An `UnreadableRow` is bad as a whole.
        folder: Where relative image paths start.
        at_least: (height, width) in pixels that will do of the image; see `read_image`.
        image: Whether to read the image; left alone it is None, and no problem.
        text: Likewise of the text.
    """
    if isinstance(row, UnreadableRow):
        return Pair(number, None, None, (("row_unreadable", row.reason),))
    problems: list[tuple[str, str]] = []
    picture: Image.Image | None = None
    words: str | None = None
    if image and columns.image is not None:
        try:
            picture = read_image(columns.image_of(row), folder=folder, at_least=at_least)
        except BadImage as error:
            problems.append((error.status, str(error)))
    if text and columns.text is not None:
        words, problem = read_text(columns.text_of(row))
        if problem is not None:
            problems.append(problem)
    return Pair(number, picture, words, tuple(problems))


def read_text(value: Any) -> tuple[str | None, tuple[str, str] | None]:
    """The text that `value` holds, or None with a status and a reason. A number is read as its digits."""
    if is_nothing(value):
        return None, ("text_missing", "there is no text")
    if isinstance(value, numbers.Real) and not isinstance(value, str):
        try:
            value = str(value)
        except ValueError as error:  # Python refuses to write out integers of thousands of digits
            return None, ("text_unreadable", f"the number is no text: {error}")
    if not isinstance(value, str):
        return None, ("text_unreadable", f"a {type(value).__name__} is no text")
    if all(unicodedata.category(character) in ("Cc", "Cf", "Zs") for character in value.strip()):
        return None, ("text_missing", "the text is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        hint = "; save its file as UTF-8" if "\udc80" <= value[error.start] <= "\udcff" else ""  # a byte that is none
        return None, ("text_unreadable", f"the text is no valid Unicode at character {error.start}{hint}")
    return value, None
