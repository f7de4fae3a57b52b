"""Labels of rows, one each or lists of several: one spelling of each, one id, and a clear word for what is none."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import datasets

from .rows import UnreadableRow
from .tables import Table
from .values import is_nothing, python_value

_ASK = 'rows here have lists of text or numbers, in CSV as JSON, such as ["red", "blue"], or [] for no class'
_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]*)?|True|False"""
_LIST = re.compile(rf"(?:\[|[({{](?=['\"]))\s*((?:{_ITEM})(?:(?:\s*,\s*|\s+)(?:{_ITEM}))*)\s*,?\s*[\])}}]", re.DOTALL)
"""A list, tuple or set as Python writes it, or an array as numpy does."""


def is_multi_label(table: Table, column: str) -> bool:
    """Whether a column holds lists of labels: by its feature; else if the first label is a list, in text as JSON."""
    feature = table.features.get(column)
    if feature is not None and getattr(feature, "dtype", "") not in ("string", "large_string"):
        return is_list(feature)
    there = (value for value in table.rows.values(column) if not isinstance(value, UnreadableRow) and _says(value))
    return as_list(next(there, None)) is not None


def _says(value: Any) -> bool:
    return not (is_nothing(value) or (isinstance(value, str) and not value.strip()))


def is_list(feature: Any) -> bool:
    """Whether a feature of `datasets` is a list."""
    return isinstance(feature, (datasets.List, datasets.LargeList))


def as_list(value: Any) -> list[Any] | None:
    """The list that a cell holds, also as text, as JSON, Python or numpy write it; None if it holds none."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "(", "{"):
        text = value.strip()
        try:
            value = json.loads(text)
        except ValueError:
            found = _LIST.fullmatch(text)
            value = (
                None if found is None else [ast.literal_eval(item) for item in re.findall(_ITEM, found[1], re.DOTALL)]
            )
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy, torch and pandas
    return list(value) if isinstance(value, (list, tuple)) else None


def labels_in(value: Any, feature: Any = None) -> list[str]:
    """The labels that one cell holds, as text, each once, in its order.

    Raises:
        ValueError: It holds no list, or something in it that is no label; the message says what it holds.
    """
    labels = as_list(value)
    if labels is None:
        raise ValueError(f"{str(value)[:40]!r}" if _says(value) else "nothing")
    item = getattr(feature, "feature", None)
    try:
        return list(dict.fromkeys(one_label(label, item) for label in labels))
    except ValueError as error:
        found = str(error).removesuffix(", which is no label,")
        raise ValueError(f"a list with {'an empty label' if found == 'no label' else found}") from None


def one_label(value: Any, feature: Any = None) -> str:
    """The label that one cell holds, as text.

    Raises:
        ValueError: It holds none; the message says what it holds.
    """
    if isinstance(feature, datasets.ClassLabel) and isinstance(value, int):
        value = feature.names[value] if 0 <= value < len(feature.names) else None
    value = python_value(value)
    if not _says(value):
        raise ValueError("no label")
    if not isinstance(value, (str, int, float, Decimal)):
        raise ValueError(f"a {type(value).__name__}, which is no label,")
    return label_text(value)


def label_text(value: Any) -> str:
    """A label in its one spelling, whichever file it stands in: blanks do not count, 1.0 is 1, True is true."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = json.dumps(value) if isinstance(value, bool) else " ".join(str(value).split())
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = re.fullmatch(r"(-?(?:0|[1-9][0-9]*))\.0+", text)
    return text if whole is None else str(int(whole[1]))


def alike(names: Iterable[str]) -> list[list[str]]:
    """Labels that differ in nothing but letter case or the form of their letters, in groups."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def label_values(table: Table, column: str) -> list[str]:
    """The label of every row, as text.

    Raises:
        ValueError: A row has none.
    """
    feature, found, missing = table.features.get(column), list[str](), list[tuple[int, str]]()
    for row, value in enumerate(table.rows.values(column)):
        try:
            found.append(one_label(value, feature) if not isinstance(value, UnreadableRow) else "")
        except ValueError as error:
            if str(error) != "no label":
                what = str(error).partition(",")[0]
                raise ValueError(
                    f"{table.name}: {what} in {column!r} is no label (row {row}); give text or numbers"
                ) from None
            found.append("")
        if not found[-1]:
            missing.append((row, f": {value.reason}" if isinstance(value, UnreadableRow) else ""))
    if missing:
        row, reason = missing[0]
        raise ValueError(
            f"{table.name}: {len(missing)} of {len(found)} rows have no label in {column!r}, row {row} first{reason}; "
            "give every row one or take these rows out"
        )
    return found


def label_lists(table: Table, column: str) -> Iterator[list[str]]:
    """The labels of row after row as text, each once, in the row's order; an empty list is a row of no class.

    Raises:
        ValueError: A row has no list, or something in it that is no label.
    """
    feature = table.features.get(column)
    for row, value in enumerate(table.rows.values(column)):
        try:
            if isinstance(value, UnreadableRow):
                raise ValueError(f"nothing ({value.reason})")
            yield labels_in(value, feature)
        except ValueError as error:
            raise ValueError(f"{table.name}: row {row} has {error} in {column!r}; {_ASK}") from error


def class_names(table: Table, column: str) -> list[str] | None:
    """The classes that a ClassLabel feature names, also where it stands in a list; None if there is none.

    Raises:
        ValueError: Two of them have one spelling.
    """
    feature: Any = table.features.get(column)
    feature = feature.feature if is_list(feature) else feature
    if not isinstance(feature, datasets.ClassLabel):
        return None
    names = [label_text(name) for name in feature.names]
    if len(set(names)) < len(names):
        raise ValueError(f"{table.name}: classes of {column!r} differ in blanks alone: {', '.join(map(repr, names))}")
    return names


def label_names(table: Table, column: str) -> list[str]:
    """The classes, in the order of their ids: a ClassLabel's own, else sorted (numbers by value)."""
    return class_names(table, column) or sort_labels(set(label_values(table, column)))


def multi_label_names(table: Table, column: str) -> list[str]:
    """The classes of lists, as of `label_names`."""
    names = class_names(table, column)
    return names or sort_labels({label for labels in label_lists(table, column) for label in labels})


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
    ids = {label_text(name): index for index, name in enumerate(names)}
    values = label_values(table, column)
    unknown = sorted(set(values) - set(ids))
    if unknown:
        raise _unknown(table, column, unknown[0], values.index(unknown[0]), names)
    return [ids[value] for value in values]


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
    ids = {label_text(name): index for index, name in enumerate(names)}
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    targets = []
    for row, labels in enumerate(label_lists(table, column)):
        target = [0] * len(names)
        for label in labels:
            if label not in ids:
                raise _unknown(table, column, label, row, names)
            target[ids[label]] = 1
        targets.append(shared.setdefault(tuple(target), tuple(target)))
    return targets


def _unknown(table: Table, column: str, label: str, row: int, names: Sequence[str]) -> ValueError:
    known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    near = [name for name in names if len(alike([name, label])) > 0]
    hint = f"; {near[0]!r} differs in letter case alone: make them one" if near else ""
    return ValueError(
        f"{table.name}: label {label!r} in {column!r} (row {row}) is unknown to the model, which knows {len(names)}: "
        f"{known}{hint}"
    )
