"""Which columns of a table hold the image, the text and the label, and what the labels are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
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


def label_values(table: Table, column: str) -> list[str]:
    """The label of every row, as text; a ClassLabel's name, `true` or `false`, a number's digits.

    Raises:
        ValueError: A row has no label.
    """
    feature = table.rows.features[column]
    values: list[Any] = list(table.rows[column])
    if isinstance(feature, datasets.ClassLabel):
        values = [feature.names[v] if v is not None and v >= 0 else None for v in values]
    missing = [row for row, value in enumerate(values) if value is None or value != value or value == ""]
    if missing:
        raise ValueError(
            f"{table.name}: {len(missing)} of {len(values)} rows have no label in {column!r}, row {missing[0]} first; "
            "give every row one or take these rows out"
        )
    unusable = next((v for v in values if not isinstance(v, (str, int, float, bool))), None)
    if unusable is not None:
        raise ValueError(f"{table.name}: a {type(unusable).__name__} in {column!r} is no label; give text or numbers")
    return [label_text(value) for value in values]


def one_label(value: Any, feature: Any = None) -> str:
    """The label that one cell holds, as text, as `label_values` has it.

    Raises:
        ValueError: It holds none; the message says what it holds.
    """
    if isinstance(feature, datasets.ClassLabel):
        value = feature.names[value] if value is not None and value >= 0 else None
    if value is None or value != value or value == "":
        raise ValueError("no label")
    if not isinstance(value, (str, int, float, bool)):
        raise ValueError(f"a {type(value).__name__}, which is no label,")
    return label_text(value)


def label_names(table: Table, column: str) -> list[str]:
    """The classes, in the order of their ids: a ClassLabel's own, else sorted (numbers by value)."""
    return class_names(table, column) or sort_labels(set(label_values(table, column)))


def class_names(table: Table, column: str) -> list[str] | None:
    """The classes that a ClassLabel feature names, also where it stands in a list; None if there is none."""
    feature = (getattr(table.rows, "features", None) or {}).get(column)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def sort_labels(names: Iterable[str]) -> list[str]:
    """Label names in their order: numbers by value, if all are, else by spelling."""
    names = set(names)
    if all(re.fullmatch("-?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))  # '7' and '07' are two labels of one value
    return sorted(names)


def label_ids(table: Table, column: str, names: Sequence[str]) -> list[int]:
    """The class index of every row.

    Raises:
        ValueError: A label is not among `names`.
    """
    ids = {name: index for index, name in enumerate(names)}
    values = label_values(table, column)
    unknown = sorted(set(values) - set(ids))
    if unknown:
        known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(
            f"{table.name}: label {unknown[0]!r} in {column!r} (row {values.index(unknown[0])}) is unknown to the "
            f"model, which knows {len(names)}: {known}"
        )
    return [ids[value] for value in values]


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


def label_text(value: Any) -> str:
    """A label as text: `true` or `false`, a number's digits (1.0 is 1), a text as it is."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
