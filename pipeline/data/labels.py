"""Rows with several labels each, or none: lists of class names or ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import datasets

from .tables import Table

_ASK = 'rows here have lists of text or numbers, in CSV as JSON, such as ["red", "blue"], or [] for no class'


def is_multi_label(table: Table, column: str) -> bool:
    """Whether a column holds lists of labels: by its feature; in text, as of CSV, if the first label is a JSON list."""
    feature = table.rows.features[column]
    if is_list(feature):
        return True
    if getattr(feature, "dtype", "") not in ("string", "large_string"):
        return False
    first = next((value for value in table.rows[column] if value), None)
    return as_list(first) is not None


def is_list(feature: Any) -> bool:
    """Whether a feature of `datasets` is a list."""
    return isinstance(feature, (datasets.List, datasets.LargeList))


def as_list(value: Any) -> list[Any] | None:
    """The list that a cell holds, also as JSON text; None if it holds none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return list(value) if isinstance(value, (list, tuple)) else None


def label_lists(table: Table, column: str) -> list[list[str]]:
    """The labels of every row as text, each once, in the row's order; an empty list is a row of no class.

    Raises:
        ValueError: A row has no list, or something in it that is no label.
    """
    feature = table.rows.features[column]
    found: list[list[str]] = []
    for row, value in enumerate(table.rows[column]):
        try:
            found.append(labels_in(value, feature))
        except ValueError as error:
            raise ValueError(f"{table.name}: row {row} has {error} in {column!r}; {_ASK}") from error
    return found


def labels_in(value: Any, feature: Any = None) -> list[str]:
    """The labels that one cell holds, as text, each once, in its order.

    Raises:
        ValueError: It holds no list, or something in it that is no label; the message says what it holds.
    """
    labels = as_list(value)
    if labels is None:
        raise ValueError("nothing" if value is None or value == "" else f"{str(value)[:40]!r}")
    item = getattr(feature, "feature", None)
    names = item.names if isinstance(item, datasets.ClassLabel) else None
    return list(dict.fromkeys(_label(label, names) for label in labels))


def multi_label_names(table: Table, column: str) -> list[str]:
    """The classes, in the order of their ids: a ClassLabel's own, else sorted (numbers by value)."""
    named = class_names(table, column)
    return named or sort_labels({label for labels in label_lists(table, column) for label in labels})


def multi_label_targets(table: Table, column: str, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Of every row, for each class 1 if it is there, else 0; equal rows share one tuple.

    Raises:
        ValueError: A label is not among `names`, or a row has no list.
    """
    if not is_multi_label(table, column):
        raise ValueError(
            f"{table.name}: {column!r} has one label for each row, where the model gives lists of labels; give lists, "
            'in CSV as JSON, such as ["red", "blue"]'
        )
    ids = {name: index for index, name in enumerate(names)}
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    targets = []
    for row, labels in enumerate(label_lists(table, column)):
        target = [0] * len(names)
        for label in labels:
            if label not in ids:
                known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise ValueError(
                    f"{table.name}: label {label!r} in {column!r} (row {row}) is unknown to the model, which knows "
                    f"{len(names)}: {known}"
                )
            target[ids[label]] = 1
        targets.append(shared.setdefault(tuple(target), tuple(target)))
    return targets


def _label(label: Any, names: Sequence[str] | None) -> str:
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    if label is None or label != label or label == "" or (names is not None and label == -1):
        raise ValueError("a list with an empty label")
    if not isinstance(label, (str, int, float)):
        raise ValueError(f"a list with a {type(label).__name__}")
    return label_text(label)


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


def label_text(value: Any) -> str:
    """A label as text: `true` or `false`, a number's digits (1.0 is 1), a text as it is."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
