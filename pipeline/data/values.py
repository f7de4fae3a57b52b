"""Empty cells, and values as JSON can hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

DEEPEST = 100
"""Lists and objects inside one another: what is nested deeper ends whatever walks through it."""


def is_nothing(value: Any) -> bool:
    """True of what stands for a gap in a table: None, NaN, and pandas' own NA and NaT, without importing pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(value != value)


def python_value(value: Any) -> Any:
    """A value as Python has it: None for a gap; of numpy and torch what has no dimensions is a number or a text."""
    value = value.tolist() if getattr(value, "ndim", 1) == 0 else value
    return None if is_nothing(value) else value


def to_json(row: Mapping[str, Any]) -> str:
    """One line of strict JSON: what JSON cannot say (NaN, dates, bytes) is null or text."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_valid(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return _valid(str(value))


def _valid(value: Any, depth: int = 0) -> Any:
    """What a file takes, wherever it is: a `?` for what is no Unicode in a text, hex digits of an endless number.

    What is nested deeper than `DEEPEST` is written as text.
    """
    if depth > DEEPEST and isinstance(value, (Mapping, list, tuple)):
        try:
            value = str(value)
        except RecursionError:
            return f"(nested over {DEEPEST} deep)"
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int) and value.bit_length() > 4096:  # Python refuses to write it out in decimal
        return hex(value)
    if not isinstance(value, float) and is_nothing(value):
        return None
    if isinstance(value, Mapping):
        return {_valid(key): _valid(item, depth + 1) for key, item in value.items()}
    return [_valid(item, depth + 1) for item in value] if isinstance(value, (list, tuple)) else value


def _cell(value: Any) -> Any:
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, (Mapping, list, tuple)) else value
