"""Which columns of a table hold the image, the text and the label, and what the labels are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets

from .rows import Columns
from .tables import Table

_IMAGE_NAMES = (
    "image",
    "img",
    "photo",
    "picture",
    "image_path",
    "img_path",
    "image_file",
    "file_name",
    "filename",
    "path",
)
_TEXT_NAMES = (
    "text",
    "caption",
    "sentence",
    "title",
    "description",
    "question",
    "headline",
    "review",
    "content",
    "name",
)
_LABEL_NAMES = ("label", "labels", "target", "class", "category", "answer")


def find_columns(
    table: Table,
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    need_label: bool = True,
) -> Columns:
    """Find the columns by their features and names; a name that is given is taken as it is.

    Raises:
        ValueError: A given column does not exist, or one cannot be told; the message names those
            that are there.
    """
    kinds = _kinds(table)
    for option, name in (("image", image), ("text", text), ("label", label)):
        if name is not None and name not in kinds:
            raise ValueError(f"{table.name} has no {option} column {name!r}; it has {', '.join(map(repr, kinds))}")

    def of(*wanted: str) -> list[str]:
        taken = {image, text, label}
        return [name for name, kind in kinds.items() if kind in wanted and name not in taken]

    if image is None:
        image = _choose(table, "image", of("image"), _IMAGE_NAMES, anonymous=True) if of("image") else None
        image = image or _choose(table, "image", of("string"), _IMAGE_NAMES)
    if label is None and need_label:
        label = _named(of("class", "classes", "string", "integer", "list"), _LABEL_NAMES)
        label = label or _choose(table, "label", of("class", "classes"), _LABEL_NAMES, anonymous=True)
    if text is None:
        texts = [name for name in of("string") if name.lower() not in _LABEL_NAMES] or of("string")
        text = _choose(table, "text", texts, _TEXT_NAMES)  # by name only: the one text column left may be an id
    return Columns(str(image), str(text), label)


def _kinds(table: Table) -> dict[str, str]:
    """Every column's kind: image, class, string, integer, a list of classes or of others, or other."""
    features = getattr(table.rows, "features", None)
    if features is not None:
        return {name: _feature_kind(feature) for name, feature in features.items()}
    if table.first is None:
        raise ValueError(f"{table.name} is empty: there are no rows in it")
    return {name: _value_kind(value) for name, value in table.first.items()}


def _feature_kind(feature: Any) -> str:
    if isinstance(feature, datasets.Image):
        return "image"
    if isinstance(feature, datasets.ClassLabel):
        return "class"
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return "classes" if isinstance(feature.feature, datasets.ClassLabel) else "list"
    if isinstance(feature, Mapping):
        return "image" if set(feature) == {"bytes", "path"} else "other"
    dtype = getattr(feature, "dtype", "")
    if "binary" in dtype:
        return "image"
    if "string" in dtype:
        return "string"
    return "integer" if "int" in dtype or dtype == "bool" else "other"


def _value_kind(value: Any) -> str:
    if value is None or isinstance(value, str):  # a null says nothing: the name will tell
        return "string"
    if isinstance(value, (bool, int)):
        return "integer"
    if isinstance(value, list):
        return "list"
    is_image = isinstance(value, bytes) or hasattr(value, "getbands") or hasattr(value, "__array__")
    return "image" if is_image or (isinstance(value, dict) and set(value) == {"bytes", "path"}) else "other"


def _named(candidates: Iterable[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in candidates}
    return next((lower[name] for name in names if name in lower), None)


def _choose(table: Table, what: str, candidates: list[str], names: Sequence[str], anonymous: bool = False) -> str:
    """The candidate with the best name; the only one, whatever its name, if `anonymous` will do."""
    named = _named(candidates, names)
    if named is not None:
        return named
    if anonymous and len(candidates) == 1:
        return candidates[0]
    found = ", ".join(map(repr, candidates or _kinds(table)))
    count = "several columns could be" if len(candidates) > 1 else "no column looks like"
    raise ValueError(f"{table.name}: {count} the {what}: {found}; name it with --{what}-column")


def pair_columns(table: Table) -> Columns:
    """The columns to classify by, as in training; a table with an `image` or a `text` alone lacks the other half.

    Raises:
        ValueError: Neither can be told.
    """
    from ..data.columns import find_columns

    try:
        return find_columns(table, need_label=False)
    except ValueError:
        if {"image", "text"} & set(getattr(table.rows, "features", None) or table.first or ()):
            return Columns("image", "text")
        raise


def _table_columns(table: Table, image: str | None, text: str | None) -> Columns:
    """The columns of a table, every row of which has the same."""
    try:
        return find_columns(table, image=image, text=text, need_label=False)
    except ValueError as error:
        if image is None and text is None:
            raise ValueError(f"{error}, or name the other column alone if there is none") from error
        if (image is None or text is None) and {image, text} & _names(table):
            return Columns(image or "image", text or "text")
        raise


def _stream_columns(table: Table, image: str | None, text: str | None) -> Columns:
    """The columns of a stream, told by its first row that can be read; that row may lack a half, or be none."""
    given = dict.fromkeys([name for name in (image, text) if name is not None], "")
    if (image is not None and text is not None) or not table.first:
        return Columns(image or "image", text or "text")
    if given:
        try:
            table = replace(table, first={**given, **table.first})
            return find_columns(table, image=image, text=text, need_label=False)
        except ValueError:
            return Columns(image or "image", text or "text")
    return pair_columns(table)


def _names(table: Table) -> set[str]:
    return set(getattr(table.rows, "features", None) or table.first or ())
