"""Reading one row of any table: its image, its text, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .images import BadImage, read_image

STATUSES = (
    "both_missing",
    "image_too_large",
    "image_unreadable",
    "image_missing",
    "text_unreadable",
    "text_missing",
    "ok",
)
"""What can become of a row, the most severe first."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what."""

    image: str
    text: str
    label: str | None = None

    def __str__(self) -> str:
        label = f", label from {self.label!r}" if self.label is not None else ""
        return f"image from {self.image!r}, text from {self.text!r}{label}"


@dataclass(frozen=True)
class Pair:
    """One row, read.

    Attributes:
        row: Its number in the table, from 0.
        image: RGB; None if it cannot be used.
        text: None if it cannot be used.
        status: One of `STATUSES`.
        reason: Everything that is wrong, in words; empty if nothing is.
    """

    row: int
    image: Image.Image | None
    text: str | None
    status: str
    reason: str


class BadRow(ValueError):
    """A row that cannot be used, where the caller asked to stop at the first such."""


def read_pair(number: int, row: Mapping[str, Any], columns: Columns, folder: Path | None = None) -> Pair:
    """Read the image and the text of a row. Never raises for what a row holds: the status tells.

    Args:
        number: Of the row, from 0.
        row: By column name; an absent column counts as an absent half.
        columns: Which columns to read.
        folder: Where relative image paths start.
    """
    problems: list[tuple[str, str]] = []
    image: Image.Image | None = None
    try:
        image = read_image(row.get(columns.image), folder=folder)
    except BadImage as error:
        problems.append((error.status, str(error)))
    text, problem = read_text(row.get(columns.text))
    if problem is not None:
        problems.append(problem)
    if not problems:
        return Pair(number, image, text, "ok", "")
    status = "both_missing" if len(problems) == 2 else problems[0][0]
    return Pair(number, image, text, status, "; ".join(reason for _, reason in problems))


def read_text(value: Any) -> tuple[str | None, tuple[str, str] | None]:
    """The text that `value` holds, or None with a status and a reason. A number is read as its digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, ("text_missing", "there is no text")
    if isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        return None, ("text_unreadable", f"a {type(value).__name__} is no text")
    if not value.strip():
        return None, ("text_missing", "the text is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return None, ("text_unreadable", f"the text is no valid Unicode at character {error.start}")
    return value, None
